"""Which operators a program may hold: those of which no argument breaks memory.

A program comes from a file, so its calls may have any arguments. ATen has operators that trust
theirs: ``_reshape_alias`` and many backward and internal ones read and write wherever they are
told. An operator with a record says there whether it is permitted, or after which check. What is
listed here has none (an export holds it before it falls apart) and checks its indices and sizes
itself (tried with a million hostile calls between guarded pages). Everything that PyTorch tags as
pointwise is permitted as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slimnet.operator import of

Overload = torch._ops.OpOverload

_VIEWS = """
    lift_fresh_copy mT numpy_T movedim moveaxis swapaxes swapdims expand_as broadcast_to view_as
    reshape reshape_as ravel adjoint mH matrix_H hsplit vsplit dsplit broadcast_tensors
    atleast_1d atleast_2d atleast_3d conj _conj resolve_conj resolve_neg
    alias_copy detach_copy t_copy transpose_copy permute_copy
    select_copy slice_copy squeeze_copy unsqueeze_copy unbind_copy diagonal_copy
    flatten unflatten narrow chunk tensor_split unsafe_chunk diagonal
    real imag view_as_real view_as_complex contiguous
"""
_MOVEMENT = """
    fliplr flipud rot90 concat hstack vstack tile repeat_interleave pad take_along_dim one_hot
    nonzero masked_select masked_scatter meshgrid concatenate column_stack row_stack dstack
    block_diag diag_embed cartesian_prod _pad_circular diff median nanmedian quantile bucketize isin
    native_channel_shuffle argsort select_scatter slice_scatter
"""
_PRODUCTS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    linear bilinear matmul outer inner addmv einsum tensordot
    cosine_similarity pairwise_distance cdist
    linalg_matmul linalg_vecdot linalg_cross cross kron ger addr addbmm
    linalg_householder_product linalg_matrix_exp matrix_exp linalg_solve linalg_inv
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn
    fft_rfftn fft_irfftn fft_fftshift fft_ifftshift
"""
_STATISTICS = """
    batch_norm instance_norm layer_norm group_norm linalg_norm linalg_matrix_norm frobenius_norm
    norm_except_dim trace count_nonzero nansum nanmean softmax log_softmax std_mean var_mean
"""
_RESAMPLING = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    avg_pool1d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
    grid_sampler affine_grid_generator
"""
_VALUES = """
    to type_as dropout alpha_dropout feature_dropout feature_alpha_dropout native_dropout prelu
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
    __and__ __or__ absolute arccos arcsin arctan arctan2 multiply divide true_divide floor_divide
    subtract negative greater greater_equal less less_equal not_equal fix isclose isreal
    log_sigmoid log_sigmoid_forward complex polar tril_indices triu_indices hann_window
    sym_size sym_numel numel item _local_scalar_dense _assert_tensor_metadata _assert_scalar
    _assert_async sym_constrain_range sym_constrain_range_for_size
"""
PERMITTED = frozenset(
    " ".join((_VIEWS, _MOVEMENT, _PRODUCTS, _STATISTICS, _RESAMPLING, _VALUES)).split()
)
"""Operators without a record, by name, whatever their overload."""

EXCEPT = {
    "view_copy.dtype": "numbers of one type as those of another may be no numbers of that type",
    "view.dtype": "numbers of one type as those of another may be no numbers of that type",
    "repeat_interleave.Tensor": "how long its result is stands in its values",
    "repeat_interleave.self_Tensor": "how long its result is stands in its values",
    "where.default": "how long its result is stands in its values",
}
"""Overloads that are not permitted, and why."""


@cache
def refusal(op: Overload) -> str | None:
    """Why a program may not call this operator; None where it may."""
    packet, _, overload = str(op).removeprefix("aten.").partition(".")
    if any(argument.is_out for argument in op._schema.arguments):
        return "it writes into a tensor of any size"
    if isinstance(permitted := of(op).permitted, str):
        return permitted
    in_place = packet.removesuffix("_")  # computes what its twin does, and writes it back
    if permitted or {packet, in_place} & PERMITTED or _is_permitted(in_place):
        return EXCEPT.get(f"{packet}.{overload}")
    return "it is not among those that are known to check their sizes and indices"


def _is_permitted(packet: str) -> bool:
    """Whether the records of any of its overloads say so."""
    operator = getattr(torch.ops.aten, packet, None)
    overloads = operator.overloads() if isinstance(operator, torch._ops.OpOverloadPacket) else ()
    return any(_allows(getattr(operator, overload)) for overload in overloads)


def _allows(op: Overload) -> bool:
    permitted = of(op).permitted
    return bool(permitted) and not isinstance(permitted, str)


def trouble(op: Overload, args: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments and the kernel does not check; None where nothing is."""
    for place, (name, most) in enumerate(_counts(op)):
        value = args[place] if place < len(args) else named.get(name)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, int) and not -most < number < most:
                return f"{name} {number}"
            if isinstance(number, Tensor) and most < 2**63:  # torch would read its value unseen
                return f"a tensor for {name}"
    check = of(op).permitted
    return check(_in_order(op, args, named)) if callable(check) else None


def _in_order(op: Overload, args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """All arguments by place, whichever of them were given by name or not at all."""
    rest = op._schema.arguments[len(args) :]
    return [*args, *(named.get(a.name, a.default_value) for a in rest if not a.kwarg_only)]


@cache
def _counts(op: Overload) -> tuple[tuple[str, int], ...]:
    """Of each parameter its name, and what its integers must stay below."""
    slices = op._schema.name in ("aten::slice", "aten::slice_copy", "aten::slice_scatter")
    return tuple(
        (argument.name, 2**63 if slices or not _is_count(argument) else _most(argument.name))
        for argument in op._schema.arguments
    )


def _is_count(argument: Any) -> bool:
    """Whether it is a size or a place, and no value to compute with."""
    return "int" in str(argument.type)


def _most(name: str) -> int:
    return 2**20 if name in _WINDOW else 2**31


_WINDOW = ("kernel_size", "stride", "padding", "dilation", "output_padding")
"""What slides over an axis; kernels multiply such numbers in 32 bits."""
