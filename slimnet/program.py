"""A network as data: ATen calls that a process without the user's class can run.

``torch.export`` records the network; what is kept is a list of calls in plain values, the weights
by name. Reading it back runs nothing but ATen operators and integer arithmetic, so a file that
holds one cannot run code (``torch.export.load`` unpickles).
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from slimnet.errors import InputError

_INTEGERS = {
    f"operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "eq", "ge", "le", "gt", "lt")
}


def record_program(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Any] | None:
    """The network as plain data and constants; None where torch cannot export it.

    The batch is dynamic where the network allows it.
    """
    with _quiet():
        try:
            exported = _export(model, example)
        except Exception:  # whatever torch.export or the user's forward raises
            return None
    return _encoded(exported)


def _export(model: nn.Module, example: tuple[Any, ...]) -> Any:
    """Two samples, so that torch takes the batch for a size and not for the constant 1."""
    shapes = tuple(
        {0: torch.export.Dim.AUTO} if isinstance(x, Tensor) and x.dim() > 1 else None
        for x in example
    )
    several = tuple(torch.cat([x, x]) if shape else x for x, shape in zip(example, shapes, strict=True))
    with torch.no_grad():
        try:
            return torch.export.export(model, several, dynamic_shapes=shapes, strict=False)
        except Exception:  # a literal batch somewhere: keep the example's
            return torch.export.export(model, example, strict=False)


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


def _encoded(exported: Any) -> dict[str, Any] | None:
    signature = exported.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        return None
    weights = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    nodes, result = [], None
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            nodes.append({"name": node.name, "weight": weights.get(node.name)})
        elif node.op == "call_function":
            target = _target(node.target)
            if target is None:
                return None
            nodes.append(
                {
                    "name": node.name,
                    "target": target,
                    "args": _plain(node.args),
                    "kwargs": {key: _plain(value) for key, value in node.kwargs.items()},
                }
            )
        elif node.op == "output":
            result = _plain(node.args[0])
        else:
            return None
    constants = {
        name: value for name, value in exported.constants.items() if isinstance(value, Tensor)
    }
    spec = treespec_dumps(exported.call_spec.out_spec)
    return {
        "nodes": nodes,
        "output": result,
        "spec": spec,
        "constants": constants,
        "parameters": list(signature.inputs_to_parameters.values()),
    }


def _target(target: Any) -> str | None:
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    name = f"operator.{getattr(target, '__name__', '')}"
    return name if _INTEGERS.get(name) is target else None


def _plain(value: Any) -> Any:
    """An argument as plain data; nodes, dtypes and the like become small dicts."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    for kind, name in _CONSTANTS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    return value


_CONSTANTS: dict[type, str] = {
    torch.dtype: "dtype",
    torch.device: "device",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


class Program(nn.Module):
    """Runs a recorded program, in evaluation mode whatever its flag says."""

    def __init__(self, program: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._program = dict(program)
        self._stored = dict(program["constants"]) | dict(tensors)
        self._weights = nn.ParameterDict()
        try:
            self._calls = [_Call(node) for node in program["nodes"]]
            self._spec = treespec_loads(program["spec"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the embedded program cannot be read: {error}") from error
        for name in program["parameters"]:
            self._weights[_key(name)] = nn.Parameter(tensors[name])

    def forward(self, *inputs: Any) -> Any:
        """Run the calls in order."""
        given = iter(tree_flatten(inputs)[0])
        values: dict[str, Any] = {}
        for call in self._calls:
            values[call.name] = call.run(values, given, self._weight)
        result = _decoded(self._program["output"], values)
        return tree_unflatten(result, self._spec)

    def _weight(self, name: str) -> Any:
        key = _key(name)
        return self._weights[key] if key in self._weights else self._stored[name]


def _key(name: str) -> str:
    """A parameter's name as an attribute: dots would nest."""
    return name.replace(".", "__")


class _Call:
    """One node: an input, a weight, or an operator."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        self.name: str = node["name"]
        self.weight: str | None = node.get("weight")
        self.function = _resolve(node["target"]) if "target" in node else None
        self.args = node.get("args", [])
        self.kwargs = node.get("kwargs", {})

    def run(self, values: Mapping[str, Any], given: Any, weight: Any) -> Any:
        """The node's value."""
        if self.function is None:
            return weight(self.weight) if self.weight is not None else next(given)
        named = {key: _decoded(value, values) for key, value in self.kwargs.items()}
        return self.function(*(_decoded(arg, values) for arg in self.args), **named)


def _resolve(target: str) -> Any:
    """An ATen overload or integer operator by name; anything else is refused."""
    if target in _INTEGERS:
        return _INTEGERS[target]
    namespace, _, rest = target.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace != "aten" or not packet.isidentifier() or not overload.isidentifier():
        raise ValueError(f"{target!r} is no ATen operator")
    return getattr(getattr(torch.ops.aten, packet), overload)


def _decoded(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, values) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, name),) = value.items()
    if kind == "node":
        return values[name]
    if kind == "device":
        return torch.device(name)
    return getattr(torch, name)
