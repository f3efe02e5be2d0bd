"""Which parameters, all zero, make a tensor exactly zero.

Walks back from the end of a branch, through operators that keep zeros, to the last affine layers:
the scale and bias of a norm, the weight and bias of a convolution or product, a layer scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from slimnet.capture.graph import Call, Calls, DataflowGraph, Ref, base

Needed: TypeAlias = "list[list[Any]]"
"""Alternatives; of each, every argument must be zero for the result to be."""


def silencers(graph: DataflowGraph, ref: Ref, calls: Calls) -> tuple[str, ...] | None:
    """Parameters read by these calls alone that silence ``ref``; None where there are none."""
    if ref.kind == "parameter" and ref.name:
        return (ref.name,) if graph.readers_of(ref.name) <= calls else None
    call = graph.made.get(ref.id)
    if call is None or call.index not in calls:
        return None
    for needed in needed_by(call):
        found = [silencers(graph, x, calls) if isinstance(x, Ref) else None for x in needed]
        if all(names is not None for names in found):
            return tuple(dict.fromkeys(name for names in found for name in names or ()))
    return None


def needed_by(call: Call) -> Needed:
    """What must be zero for the call's result to be zero; nothing for an unknown operator."""
    name = base(call)
    if name in _KEEP:
        return [[call.args[0]]]
    return _RULES[name](call.args) if name in _RULES else []


def gains(graph: DataflowGraph, names: Sequence[str]) -> tuple[str, ...]:
    """Those of some parameters that multiply: what is only added does not scale a branch."""
    added = {
        ref.name
        for name in names
        for call in map(graph.calls.__getitem__, graph.readers_of(name))
        for place in _ADDED.get(base(call), ())
        if len(call.args) > place and isinstance(ref := call.args[place], Ref)
    }
    return tuple(name for name in names if name not in added)


def _present(*args: Any) -> list[Any]:
    return [arg for arg in args if arg is not None]


def _batch_norm(args: Sequence[Any]) -> Needed:
    return [_present(*args[1:3])] if args[1] is not None else []


def _norm(args: Sequence[Any], first: int) -> Needed:
    """Zero over the square root of something positive is zero, and so is zero times anything."""
    scale, bias = args[first], args[first + 1] if len(args) > first + 1 else None
    if scale is None:
        return [[args[0]]]
    return [_present(scale, bias), _present(args[0], bias)]


def _product(args: Sequence[Any]) -> Needed:
    """A parameter first: it ends the walk."""
    first, second = args[:2]
    one_is_weight = isinstance(first, Ref) and first.kind == "parameter"
    return [[first], [second]] if one_is_weight else [[second], [first]]


def _added_to_product(args: Sequence[Any]) -> Needed:
    return [[args[0], args[2]], [args[0], args[1]]]


_RULES: dict[str, Callable[[Sequence[Any]], Needed]] = {
    "convolution": lambda args: [_present(*args[1:3])],
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "native_layer_norm": lambda args: _norm(args, 2),
    "native_group_norm": lambda args: _norm(args, 1),
    "rms_norm": lambda args: _norm([*args[:3], None], 2),
    "addmm": _added_to_product,
    "baddbmm": _added_to_product,
    "mm": _product,
    "bmm": _product,
    "mul": lambda args: _product(args) if isinstance(args[1], Ref) else [[args[0]]],
    "add": lambda args: [list(args[:2])],
    "sub": lambda args: [list(args[:2])],
    "cat": lambda args: [list(args[0])],
    "stack": lambda args: [list(args[0])],
    "scaled_dot_product_attention": lambda args: [[args[2]]],
    "constant_pad_nd": lambda args: [[args[0]]] if not any(args[2:3]) else [],
    "hardtanh": lambda args: [[args[0]]] if [*args[1:2], -1][0] <= 0 else [],
    "_weight_norm": lambda args: [[args[1]]],
    "_weight_norm_interface": lambda args: [[args[1]]],
}
_ADDED = {
    **dict.fromkeys(("convolution", "native_batch_norm", "cudnn_batch_norm"), (2,)),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "native_group_norm"), (2,)),
    **dict.fromkeys(("addmm", "baddbmm"), (0,)),
    "native_layer_norm": (3,),
    "add": (0, 1),
}
_KEEP = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "t", "transpose", "permute"),
        *("clone", "alias", "detach", "_to_copy", "contiguous", "expand", "squeeze", "unsqueeze"),
        *("select", "slice", "index", "index_select", "split", "split_with_sizes", "chunk"),
        *("unbind", "roll", "flip", "repeat", "dropout", "native_dropout", "div", "neg"),
        *("relu", "gelu", "silu", "hardswish", "tanh", "leaky_relu", "elu", "mish"),
        *("mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"),
        *("max_pool2d_with_indices", "upsample_nearest2d", "upsample_bilinear2d", "pixel_shuffle"),
        *("native_pixel_shuffle", "_native_pixel_shuffle", "reflection_pad2d"),
    )
)
