"""Which operators a program may hold: those of which no argument breaks memory.

A program comes from a file, so its calls may have any arguments. ATen has operators that trust
theirs: ``_reshape_alias`` and many backward and internal ones read and write wherever they are
told. What is listed here checks its indices and sizes itself (tried with a million hostile calls
between guarded pages), or is checked here first. Everything that PyTorch tags as pointwise is
permitted as well. ``tests/test_permitted.py`` holds this table to the rules: every operator with a
rule is permitted, or its reason stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

Overload = torch._ops.OpOverload
Trouble = Callable[[Sequence[Any]], str | None]
"""What is wrong with the arguments of a call; None where they are what its kernel takes."""

_VIEWS = """
    alias detach lift_fresh lift_fresh_copy t transpose permute mT numpy_T
    movedim moveaxis swapaxes swapdims expand expand_as expand_copy broadcast_to
    squeeze unsqueeze view view_as view_copy reshape reshape_as _unsafe_view
    ravel adjoint mH matrix_H hsplit vsplit dsplit broadcast_tensors
    atleast_1d atleast_2d atleast_3d conj _conj resolve_conj resolve_neg
    alias_copy detach_copy t_copy transpose_copy permute_copy
    select_copy slice_copy squeeze_copy unsqueeze_copy unbind_copy diagonal_copy
    flatten unflatten select slice narrow split split_copy split_with_sizes split_with_sizes_copy
    chunk tensor_split unsafe_split unsafe_chunk unbind unfold diagonal
    real imag view_as_real view_as_complex contiguous
"""
_MOVEMENT = """
    flip fliplr flipud roll rot90 cat concat stack hstack vstack repeat tile repeat_interleave
    constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    index index_select index_put index_add index_fill gather take_along_dim scatter
    scatter_add embedding one_hot nonzero masked_select masked_scatter where tril triu meshgrid
    concatenate column_stack row_stack dstack block_diag diag_embed cartesian_prod _pad_circular
    index_copy scatter_reduce diff kthvalue median nanmedian quantile bucketize isin
    native_channel_shuffle pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im
    topk sort argsort     select_scatter slice_scatter
"""
_PRODUCTS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution
    linear bilinear _trilinear matmul mm bmm mv dot vdot outer inner addmm addmv baddbmm einsum
    tensordot scaled_dot_product_attention cosine_similarity pairwise_distance cdist
    linalg_matmul linalg_vecdot linalg_cross cross kron ger addr addbmm
    linalg_householder_product linalg_matrix_exp matrix_exp linalg_solve linalg_inv
    lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn
    fft_rfftn fft_irfftn fft_fftshift fft_ifftshift
"""
_STATISTICS = """
    batch_norm _native_batch_norm_legit_no_training native_batch_norm instance_norm layer_norm
    native_layer_norm group_norm native_group_norm rms_norm _weight_norm _weight_norm_interface norm
    linalg_vector_norm linalg_norm linalg_matrix_norm frobenius_norm norm_except_dim trace
    count_nonzero nansum nanmean softmax _softmax _safe_softmax log_softmax _log_softmax logsumexp
    sum mean amax amin aminmax any all argmax argmin max min prod std std_mean var var_mean
    cumsum cumprod cummax cummin logcumsumexp
"""
_RESAMPLING = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices max_unpool2d
    fractional_max_pool2d grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""
_VALUES = """
    zeros ones full empty arange linspace eye scalar_tensor rand randn randint randperm
    zeros_like ones_like full_like empty_like rand_like randn_like
    new_zeros new_ones new_full new_empty bernoulli normal_ uniform_
    clone copy to _to_copy type_as fill zero masked_fill
    dropout alpha_dropout feature_dropout feature_alpha_dropout native_dropout
    rrelu_with_noise prelu _prelu_kernel glu celu elu leaky_relu threshold hardswish
    hardtanh nan_to_num isnan lerp rsub
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    __and__ __or__ absolute arccos arcsin arctan arctan2 multiply divide true_divide floor_divide
    subtract negative greater greater_equal less less_equal not_equal fix isclose isreal
    log_sigmoid log_sigmoid_forward complex polar tril_indices triu_indices hann_window
    sym_size sym_numel numel item _local_scalar_dense _assert_tensor_metadata _assert_scalar
    _assert_async sym_constrain_range sym_constrain_range_for_size
"""
PERMITTED = frozenset(
    " ".join((_VIEWS, _MOVEMENT, _PRODUCTS, _STATISTICS, _RESAMPLING, _VALUES)).split()
)
"""Operators by name, whatever their overload."""

EXCEPT = {
    "view_copy.dtype": "numbers of one type as those of another may be no numbers of that type",
    "view.dtype": "numbers of one type as those of another may be no numbers of that type",
    "repeat_interleave.Tensor": "how long its result is stands in its values",
    "repeat_interleave.self_Tensor": "how long its result is stands in its values",
    **dict.fromkeys(
        ("lstm.data", "gru.data", "rnn_tanh.data", "rnn_relu.data"), "it trusts its batch sizes"
    ),
    "where.default": "how long its result is stands in its values",
}
"""Overloads of those that are not permitted, and why."""

UNDEFINED = frozenset(("empty", "empty_like", "new_empty"))
"""Operators whose results hold whatever lay there before: a program gets zeros."""


@cache
def refusal(op: Overload) -> str | None:
    """Why a program may not call this operator; None where it may."""
    packet, _, overload = str(op).removeprefix("aten.").partition(".")
    if any(argument.is_out for argument in op._schema.arguments):
        return "it writes into a tensor of any size"
    in_place = packet.removesuffix("_")  # computes what its twin does, and writes it back
    if torch.Tag.pointwise in op.tags or {packet, in_place} & PERMITTED or _is_pointwise(in_place):
        return EXCEPT.get(f"{packet}.{overload}")
    return "it is not among those that are known to check their sizes and indices"


def _is_pointwise(packet: str) -> bool:
    found = getattr(torch.ops.aten, packet, None)
    return isinstance(found, torch._ops.OpOverloadPacket) and any(
        torch.Tag.pointwise in getattr(found, overload).tags for overload in found.overloads()
    )


def trouble(op: Overload, args: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """What the operator's kernel would not notice in its arguments; None where all is well."""
    for place, (name, most) in enumerate(_counts(op)):
        value = args[place] if place < len(args) else named.get(name)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, int) and not -most < number < most:
                return f"{name} {number}"
            if isinstance(number, Tensor) and most < 2**63:  # torch would read its value unseen
                return f"a tensor for {name}"
    check = _CHECKS.get(str(op).removeprefix("aten."))
    return None if check is None else check(args)


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


def _per_channel(args: Sequence[Any]) -> str | None:
    """Batch norm: the input [N, C, …], then vectors of C numbers."""
    x, *vectors = args[:5]
    count = x.shape[1] if x.dim() > 1 else 0
    if any(v is not None and v.shape != (count,) for v in vectors):
        return f"other vectors than of {count} numbers"
    return None


def _per_slice(args: Sequence[Any]) -> str | None:
    """Weight norm: directions, and as many lengths as they have slices of an axis."""
    directions, lengths, *axis = args
    kept = axis[0] if axis else 0
    shape = [n if d == kept else 1 for d, n in enumerate(directions.shape)]
    if list(lengths.shape) == ([] if kept == -1 else shape):
        return None
    return "lengths that are not those of its directions"


def _per_packed_slice(args: Sequence[Any]) -> str | None:
    """The same for a kernel that reads both as they lie in memory, and divides by their number."""
    if not all(tensor.is_contiguous() and tensor.numel() for tensor in args[:2]):
        return "numbers that do not lie one after the other"
    return _per_slice(args)


def _per_layer(gates: int) -> Trouble:
    """Recurrent layers: first states, and weights of each layer and direction, as in torch.nn."""

    def check(args: Sequence[Any]) -> str | None:
        x, states, weights, has_biases, layers, _, _, both, batch_first = args
        told = [*states] if isinstance(states, (list, tuple)) else [states]
        sides = 2 if both else 1
        if {x.dim(), *(state.dim() for state in told)} != {3} or not 0 < layers <= len(weights):
            return f"{len(weights)} weights for {layers} layers"
        out, cells = told[0].shape[2], told[-1].shape[2]
        first: tuple[int, ...] = (layers * sides, x.shape[0 if batch_first else 1])
        wanted = [(*first, n) for n in (out, cells)[: len(told)]]
        for layer in range(layers):
            width = out * sides if layer else x.shape[2]
            wanted += _of_layer(gates * cells, width, out, cells, has_biases) * sides
        found = [tuple(tensor.shape) for tensor in (*told, *weights)]
        return None if found == wanted else "weights that are not those of its layers"

    return check


def _of_layer(
    rows: int, width: int, out: int, cells: int, has_biases: bool
) -> list[tuple[int, ...]]:
    """The shapes of one direction's weights; a projection stands last."""
    biases: list[tuple[int, ...]] = [(rows,), (rows,)] if has_biases else []
    return [(rows, width), (rows, out), *biases, *([(out, cells)] if out != cells else [])]


def _attended(args: Sequence[Any]) -> str | None:
    """Attention: as many values as keys, and queries as wide as these."""
    queries, keys, values = args[:3]
    if keys.shape[:-1] != values.shape[:-1] or queries.shape[-1:] != keys.shape[-1:]:
        return "keys that are not those of its queries and values"
    return None


def _by_scale(args: Sequence[Any]) -> str | None:
    """Resampling: [N, C, …] to a size, and how much larger that is, where it is told."""
    x, sizes, *rest = args
    scales = [scale for scale in rest if not isinstance(scale, bool)]
    for length, size, scale in zip(x.shape[2:], sizes, scales, strict=False):
        if scale is not None and not abs(length * scale - size) <= 1:
            return f"a scale of {scale} from {length} to {size}"
    return None


_CHECKS: Mapping[str, Trouble] = {
    "_native_batch_norm_legit_no_training.default": _per_channel,
    "native_batch_norm.default": _per_channel,
    "_weight_norm.default": _per_slice,
    "_weight_norm_interface.default": _per_packed_slice,
    "scaled_dot_product_attention.default": _attended,
    "lstm.input": _per_layer(4),
    "gru.input": _per_layer(3),
    **{f"{name}.input": _per_layer(1) for name in ("rnn_tanh", "rnn_relu")},
    **{
        f"{name}.default": _by_scale
        for name in PERMITTED
        if name.startswith(("upsample", "_upsample"))
    },
}
