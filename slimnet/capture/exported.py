"""From a network to what ``torch.export`` makes of it, and on to a program as plain data.

The batch is dynamic where the network allows it; a program keeps exactly the free axes it has.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
    tree_unflatten,
)

from slimnet.capture.calls import CONSTANTS, INTEGERS
from slimnet.capture.effects import side_effect
from slimnet.capture.modules import evaluation_mode
from slimnet.capture.permitted import refusal
from slimnet.capture.program import Program
from slimnet.example import is_plain, names_of, plainly
from slimnet.exclusive import exclusive
from slimnet.plain import encode


def record_program(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Any] | None:
    """The network in evaluation mode as plain data; None where torch cannot export it.

    The batch is dynamic where the network allows it. ``model`` stays as it is.
    """
    if isinstance(model, Program):
        return model.plain()
    try:
        encoded = _encoded(export(model, example), example)
        return {**encoded, "arguments": names_of(model)[: len(example)]}
    except Exception:  # whatever torch.export or the user's forward raises, and _NotPlain
        return None


class _NotPlain(Exception):
    """The exported graph holds something that plain data cannot say."""


def export(model: nn.Module, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The network in evaluation mode, as torch.export records it; raises whatever that raises."""
    with quiet(), evaluation_mode(model), torch.no_grad():
        if isinstance(model, Program):
            return _export_program(model, example)
        if not is_plain(model(*_own(example))):
            _answer_plainly(model)
        exported: torch.export.ExportedProgram = _export_any(model, example)
        return exported


def _export_program(program: Program, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """With the free axes that the program has; torch takes a length of one for a constant."""
    leaves, spec = tree_flatten(example)
    free = program.free_axes()
    several = [_doubled(x, axes) for x, axes in zip(leaves, free, strict=True)]
    shapes = [dict.fromkeys(axes, torch.export.Dim.AUTO) or None for axes in free]
    args, named = program.as_called(tree_unflatten(several, spec))
    dynamic = dict(zip(_sign(program, len(example)), tree_unflatten(shapes, spec), strict=True))
    return torch.export.export(program, args, named, dynamic_shapes=dynamic, strict=False)


def _sign(program: Program, count: int) -> list[str]:
    """Give ``forward`` the arguments' names until :func:`evaluation_mode` ends.

    torch's guards of what is written know arguments by name only.
    """
    names = list(program.arguments) or [f"input_{number}" for number in range(count)]
    free = len(names) - len(program.keywords)

    def forward(*inputs: Any, **named: Any) -> Any:
        return Program.forward(program, *inputs, **named)

    forward.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD if n < free else Parameter.KEYWORD_ONLY)
            for n, name in enumerate(names)
        ]
    )
    vars(program)["forward"] = forward
    return names


def _own(example: tuple[Any, ...]) -> Any:
    """A copy: a forward may write into its input."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, example)


def _answer_plainly(model: nn.Module) -> None:
    """Let ``forward`` give dicts for objects, which torch cannot record.

    :func:`evaluation_mode` takes this away again.
    """
    forward = model.forward

    @wraps(forward)
    def plain(*inputs: Any, **named: Any) -> Any:
        return plainly(forward(*inputs, **named))

    vars(model)["forward"] = plain


def _doubled(leaf: Any, axes: Sequence[int]) -> Any:
    for d in axes:
        leaf = torch.cat([leaf, leaf], d) if leaf.shape[d] == 1 else leaf
    return leaf


def _export_any(model: nn.Module, example: tuple[Any, ...]) -> Any:
    """Two samples, so that torch takes the batch for a size and not for the constant 1.

    Where it still finds a constant (a literal batch somewhere), the example's own is kept.
    """
    leaves, spec = tree_flatten(example)
    grows = [isinstance(leaf, Tensor) and leaf.dim() > 1 for leaf in leaves]
    several = [torch.cat([x, x]) if grow else x for x, grow in zip(leaves, grows, strict=True)]
    shapes = [{0: torch.export.Dim.AUTO} if grow else None for grow in grows]
    with suppress(Exception):  # the network may not run on two samples at all
        exported = torch.export.export(
            model,
            tree_unflatten(several, spec),
            dynamic_shapes=tree_unflatten(shapes, spec),
            strict=False,
        )
        if has_free_batch(exported):
            return exported
    return torch.export.export(model, example, strict=False)


def has_free_batch(exported: torch.export.ExportedProgram) -> bool:
    """Whether every input with a batch takes any number of samples."""
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
def quiet() -> Iterator[None]:
    """torch.export warns and logs about its own inner life."""
    with exclusive(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _encoded(exported: Any, example: tuple[Any, ...]) -> dict[str, Any]:
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
    calls = [_call(node) for node in exported.graph.nodes if node.op not in _ENDS]
    if side_effect(calls, (node.name for node in holders)):
        raise _NotPlain
    return {
        "weights": {node.name: weights[node.name] for node in holders if node.name in weights},
        "inputs": [
            {"name": node.name, "path": keystr(path), **_described(node, leaf)}
            for node, (path, leaf) in zip(given, leaves, strict=True)
        ],
        "calls": calls,
        "output": _output(exported),
        "constants": {n: t for n, t in exported.constants.items() if isinstance(t, Tensor)},
        "parameters": list(signature.inputs_to_parameters.values()),
    }


_ENDS = ("placeholder", "output")


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
        if refusal(target) is not None:  # nobody could load it
            raise _NotPlain
        return str(target)
    for name, function in INTEGERS.items():
        if function is target:
            return name
    raise _NotPlain


def _plain(value: Any) -> Any:
    """An argument as plain data; nodes, dtypes and the like become small dicts."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    for name, kind in CONSTANTS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return value
    raise _NotPlain
