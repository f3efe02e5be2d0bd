"""From the JSON of an exported graph to the calls of a program.

A node becomes one call (and one more for each of several results); a block that only turns
gradients off is put in place; checks of types and sizes are left out. Anything else that a program
cannot say is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from slimnet.errors import InputError
from slimnet.program.archive import DTYPES


@dataclass
class Names:
    """What the names of a graph stand for in the program; an inner graph has its own."""

    prefix: str = ""
    known: dict[str, Any] = field(default_factory=dict)

    def own(self, name: str) -> str:
        """The program's name for a result of this graph."""
        return self.prefix + name

    def read(self, name: str) -> Any:
        """What an argument of this name becomes."""
        return self.known.get(name, {"node": self.prefix + name})


def calls_of(graph: Mapping[str, Any], names: Names) -> Iterator[dict[str, Any]]:
    """The calls of a graph in order; ``names`` learns where its results are."""
    for number, node in enumerate(graph["nodes"]):
        target = _target(node["target"])
        if target.startswith("higher_order."):
            yield from _inlined(node, target, number, names)
        elif not target.startswith(_CHECKS):
            yield from _call(node, target, number, names)


_CHECKS = (
    *("aten._assert_tensor_metadata", "aten._assert_scalar", "aten._assert_async"),
    "aten.sym_constrain_range",
)
"""Calls that only check their arguments; some check a type, and the proof uses another one."""


def _target(stored: str) -> str:
    name = stored.removeprefix("torch.ops.").replace("_operator.", "operator.", 1)
    if not name.startswith(("aten.", "operator.", "math.", "torch.sym_", "higher_order.")):
        raise InputError(f"it calls {name}, which is no operator of PyTorch itself: it cannot run")
    return name


def _call(
    node: Mapping[str, Any], target: str, number: int, names: Names
) -> Iterator[dict[str, Any]]:
    rows = [(row["kind"], row["name"], value_of(row["arg"], names)) for row in node["inputs"]]
    args = [value for kind, _, value in rows if kind != _KEYWORD]
    kwargs = {name: value for kind, name, value in rows if kind == _KEYWORD}
    call = {"target": target, "args": args, "kwargs": kwargs, "site": _site(node["metadata"])}
    outputs = node["outputs"]
    if len(outputs) == 1 and not outputs[0].keys() & _SEVERAL:
        yield {"name": names.own(_name(outputs[0]) or f"({number})"), **call}
        return
    whole = names.own(f"({number})")
    yield {"name": whole, **call}
    for place, output in enumerate(_each(outputs)):
        name = _name(output)
        if name is not None:
            own = {"name": names.own(name), "args": [{"node": whole}, place], "kwargs": {}}
            yield {"target": "operator.getitem", **own}


_KEYWORD = 2  # the schema's ArgumentKind
_SEVERAL = {"as_tensors", "as_optional_tensors", "as_sym_ints", "as_nested_tensors"}


def _each(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """One row for each result of an operator that gives several, or a list."""
    for output in outputs:
        ((kind, content),) = output.items()
        if kind == "as_tensors":
            yield from ({"as_tensor": entry} for entry in content)
        elif kind in _SEVERAL:
            raise InputError(f"one of its operators gives {kind[3:].replace('_', ' ')}")
        else:
            yield output


def _name(output: Mapping[str, Any]) -> str | None:
    """The name of one result; None for one that is not there."""
    ((kind, content),) = output.items()
    if kind == "as_none":
        return None
    return str(content["name"] if kind == "as_tensor" else content["as_name"])


def _inlined(
    node: Mapping[str, Any], target: str, number: int, names: Names
) -> Iterator[dict[str, Any]]:
    """The calls of a block that ran without gradients, in place of the block."""
    if target != "higher_order.wrap_with_set_grad_enabled":
        raise InputError(f"it calls {target.partition('.')[2]}, whose body cannot be followed")
    _, block, *arguments = [row["arg"] for row in node["inputs"]]
    graph = block["as_graph"]["graph"]
    inner = Names(names.own(f"({number})"))
    for own, outer in zip(graph["inputs"], arguments, strict=True):
        name = _name(own)
        if name is not None:
            inner.known[name] = value_of(outer, names)
    yield from calls_of(graph, inner)
    for outer, own in zip(_each(node["outputs"]), graph["outputs"], strict=True):
        name = _name(outer)
        if name is not None:
            names.known[name] = value_of(own, inner)


def value_of(argument: Mapping[str, Any], names: Names | None = None) -> Any:
    """An argument in the terms of a program."""
    ((kind, content),) = argument.items()
    if kind not in _VALUES:
        raise InputError(f"one of its arguments is {kind[3:].replace('_', ' ')}, which is not read")
    return _VALUES[kind](content, names or Names())


def _as_is(content: Any, _: Names) -> Any:
    return content


def _number(content: Any, _: Names) -> Any:
    return [float(x) for x in content] if isinstance(content, list) else float(content)


def _symbol(content: Mapping[str, Any], names: Names) -> Any:
    """A number by the name of what computes it, or the number itself."""
    ((kind, value),) = content.items()
    return names.read(value) if kind == "as_name" else value


def _constant(kind: str, table: Mapping[int, Any]) -> Callable[[Any, Names], Any]:
    return lambda content, _: {kind: str(table[content]).removeprefix("torch.")}


def _each_of(one: Callable[[Any, Names], Any]) -> Callable[[Any, Names], Any]:
    return lambda content, names: [one(entry, names) for entry in content]


def _tensor(content: Mapping[str, Any], names: Names) -> Any:
    return names.read(content["name"])


_LAYOUTS = {7: "strided"}
_MEMORY_FORMATS = {
    1: "contiguous_format",
    2: "channels_last",
    3: "channels_last_3d",
    4: "preserve_format",
}
_VALUES: dict[str, Callable[[Any, Names], Any]] = {
    "as_none": lambda *_: None,
    "as_tensor": _tensor,
    "as_tensors": _each_of(_tensor),
    "as_optional_tensor": value_of,
    "as_optional_tensors": _each_of(value_of),
    "as_nested_tensors": _each_of(_each_of(_tensor)),
    "as_int": _as_is,
    "as_ints": _as_is,
    "as_int_lists": _as_is,
    "as_bool": _as_is,
    "as_bools": _as_is,
    "as_string": _as_is,
    "as_strings": _as_is,
    "as_float": _number,  # infinity and NaN are stored as their names
    "as_floats": _number,
    "as_complex": lambda content, _: complex(content["real"], content["imag"]),
    **{f"as_sym_{kind}": _symbol for kind in ("int", "float", "bool")},
    **{f"as_sym_{kind}s": _each_of(_symbol) for kind in ("int", "float", "bool")},
    "as_scalar_type": _constant("dtype", DTYPES),
    "as_layout": _constant("layout", _LAYOUTS),
    "as_memory_format": _constant("memory_format", _MEMORY_FORMATS),
    "as_device": lambda *_: {"device": "cpu"},  # where the weights are decides
}


def _site(metadata: Mapping[str, str]) -> list[Any]:
    """The user's line, the module's path and the name of its class."""
    frames = _FRAME.findall(metadata.get("stack_trace", ""))
    own = [frame for frame in frames if not _NOT_USERS.search(frame[0])]
    file, line, function = own[-1] if own else ("", 0, "")
    stack = metadata.get("nn_module_stack", "").rpartition(";")[2].split(",")
    named = len(stack) == 3 and not stack[1].startswith("_empty")  # of calls that torch adds
    path, kind = (stack[1], stack[2]) if named else ("", "")
    module, _, _ = path.partition("@")  # a module that is called again has a number
    return [PurePath(file).name, int(line), function, module, kind.rpartition(".")[2]]


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_NOT_USERS = re.compile(
    r"(^|[/\\])(torch[/\\]|slimnet[/\\](((program|capture)[/\\]\w+)|program)\.py$)"
)
"""Of a program that was exported again also the files of slimnet that ran it, now or earlier."""
