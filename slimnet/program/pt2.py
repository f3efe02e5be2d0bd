"""From a ``.pt2`` file to a program, which runs without any class and without code of the file.

The graph in the archive is JSON; each node becomes one call of a
:class:`~slimnet.program.program.Program`. Nothing is evaluated: of symbolic sizes only "fixed" or
"free" matters, containers of inputs and outputs are rebuilt from their description. Everything that
a program cannot say is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

from slimnet import limits
from slimnet.errors import InputError
from slimnet.plain import encode
from slimnet.program.archive import DTYPES, Archive, read_archive, reading
from slimnet.program.effects import side_effect
from slimnet.program.nodes import Names, calls_of, value_of
from slimnet.program.program import Program, is_input


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported program that runs, with inputs that it accepts."""

    program: Program
    example: tuple[Any, ...]
    extra: Mapping[str, str]  # other texts that lie in the file, by name


def read_pt2(path: str | Path) -> Exported:
    """Read a file that ``torch.export.save`` wrote; raises :class:`InputError`."""
    archive = read_archive(path)
    with reading(path):
        return _exported(archive)


def _exported(archive: Archive) -> Exported:
    graph, signature, names = archive.graph["graph"], archive.graph["signature"], Names()
    call = archive.graph["module_call_graph"][0]["signature"]
    inputs, weights, parameters = _inputs(signature["input_specs"], graph["tensor_values"])
    arguments, keywords = _arguments(call["in_spec"], len(inputs))
    paths = [keystr(path) for path, _ in tree_flatten_with_path(arguments)[0]]
    calls = list(calls_of(graph, names))
    effect = side_effect(calls, (*weights, *(row.name for row in inputs)))
    if effect is not None:
        raise InputError(f"{effect}: export model.eval(), without state that a pass changes")
    data = {
        "inputs": [row.plain(path) for row, path in zip(inputs, paths, strict=True)],
        "arguments": _argument_names(call.get("forward_arg_names"), arguments, keywords),
        "keywords": keywords,
        "weights": weights,
        "calls": calls,
        "output": _output(call["out_spec"], signature["output_specs"], names),
        "constants": {},
        "parameters": parameters,
    }
    tensors = {name: archive.tensors[name] for name in weights.values()}
    example = _sample(archive.sample, inputs, paths) or _drawn(call["in_spec"], inputs)
    program = Program(data, tensors, archive.frozen, example).eval()
    return Exported(program, example, archive.extra)


def _drawn(spec: str, inputs: Sequence[_GraphInput]) -> tuple[Any, ...]:
    """Inputs as the graph describes them, where no others lie in the file."""
    limits.check_example((row.lengths, row.dtype) for row in inputs if row.shape is not None)
    return _positional(_tree(spec, iter([row.drawn() for row in inputs])))


@dataclass(frozen=True, eq=False)
class _GraphInput:
    """A leaf of the inputs: a tensor (its free axes None, and a length for each), or a value."""

    name: str
    shape: tuple[int | None, ...] | None = None
    lengths: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    value: Any = None

    def plain(self, path: str) -> dict[str, Any]:
        kind = {"value": self.value} if self.shape is None else {"shape": list(self.shape)}
        return {"name": self.name, "path": path, **kind}

    def accepts(self, leaf: Any) -> bool:
        """Whether a stored sample is what the graph says."""
        fits = is_input(leaf, self.shape, self.value)
        return fits and (self.shape is None or leaf.dtype == self.dtype)

    def drawn(self) -> Any:
        """Numbers of this shape: random ones, or zeros for integers."""
        if self.shape is None:
            return self.value
        if not self.dtype.is_floating_point:
            return torch.zeros(self.lengths, dtype=self.dtype)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.lengths, generator=generator).to(self.dtype)


def _inputs(
    specs: Sequence[Mapping[str, Any]], tensors: Mapping[str, Any]
) -> tuple[list[_GraphInput], dict[str, str], list[str]]:
    """What the user gives; the weights by the name of their node; which are parameters."""
    inputs: list[_GraphInput] = []
    weights: dict[str, str] = {}
    parameters: list[str] = []
    for spec in specs:
        ((kind, row),) = spec.items()
        if kind in _WEIGHTS:
            weights[row["arg"]["name"]] = row[_WEIGHTS[kind]]
            parameters += [row[_WEIGHTS[kind]]] if kind == "parameter" else []
        elif kind == "constant_input":
            inputs.append(_GraphInput(row["name"], value=value_of(row["value"])))
        elif kind == "user_input":
            inputs.append(_input(row["arg"], tensors, len(inputs)))
        else:
            raise InputError(f"it takes a {kind.replace('_', ' ')}, which is not read")
    return inputs, weights, parameters


_WEIGHTS = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


def _input(argument: Mapping[str, Any], tensors: Mapping[str, Any], place: int) -> _GraphInput:
    ((kind, content),) = argument.items()
    if kind != "as_tensor":
        if kind.startswith("as_sym"):
            raise InputError("one of its inputs is a free number: only tensors may vary")
        return _GraphInput(f"(input {place})", value=value_of(argument))
    meta = tensors[content["name"]]
    return _GraphInput(
        content["name"],
        tuple(size.get("as_int") for size in meta["sizes"]),
        tuple(_length(size) for size in meta["sizes"]),
        DTYPES[meta["dtype"]],
    )


def _length(size: Mapping[str, Any]) -> int:
    """A fixed length, or the one that the program was exported with."""
    if "as_int" in size:
        return int(size["as_int"])
    hint = size["as_expr"].get("hint") or {}
    return int(hint.get("as_int", 2))


def _arguments(spec: str, leaves: int) -> tuple[tuple[Any, ...], list[str]]:
    """The inputs' containers around numbers, and which of them are given by name."""
    tree = _tree(spec, iter(range(leaves)))
    return _positional(tree), list(tree[1])


def _argument_names(
    stored: list[str] | None, arguments: tuple[Any, ...], keywords: list[str]
) -> list[str]:
    """What ``forward`` calls its arguments; made up where the file does not say."""
    count = len(arguments) - len(keywords)
    if stored is not None and len(stored) == len(arguments) and stored[count:] == keywords:
        return stored
    return [*(f"input_{number}" for number in range(count)), *keywords]


def _positional(tree: Any) -> tuple[Any, ...]:
    args, kwargs = tree
    return (*args, *kwargs.values())


def _tree(spec: str, leaves: Iterator[Any]) -> Any:
    """Containers as torch's pytree describes them, around these leaves."""
    protocol, described = limits.from_json(spec, "what describes its inputs")
    if protocol != 1:
        raise InputError(f"its inputs are described in version {protocol}, and 1 can be read")
    tree = _container(described, leaves)
    if next(leaves, leaves) is not leaves:
        raise InputError("it names fewer inputs or outputs than it has")
    return tree


def _container(described: Mapping[str, Any], leaves: Iterator[Any]) -> Any:
    kind: str | None = described["type"]
    if kind is None:
        return _next(leaves)
    entries = [_container(child, leaves) for child in described["children_spec"]]
    if kind in ("builtins.dict", "collections.OrderedDict"):
        keys = limits.from_json(described["context"], "what describes its inputs")
        return dict(zip(map(limits.checked_key, keys), entries, strict=True))
    if kind == "builtins.list":
        return entries
    if kind in ("builtins.tuple", "collections.namedtuple") or kind.startswith(_RETURNED):
        return tuple(entries)
    raise InputError(
        f"it takes or returns a {kind}, of which only that class knows what it holds: export a "
        "network whose inputs and outputs are tuples, lists and dicts"
    )


_RETURNED = "torch.return_types."


def _next(leaves: Iterator[Any]) -> Any:
    for leaf in leaves:
        return leaf
    raise InputError("it names more inputs or outputs than it has")


def _sample(sample: Any, inputs: Sequence[_GraphInput], paths: Sequence[str]) -> Any:
    """The stored inputs, where they are what the graph says."""
    try:
        example = _positional(sample)
    except (TypeError, ValueError, AttributeError):
        return None
    leaves = tree_flatten_with_path(example)[0]
    fits = [keystr(path) for path, _ in leaves] == list(paths) and all(
        row.accepts(leaf) for row, (_, leaf) in zip(inputs, leaves, strict=True)
    )
    return example if fits else None


def _output(spec: str, rows: Sequence[Mapping[str, Any]], names: Names) -> dict[str, Any]:
    """The output's containers, around the values that they hold."""
    leaves = [_Leaf(_result(row, names)) for row in rows]
    return encode(_tree(spec, iter(leaves)), lambda leaf: leaf.value)


@dataclass(frozen=True)
class _Leaf:
    """Keeps a described value from being taken for a container."""

    value: Any


def _result(spec: Mapping[str, Any], names: Names) -> Any:
    ((kind, row),) = spec.items()
    if kind == "user_output":
        return value_of(row["arg"], names)
    written = next((value for key, value in row.items() if key.endswith("_name")), kind)
    raise InputError(
        f"a pass writes into {written}: export model.eval(), without state that a pass changes"
    )
