"""From a network to what ``torch.export`` makes of it, and on to a program as plain data.

The batch is dynamic where the network allows it; a program keeps exactly the free axes it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
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

from slimnet.capture.modules import evaluation_mode
from slimnet.capture.randomness import drawing_from
from slimnet.example import is_plain, map_tensors, names_of, plainly, tensors_of
from slimnet.network import Network
from slimnet.plain import encode
from slimnet.program.calls import CONSTANTS, INTEGERS
from slimnet.program.effects import side_effect
from slimnet.program.permitted import refusal
from slimnet.program.program import Program
from slimnet.quiet import quiet


def record_program(network: Network, example: tuple[Any, ...]) -> dict[str, Any] | None:
    """The network in evaluation mode as plain data; None where torch cannot export it.

    The batch is dynamic where the network allows it. The program has run on the example and, with a
    dynamic batch, on another one, and gave what the network gives. The model stays as it is.
    """
    if isinstance(network.model, Program):
        return network.model.plain()
    for free in (True, False):
        with suppress(Exception):  # whatever torch.export or the user's forward raises
            return _proven_program(network, example, free=free)
    return None


def _proven_program(network: Network, example: tuple[Any, ...], *, free: bool) -> dict[str, Any]:
    encoded = _encoded(_export(network, example, free=free), example, network.own_name)
    program = {**encoded, "arguments": names_of(network.model)[: len(example)]}
    _check(network, Program(program, network.tensors).eval(), example, free=free)
    return program


class _NotPlain(Exception):
    """The exported graph holds something that plain data cannot say."""


class _Unlike(Exception):
    """What was exported does not compute what the network computes."""


def export(network: Network, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The network in evaluation mode, as torch.export records it; raises whatever that raises.

    Its batch is free where what was recorded gives the network's results at two batch sizes.
    """
    if isinstance(network.model, Program):
        with quiet(), evaluation_mode(network), torch.no_grad():
            return _export_program(network.model, example)
    with suppress(Exception):
        exported = _export(network, example, free=True)
        _check(network, exported.module(), example, free=True)
        return exported
    return _export(network, example, free=False)


def _export(
    network: Network, example: tuple[Any, ...], *, free: bool
) -> torch.export.ExportedProgram:
    model = network.model
    with quiet(), evaluation_mode(network), torch.no_grad():
        if not is_plain(model(*map_tensors(Tensor.clone, example))):
            _return_dicts(model)
        if free:
            return _export_free(model, example)
        exported: Any = torch.export.export(model, example, strict=False)
        return exported  # type: ignore[no-any-return]


def _check(
    network: Network, other: Callable[..., Any], example: tuple[Any, ...], *, free: bool
) -> None:
    """Raise where the two differ on the example or, with a ``free`` batch, on three samples.

    The batch that was recorded may have become a constant inside, as ``int(x.shape[0])`` does.
    """
    for inputs in (example, _three(example)) if free else (example,):
        ours, theirs = (_outputs(run, inputs, network) for run in (network.model, other))
        if len(ours) != len(theirs) or not all(map(_alike, ours, theirs)):
            raise _Unlike


def _outputs(run: Callable[..., Any], inputs: tuple[Any, ...], network: Network) -> list[Tensor]:
    with quiet(), evaluation_mode(network), torch.no_grad(), drawing_from(0):
        return tensors_of(run(*map_tensors(Tensor.clone, inputs)))


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()) or not a.numel():
        return torch.equal(a, b)
    half_its_digits = torch.finfo(a.dtype).eps ** 0.5
    scale = float(a.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(a, b, half_its_digits, half_its_digits * scale, equal_nan=True)


def _three(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Three samples in place of one, made of the same numbers."""
    return tuple(
        tree_map(
            lambda leaf: torch.cat([leaf.roll(n, -1) for n in range(3)]) if _grows(leaf) else leaf,
            entry,
        )
        for entry in example
    )


def _grows(leaf: Any) -> bool:
    """Whether an input has a batch."""
    return isinstance(leaf, Tensor) and leaf.dim() > 1


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


def _return_dicts(model: nn.Module) -> None:
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


def _export_free(model: nn.Module, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """Two samples, so that torch takes the batch for a size and not for the constant 1."""
    leaves, spec = tree_flatten(example)
    several = [torch.cat([x, x]) if _grows(x) else x for x in leaves]
    shapes = [{0: torch.export.Dim.AUTO} if _grows(x) else None for x in leaves]
    exported: torch.export.ExportedProgram = torch.export.export(
        model,
        tree_unflatten(several, spec),
        dynamic_shapes=tree_unflatten(shapes, spec),
        strict=False,
    )
    if not has_free_batch(exported):
        raise _Unlike
    return exported


def has_free_batch(exported: torch.export.ExportedProgram) -> bool:
    """Whether every input with a batch takes any number of samples."""
    inputs = set(exported.graph_signature.user_inputs)
    shapes = [
        node.meta["val"].shape
        for node in exported.graph.nodes
        if node.op == "placeholder"
        and node.name in inputs
        and _is_tensor(node)
        and node.meta["val"].dim() > 1
    ]
    return bool(shapes) and all(not isinstance(shape[0], int) for shape in shapes)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _encoded(
    exported: Any, example: tuple[Any, ...], names: Callable[[str], str]
) -> dict[str, Any]:
    signature = exported.graph_signature
    lifted = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    weights = {node: names(name) for node, name in lifted.items()}
    holders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    inputs = [node for node in holders if node.name not in weights]
    leaves, _ = tree_flatten_with_path(example)
    if len(inputs) != len(leaves):
        raise _NotPlain
    calls = [_call(node) for node in exported.graph.nodes if node.op not in _ENDS]
    if side_effect(calls, (node.name for node in holders)):
        raise _NotPlain
    return {
        "weights": {node.name: weights[node.name] for node in holders if node.name in weights},
        "inputs": [
            {"name": node.name, "path": keystr(path), **_described(node, leaf)}
            for node, (path, leaf) in zip(inputs, leaves, strict=True)
        ],
        "calls": calls,
        "output": _output(exported),
        "constants": {n: t for n, t in exported.constants.items() if isinstance(t, Tensor)},
        "parameters": list(dict.fromkeys(map(names, signature.inputs_to_parameters.values()))),
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
        if refusal(target) is not None:  # a program with it would be refused
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
