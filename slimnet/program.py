"""A network as data: ATen calls that a process without the user's class can run.

``torch.export`` records the network; what is kept is a list of calls in plain values, the weights
by name. Reading it back runs nothing but ATen operators on tensors and integer arithmetic, so a
file that holds one cannot run code (``torch.export.load`` unpickles) nor touch other files.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from slimnet.errors import InputError
from slimnet.modules import evaluation_mode
from slimnet.plain import decode, encode

_INTEGERS = {
    f"operator.{name}": getattr(operator, name)
    for name in (
        *("add", "sub", "mul", "floordiv", "mod", "neg", "getitem"),
        *("eq", "ne", "ge", "le", "gt", "lt"),
    )
}


def record_program(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Any] | None:
    """The network in evaluation mode as plain data; None where torch cannot export it.

    The batch is dynamic where the network allows it. ``model`` stays as it is.
    """
    with _quiet(), evaluation_mode(model):
        try:
            exported = _export(model, example)
        except Exception:  # whatever torch.export or the user's forward raises
            return None
    try:
        return _encoded(exported, example)
    except _NotPlain:
        return None


class _NotPlain(Exception):
    """The exported graph holds something that plain data cannot say."""


def _export(model: nn.Module, example: tuple[Any, ...]) -> Any:
    """Two samples, so that torch takes the batch for a size and not for the constant 1.

    Where it still finds a constant (a literal batch somewhere), the example's own is kept.
    """
    leaves, spec = tree_flatten(example)
    grows = [isinstance(leaf, Tensor) and leaf.dim() > 1 for leaf in leaves]
    several = [torch.cat([x, x]) if grow else x for x, grow in zip(leaves, grows, strict=True)]
    shapes = [{0: torch.export.Dim.AUTO} if grow else None for grow in grows]
    with torch.no_grad():
        with suppress(Exception):  # the network may not run on two samples at all
            exported = torch.export.export(
                model,
                tree_unflatten(several, spec),
                dynamic_shapes=tree_unflatten(shapes, spec),
                strict=False,
            )
            if _has_free_batch(exported):
                return exported
        return torch.export.export(model, example, strict=False)


def _has_free_batch(exported: Any) -> bool:
    given = set(exported.graph_signature.user_inputs)
    shapes = [
        node.meta["val"].shape
        for node in exported.graph.nodes
        if node.op == "placeholder"
        and node.name in given
        and _is_tensor(node)
        and node.meta["val"].dim() > 1
    ]
    return bool(shapes) and all(not isinstance(shape[0], int) for shape in shapes)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns and logs about its own inner life."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _encoded(exported: Any, example: tuple[Any, ...]) -> dict[str, Any]:
    if _writes_outside(exported.graph.nodes):
        raise _NotPlain
    signature = exported.graph_signature
    weights = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    holders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    given = [node for node in holders if node.name not in weights]
    leaves, _ = tree_flatten_with_path(example)
    if len(given) != len(leaves):
        raise _NotPlain
    return {
        "weights": {node.name: weights[node.name] for node in holders if node.name in weights},
        "inputs": [
            {"name": node.name, "path": keystr(path), **_described(node, leaf)}
            for node, (path, leaf) in zip(given, leaves, strict=True)
        ],
        "calls": [_call(node) for node in exported.graph.nodes if node.op not in _ENDS],
        "output": _output(exported),
        "constants": {n: t for n, t in exported.constants.items() if isinstance(t, Tensor)},
        "parameters": list(signature.inputs_to_parameters.values()),
    }


_ENDS = ("placeholder", "output")


def _writes_outside(nodes: Iterable[fx.Node]) -> bool:
    """Whether a call writes into a weight or an input, or into a view of one."""
    shared: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder":
            shared.add(node)
        elif isinstance(node.target, torch._ops.OpOverload):
            schema = node.target._schema
            for argument, value in zip(schema.arguments, node.args, strict=False):
                if (
                    value in shared
                    and (alias := argument.alias_info) is not None
                    and alias.is_write
                ):
                    return True
            if _may_alias(node.target) and shared.intersection(node.all_input_nodes):
                shared.add(node)
        elif node.target is operator.getitem and node.args[0] in shared:
            shared.add(node)
    return False


def _may_alias(op: torch._ops.OpOverload) -> bool:
    """Views say so in their schema; dropouts hand back their input in evaluation mode."""
    returned = any(found.alias_info is not None for found in op._schema.returns)
    return returned or "dropout" in op._schema.name


def _described(node: fx.Node, leaf: Any) -> dict[str, Any]:
    """What an input must be: a tensor of this shape (None: any length), or this very value."""
    if not _is_tensor(node):
        return {"value": _plain(leaf)}
    return {"shape": [n if isinstance(n, int) else None for n in node.meta["val"].shape]}


def _call(node: fx.Node) -> dict[str, Any]:
    if node.op != "call_function":
        raise _NotPlain
    return {
        "name": node.name,
        "target": _target(node.target),
        "args": _plain(node.args),
        "kwargs": {key: _plain(value) for key, value in node.kwargs.items()},
    }


def _output(exported: Any) -> dict[str, Any]:
    """The output's containers, around the calls whose results they hold."""
    node = next(node for node in exported.graph.nodes if node.op == "output")
    tree = tree_unflatten(list(node.args[0]), exported.call_spec.out_spec)
    return encode(tree, _plain)


def _target(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    name = f"operator.{getattr(target, '__name__', '')}"
    if _INTEGERS.get(name) is not target:
        raise _NotPlain
    return name


def _plain(value: Any) -> Any:
    """An argument as plain data; nodes, dtypes and the like become small dicts."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    for name, kind in _CONSTANTS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return value
    raise _NotPlain


_CONSTANTS: dict[str, type] = {
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


class Program(nn.Module):
    """Runs a recorded program, in evaluation mode whatever its flag says.

    Raises :class:`InputError` for a program that is damaged or holds anything but ATen operators.
    """

    def __init__(
        self, program: Mapping[str, Any], tensors: Mapping[str, Tensor], frozen: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.weights = nn.Module()
        try:
            self._calls = [_Call(call) for call in program["calls"]]
            self._inputs = [_Input(row) for row in program["inputs"]]
            self._names = dict(program["weights"])
            self._output = program["output"]
            parameters = set(program["parameters"]) - set(frozen)
            stored = {**program["constants"], **tensors}
            for name in dict.fromkeys(self._names.values()):
                _place(self.weights, name, stored[name], name in parameters)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the embedded program cannot be read: {error}") from error

    def forward(self, *inputs: Any) -> Any:
        """Run the calls in order; raises :class:`InputError` for inputs of another kind."""
        values = self._given(inputs)
        held = {name: _held(self.weights, path) for name, path in self._names.items()}
        values |= held
        device = next((x.device for x in values.values() if isinstance(x, Tensor)), None)
        for call in self._calls:
            values[call.name] = call.run(values, device or torch.device("cpu"))
        return decode(self._output, lambda leaf: _decoded(leaf, values, device))

    def _given(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        given = {keystr(path): leaf for path, leaf in tree_flatten_with_path(inputs)[0]}
        if given.keys() != {row.path for row in self._inputs} or not all(
            row.accepts(given[row.path]) for row in self._inputs
        ):
            wanted = ", ".join(map(str, self._inputs))
            raise InputError(
                f"this program was recorded for the inputs {wanted}; to run it on others, load the "
                "network with its class: slimnet.load(file, into=make_model())"
            )
        return {row.name: given[row.path] for row in self._inputs}


def _place(root: nn.Module, name: str, tensor: Tensor, trains: bool) -> None:
    """Hold a tensor under its dotted name, whatever the attributes of ``nn.Module`` are called."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is no tensor")
    *path, leaf = name.split(".")
    for part in path:
        root = root._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
    if trains:
        root._parameters[leaf] = nn.Parameter(tensor)
    else:
        root._buffers[leaf] = tensor


def _held(root: nn.Module, name: str) -> Any:
    *path, leaf = name.split(".")
    for part in path:
        root = root._modules[part]  # type: ignore[assignment]
    return root._parameters[leaf] if leaf in root._parameters else root._buffers[leaf]


class _Input:
    """One leaf of the inputs: a tensor of a shape, or a value that the program has built in."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.name: str = row["name"]
        self.path: str = row["path"]
        self.shape: Sequence[int | None] | None = row.get("shape")
        self.value = row.get("value")

    def accepts(self, leaf: Any) -> bool:
        """Whether the program may run on it."""
        if self.shape is None:
            return type(leaf) is type(self.value) and bool(leaf == self.value)
        if not isinstance(leaf, Tensor) or leaf.dim() != len(self.shape):
            return False
        return all(n in (None, m) for n, m in zip(self.shape, leaf.shape, strict=True))

    def __str__(self) -> str:
        if self.shape is None:
            return repr(self.value)
        return "x".join("N" if n is None else str(n) for n in self.shape)


class _Call:
    """One operator and what it is called with."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.name: str = row["name"]
        self.function = _resolve(row["target"])
        self.args: Sequence[Any] = row["args"]
        self.kwargs: Mapping[str, Any] = row["kwargs"]

    def run(self, values: Mapping[str, Any], device: torch.device) -> Any:
        """The operator's result."""
        named = {key: _decoded(value, values, device) for key, value in self.kwargs.items()}
        return self.function(*(_decoded(arg, values, device) for arg in self.args), **named)


def _resolve(target: str) -> Callable[..., Any]:
    """An ATen overload or integer operator by name; anything else is refused."""
    if target in _INTEGERS:
        return _INTEGERS[target]  # type: ignore[no-any-return]
    namespace, _, rest = target.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace != "aten" or not packet.isidentifier() or not overload.isidentifier():
        raise ValueError(f"{target!r} is no ATen operator")
    found = getattr(getattr(torch.ops.aten, packet), overload)
    if any(argument.name == "filename" for argument in found._schema.arguments):
        raise ValueError(f"{target!r} reads or writes files")  # aten.save, aten.from_file
    return found  # type: ignore[no-any-return]


def _decoded(value: Any, values: Mapping[str, Any], device: torch.device | None) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, values, device) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, name),) = value.items()
    if kind == "node":
        return values[name]
    if kind == "device":
        return device  # where the weights are now, not where they were recorded
    found = getattr(torch, name)
    if not isinstance(found, _CONSTANTS[kind]):
        raise InputError(f"the embedded program is damaged: {name!r} is no {kind}")
    return found
