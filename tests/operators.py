"""One example call for every operator that has a rule.

An example is a body and the shapes of the parameters that it gets; every axis of every parameter
carries labels. ``test_registry`` asks that each registered operator is reached by its example, and
that what survives of its result is its result on what survives. To add an operator: one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

aten = torch.ops.aten
MAP = (4, 8, 6, 6)


@dataclass(frozen=True)
class Example:
    """How to call one operator, and how much may be asked of the result."""

    body: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = (MAP,)
    free: bool = True  # whether any slot can leave
    random: bool = False  # values differ from call to call: only shapes are compared
    axes: tuple[int, ...] | None = None  # of the first tensor: those that can lose slots


EXAMPLES: dict[str, Example] = {}
NEIGHBOURS: dict[str, Example] = {}
"""The same operators called in other ways, each with the axes that then can lose slots."""


def example(name: str, body: Callable[..., Any], *shapes: tuple[int, ...], **options: bool) -> None:
    if name in EXAMPLES:
        raise ValueError(f"operator {name!r} has two examples")
    EXAMPLES[name] = Example(body, shapes or (MAP,), **options)


def undecomposed(body: Callable[..., Any]) -> Callable[..., Any]:
    """In inference mode an operator that is made of others is recorded as itself."""

    def inside(*args: Tensor) -> Any:
        with torch.inference_mode():
            return body(*args)

    return inside


def neighbour(name: str, axes: tuple[int, ...], body: Callable[..., Any], *shapes: Any) -> None:
    if name in NEIGHBOURS:
        raise ValueError(f"neighbour {name!r} is there twice")
    NEIGHBOURS[name] = Example(body, shapes or (MAP,), bool(axes), axes=axes)


NOT_ON_CPU = {"cudnn_batch_norm", "miopen_batch_norm", "convolution_overrideable"}
"""Operators of other devices: the rule is that of the operator which stands for them here."""

# ------------------------------------------------------------------------------ element by element

UNARY: dict[str, Callable[[Tensor], Any]] = {
    "_to_copy": lambda x: x.double(),
    "alias": aten.alias,
    "celu_": lambda x: F.celu_(x.clone()),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "detach_": undecomposed(lambda x: x.clone().detach_()),
    "elu_": lambda x: F.elu_(x.clone()),
    "fill": lambda x: torch.fill(x, 2.0),
    "fill_": lambda x: x.clone().fill_(2.0),
    "full_like": lambda x: torch.full_like(x, 3.0),
    "hardswish": F.hardswish,
    "hardswish_": lambda x: F.hardswish(x.clone(), inplace=True),
    "hardtanh": F.hardtanh,
    "hardtanh_": lambda x: F.hardtanh_(x.clone()),
    "isnan": torch.isnan,
    "leaky_relu_": lambda x: F.leaky_relu_(x.clone()),
    "lift": aten.lift,
    "lift_fresh": aten.lift_fresh,
    "nan_to_num": torch.nan_to_num,
    "ones_like": torch.ones_like,
    "threshold_": lambda x: F.threshold_(x.clone(), 0.1, 0.2),
    "zero": torch.ops.aten.zero,
    "zero_": lambda x: x.clone().zero_(),
    "zeros_like": torch.zeros_like,
    "rsub": lambda x: torch.rsub(x, 1.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 2.0),
    "masked_fill_": lambda x: x.clone().masked_fill_(x > 0, 2.0),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "copy": aten.copy,
    "copy_": lambda x, y: x.clone().copy_(y),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp_": lambda x, y: x.clone().lerp_(y, 0.3),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "glu_jvp": lambda x, y: aten.glu_jvp(F.glu(x, 1), x, y, 1),
}
RANDOM: dict[str, Callable[[Tensor], Any]] = {
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.5),
    "empty_like": torch.empty_like,
    "normal_": lambda x: x.clone().normal_(),
    "normal": lambda x: torch.normal(x, 1.0),
    "exponential_": lambda x: x.clone().exponential_(),
    "cauchy_": lambda x: x.clone().cauchy_(),
    "log_normal_": lambda x: x.clone().log_normal_(),
    "geometric_": lambda x: x.clone().geometric_(0.5),
    "random_": lambda x: x.clone().random_(),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "rrelu_with_noise": lambda x: aten.rrelu_with_noise(x, torch.zeros_like(x), 0.1, 0.3, True),
    "uniform_": lambda x: x.clone().uniform_(),
}
for name, unary in UNARY.items():
    example(name, unary)
for name, binary in BINARY.items():
    example(name, binary, MAP, MAP)
for name, noise in RANDOM.items():
    example(name, noise, random=True)
for name, number in (("add", 0.0), ("sub", 0.0), ("mul", 0.3), ("div", 0.7)):
    example(name, lambda x, y, n=name, c=number: getattr(torch, n)(x, y.abs() + c), MAP, MAP)
    example(f"{name}_", lambda x, y, n=name: getattr(x.clone(), f"{n}_")(y.exp()), MAP, MAP)
example("neg", torch.neg)
example("_prelu_kernel", lambda x, a: F.prelu(x, a), MAP, (8,))

# ------------------------------------------------------------------------------ products and tables

example("convolution", lambda x, w, b: F.conv2d(x, w, b, padding=1), MAP, (12, 8, 3, 3), (12,))
example(
    "_convolution",
    undecomposed(
        lambda x, w: aten._convolution(
            x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, False, False
        )
    ),
    MAP,
    (12, 8, 3, 3),
)
example("mm", lambda x, y: x @ y, (6, 8), (8, 10))
example("addmm", lambda b, x, y: torch.addmm(b, x, y), (10,), (6, 8), (8, 10))
example("bmm", lambda x, y: torch.bmm(x, y), (4, 6, 8), (4, 8, 10))
example("baddbmm", torch.baddbmm, (4, 6, 10), (4, 6, 8), (4, 8, 10))
example("mv", lambda x, y: torch.mv(x, y), (6, 8), (8,))
example("dot", lambda x, y: torch.dot(x, y), (8,), (8,))
example("vdot", lambda x, y: torch.vdot(x, y), (8,), (8,))
example("embedding", lambda w: F.embedding(torch.tensor([[1, 0], [2, 2]]), w), (6, 8))
example("_trilinear", lambda x, w, y: F.bilinear(x, y, w), (6, 8), (5, 8, 10), (6, 10))
example(
    "scaled_dot_product_attention",
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.4),
    *((2, 4, 6, 8), (2, 4, 5, 8), (2, 4, 5, 10)),
)

# --------------------------------------------------------------------------------- recurrent layers

STEPS = (5, 3, 8)
for name, rows in (("lstm", 24), ("gru", 18), ("rnn_tanh", 6), ("rnn_relu", 6)):
    gated = ((rows, 8), (rows, 6), (rows,), (rows,))
    states = ((1, 3, 6),) * (2 if name == "lstm" else 1)

    def layer(x: Tensor, *given: Tensor, n: str = name) -> Any:
        states, weights = given[:-4], given[-4:]
        start = states if n == "lstm" else states[0]
        return getattr(torch, n)(x, start, weights, True, 1, 0.0, False, False, False)

    def step(x: Tensor, *given: Tensor, n: str = name) -> Any:
        states = [state[0] for state in given[:-4]]
        start = states if n == "lstm" else states[0]
        return getattr(torch, f"{n}_cell")(x[0], start, *given[-4:])

    example(name, layer, STEPS, *states, *gated)
    example(f"{name}_cell", step, STEPS, *states, *gated)
LENGTHS = torch.tensor([5, 3, 2])
example("_pack_padded_sequence", lambda x: pack_padded_sequence(x, LENGTHS).data, STEPS)
example(
    "_pad_packed_sequence",
    lambda x: pad_packed_sequence(pack_padded_sequence(x, LENGTHS))[0],
    STEPS,
)

# --------------------------------------------------------------------------- norms and running sums

VECTORS = (MAP, (8,), (8,), (8,), (8,))


def statistics(*given: Tensor) -> tuple[Tensor, ...]:
    """x, weight, bias, mean and a variance that is positive."""
    *others, var = given
    return (*others, var.square() + 0.5)


example(
    "native_batch_norm", lambda *v: F.batch_norm(v[0], v[3], v[4].square(), v[1], v[2]), *VECTORS
)
example(
    "_native_batch_norm_legit",
    lambda x, w, b: aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 1e-5)[0],
    *VECTORS[:3],
)
for name in (
    *("_native_batch_norm_legit_no_training", "_batch_norm_no_update"),
    *("batch_norm_with_update", "_batch_norm_with_update"),
):
    if hasattr(aten, name):
        example(name, lambda *v, n=name: getattr(aten, n)(*statistics(*v), 0.1, 1e-5)[0], *VECTORS)
example(
    "_native_batch_norm_legit_functional",
    lambda *v: aten._native_batch_norm_legit_functional(*statistics(*v), True, 0.1, 1e-5)[0],
    *VECTORS,
)
example("native_group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), *VECTORS[:3])
example("native_layer_norm", lambda x, w, b: F.layer_norm(x, x.shape[1:], w, b), (4, 8), (8,), (8,))
example("rms_norm", lambda x, w: F.rms_norm(x, x.shape[1:], w), (4, 8), (8,))
example("_weight_norm", lambda v, g: torch._weight_norm(v, g, 1), (8, 4, 3), (1, 4, 1))
example("_weight_norm_interface", lambda v, g: aten._weight_norm_interface(v, g)[0], (8, 4), (8, 1))
example("_softmax", lambda x: x.softmax(1))
example("_log_softmax", lambda x: x.log_softmax(1))
example("_safe_softmax", lambda x: aten._safe_softmax(x, 1))
example("cumsum", lambda x: x.cumsum(1))

# ---------------------------------------------------------------------------------- reductions

for name in ("sum", "mean", "amax", "amin", "var", "std", "logsumexp"):
    example(name, lambda x, n=name: getattr(torch, n)(x, (2, 3)))
for name in ("prod", "argmax", "argmin", "all", "any"):
    example(name, lambda x, n=name: getattr(torch, n)(x, 2))
for name in ("var_mean", "std_mean"):
    example(name, lambda x, n=name: getattr(torch, n)(x, (2, 3)))
example("linalg_vector_norm", lambda x: torch.linalg.vector_norm(x, dim=(2, 3)))
example("norm", lambda x: aten.norm(x, 2, [2, 3]))
example("max", lambda x: x.max(2).values)
example("min", lambda x: x.min(2).values)

# ----------------------------------------------------------------------- windows over the last axes

LINE, VOLUME = (4, 8, 6), (4, 8, 4, 4, 4)
example("avg_pool2d", lambda x: F.avg_pool2d(x, 2))
example("avg_pool3d", lambda x: F.avg_pool3d(x, 2), VOLUME)
example("_adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 2))
example("_adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 2), VOLUME)
example("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 2))
example("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, 2), VOLUME)
example("max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2))
example("max_pool3d_with_indices", lambda x: F.max_pool3d(x, 2), VOLUME)
example("fractional_max_pool2d", lambda x: F.fractional_max_pool2d(x, 2, (3, 3)), random=True)
for mode, name in (("reflect", "reflection"), ("replicate", "replication")):
    for spatial, shape in ((1, LINE), (2, MAP), (3, VOLUME)):
        sides = (1,) * (2 * spatial)
        example(f"{name}_pad{spatial}d", lambda x, s=sides, m=mode: F.pad(x, s, m), shape)
for mode, name, shape, smooth in (
    *(
        ("nearest", f"upsample_nearest{n}d", s, False)
        for n, s in ((1, LINE), (2, MAP), (3, VOLUME))
    ),
    ("nearest-exact", "_upsample_nearest_exact1d", LINE, False),
    ("nearest-exact", "_upsample_nearest_exact2d", MAP, False),
    ("nearest-exact", "_upsample_nearest_exact3d", VOLUME, False),
    ("linear", "upsample_linear1d", LINE, False),
    ("bilinear", "upsample_bilinear2d", MAP, False),
    ("bicubic", "upsample_bicubic2d", MAP, False),
    ("trilinear", "upsample_trilinear3d", VOLUME, False),
    ("bilinear", "_upsample_bilinear2d_aa", MAP, True),
    ("bicubic", "_upsample_bicubic2d_aa", MAP, True),
):
    example(
        name,
        lambda x, m=mode, a=smooth: F.interpolate(x, scale_factor=2, mode=m, antialias=a),
        shape,
    )


def unpooled(x: Tensor) -> Tensor:
    values, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2)


def sampled(x: Tensor) -> Tensor:
    grid = torch.zeros(4, *x.shape[2:], x.dim() - 2, dtype=x.dtype)
    return F.grid_sample(x, grid, align_corners=False)


example("max_unpool2d", unpooled)
example("grid_sampler_2d", sampled)
example("grid_sampler_3d", sampled, VOLUME)

# ---------------------------------------------------------------------------- movement and views

VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "t": lambda x: x[:, :, 0, 0].t(),
    "t_": lambda x: x[:, :, 0, 0].clone().t_(),
    "transpose": lambda x: x.transpose(1, 2),
    "transpose_": lambda x: x.clone().transpose_(1, 2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(2, 1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "unsqueeze_": lambda x: x.clone().unsqueeze_(1),
    "squeeze": lambda x: x[:, :, :1, :1].squeeze((2, 3)),
    "squeeze_": lambda x: x[:, :, :1, :1].clone().squeeze_(-1),
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "stack": lambda x: torch.stack([x, x.relu()], 1),
    "slice": lambda x: x[:, 2:7],
    "select": lambda x: x[:, 1],
    "unbind": lambda x: x.unbind(0),
    "split": lambda x: x.split(3, 1),
    "split_copy": lambda x: aten.split_copy(x, 3, 1),
    "unsafe_split": lambda x: x.unsafe_split(3, 1),
    "split_with_sizes": lambda x: x.split([3, 5], 1),
    "constant_pad_nd": lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "expand": lambda x: x[:, None].expand(-1, 5, -1, -1, -1),
    "index": lambda x: x[:, torch.tensor([1, 3, 3])],
    "index_select": lambda x: x.index_select(1, torch.tensor([1, 3, 3])),
    "unfold": lambda x: x.unfold(2, 2, 2),
    "im2col": lambda x: F.unfold(x, 3),
    "col2im": lambda x: F.fold(F.unfold(x, 3), (6, 6), 3),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": undecomposed(lambda x: F.channel_shuffle(x, 2)),
    "glu": lambda x: F.glu(x, 1),
    "view": lambda x: x.view(x.shape[0], -1),
    "as_strided_": lambda x: F.adaptive_avg_pool2d(
        x.contiguous(memory_format=torch.channels_last), 1
    ),
    "_unsafe_view": lambda x: aten._unsafe_view(x, [*x.shape[:2], -1]),
    "_reshape_alias": lambda x: aten._reshape_alias(x, [x.numel()], [1]),
}
for name, body in VIEWS.items():
    example(name, body)

# ------------------------------------------------------------------------------- fake quantisation

GRID = (torch.tensor([0.1]), torch.tensor([3]))
ON, OFF = torch.tensor([1]), torch.tensor([0])


def observer(x: Tensor, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
    """A fused observer of each channel that is switched off."""
    zeros = torch.zeros(8, dtype=torch.int32)
    step = scale.abs() + 0.1
    given = (x, OFF, ON, low, high, step, zeros, 0.01, -128, 127, 1, True, True)
    return aten._fused_moving_avg_obs_fq_helper(*given)[0]


def learned(x: Tensor, scale: Tensor) -> Tensor:
    steps = (scale.abs() + 0.1, torch.zeros(8))
    return aten._fake_quantize_learnable_per_channel_affine(x, *steps, 1, -128, 127)


example(
    "fake_quantize_per_tensor_affine_cachemask",
    lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 255),
)
example(
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    lambda x: torch.fake_quantize_per_tensor_affine(x, *GRID, 0, 255),
)
example(
    "fake_quantize_per_channel_affine_cachemask",
    lambda x: torch.fake_quantize_per_channel_affine(
        x, torch.full((x.shape[1],), 0.1), x.new_zeros(x.shape[1]).int(), 1, -128, 127
    ),
)
example(
    "_fake_quantize_learnable_per_tensor_affine",
    lambda x: aten._fake_quantize_learnable_per_tensor_affine(x, *GRID, -128, 127),
)
example("_fake_quantize_learnable_per_channel_affine", learned, MAP, (8,))
example("_fused_moving_avg_obs_fq_helper", observer, MAP, (8,), (8,), (8,))
example("aminmax", lambda x: torch.aminmax(x, dim=2))

# ------------------------------------------------------------------------------- tensors from sizes

for name in ("zeros", "ones"):
    example(name, lambda x, n=name: x + getattr(torch, n)(1, x.shape[1], 1, 1))
for name in ("new_zeros", "new_ones"):
    example(name, lambda x, n=name: x + getattr(x, n)(1, x.shape[1], 1, 1))
for name in ("empty", "rand", "randn"):
    example(name, lambda x, n=name: x + getattr(torch, n)(1, x.shape[1], 1, 1), random=True)
example("full", lambda x: x + torch.full((1, x.shape[1], 1, 1), 2.0))
example("new_full", lambda x: x + x.new_full((1, x.shape[1], 1, 1), 2.0))
example("new_empty", lambda x: x + x.new_empty(1, x.shape[1], 1, 1), random=True)
example("empty_strided", lambda x: x[0, :, 0, 0] + torch.empty_strided((8,), (1,)), random=True)
example("new_empty_strided", lambda x: x[0, :, 0, 0] + x.new_empty_strided((8,), (1,)), random=True)
example("arange", lambda x: x + torch.arange(6))
example("linspace", lambda x: x + torch.linspace(0, 1, 6))
example("scalar_tensor", lambda x: x + torch.scalar_tensor(2.0))
example("eye", lambda x: x + torch.eye(6))
example("randperm", lambda x: x + torch.randperm(6), random=True)
example("randint", lambda x: x + torch.randint(3, (6,)), random=True)

# Literal sizes stay, whoever is given them: only the axis along which nothing is stated is free.
example("split_with_sizes_copy", lambda x: aten.split_with_sizes_copy(x, [3, 5], 1))
example("expand_copy", lambda x: aten.expand_copy(x[:, None], [4, 5, 8, 6, 6]), free=False)
example("view_copy", lambda x: aten.view_copy(x, [4, 8, 36]), free=False)

# ------------------------------------------------------------------------ slots looked up by number

PLACES = torch.tensor([[0, 3, 3], [1, 2, 0]])


def places_along(x: Tensor, d: int = 2) -> Tensor:
    """Three places along one axis, for every slot of the others, as long as they are."""
    shape = [3 if k == d else n for k, n in enumerate(x.shape)]
    return x.new_zeros(shape).long() + 1


example("gather", lambda x: x.gather(2, places_along(x)))
for name, join in (
    ("scatter", lambda x, p, y: x.scatter(2, p, y)),
    ("scatter_", lambda x, p, y: x.clone().scatter_(2, p, y)),
    ("scatter_add", lambda x, p, y: x.scatter_add(2, p, y)),
    ("scatter_add_", lambda x, p, y: torch.zeros_like(x).scatter_add_(2, p, y)),
    ("scatter_reduce", lambda x, p, y: x.scatter_reduce(2, p, y, "amax")),
    ("scatter_reduce_", lambda x, p, y: x.clone().scatter_reduce_(2, p, y, "sum")),
):
    example(name, lambda x, y, j=join: j(x, places_along(x), y[:, :, :3]), MAP, MAP)
ROWS = torch.tensor([2, 0, 2])
for name, join in (
    ("index_add", lambda x, y: x.index_add(2, ROWS, y)),
    ("index_add_", lambda x, y: x.clone().index_add_(2, ROWS, y)),
    ("index_copy", lambda x, y: x.index_copy(2, ROWS[:2], y[:, :, :2])),
    ("index_copy_", lambda x, y: x.clone().index_copy_(2, ROWS[:2], y[:, :, :2])),
    ("index_reduce", lambda x, y: x.index_reduce(2, ROWS, y, "amin")),
    ("index_reduce_", lambda x, y: x.clone().index_reduce_(2, ROWS, y, "amin")),
):
    example(name, join, MAP, (4, 8, 3, 6))
example("index_fill", lambda x: x.index_fill(2, ROWS, 2.0))
example("index_fill_", lambda x: x.clone().index_fill_(2, ROWS, 0.0))
example("index_put", lambda x: aten.index_put(x, [None, None, ROWS[:2]], x[:, :, :2]))
example("index_put_", lambda x: aten.index_put_(x.clone(), [None, None, ROWS[:2]], x[:, :, :2]))
example("_index_put_impl_", lambda x: aten._index_put_impl_(x.clone(), [ROWS], x[:3]))
example("_unsafe_index", lambda x: aten._unsafe_index(x, [None, None, ROWS, ROWS]))
example("_unsafe_index_put", lambda x: aten._unsafe_index_put(x, [ROWS], x[:3]))
MASK = torch.tensor([True, False, True, True])
BOTH = torch.arange(36).view(6, 6) % 3 > 0
for name, axes, body in (
    ("x[a]", (1, 2, 3), lambda x: x[ROWS]),
    ("x[..., a]", (0, 1, 2), lambda x: x[..., ROWS]),
    ("x[:, :, a, b]", (0, 1), lambda x: x[:, :, ROWS, ROWS]),
    ("x[a, :, b]", (1, 3), lambda x: x[ROWS, :, ROWS]),
    ("x[a, :, b, None]", (1, 3), lambda x: x[ROWS, :, ROWS, None]),
    ("x[:, None, a, :, b]", (0, 2), lambda x: x[:, None, ROWS, :, ROWS]),
    ("x[a, b, :], a matrix", (2, 3), lambda x: x[PLACES, PLACES, :]),
    ("x[:, :, a, b], broadcast", (0, 1), lambda x: x[:, :, ROWS[:, None], ROWS[None]]),
    ("x[:, a], a matrix", (0, 2, 3), lambda x: x[:, PLACES]),
    ("x[mask]", (1, 2, 3), lambda x: x[MASK]),
    ("x[:, :, mask], two axes", (0, 1), lambda x: x[:, :, BOTH]),
    ("x[mask, :, a]", (1, 3), lambda x: x[MASK, :, ROWS]),
    ("x[rows] where rows follow x", (1, 2, 3), lambda x: x[x.sum((1, 2, 3)).long() * 0]),
    ("gather along the first axis", (1, 2, 3), lambda x: x.gather(0, places_along(x, 0))),
    ("gather of fewer slots", (0, 3), lambda x: x.gather(2, places_along(x)[:, :4])),
    ("take_along_dim", (0, 1, 3), lambda x: x.take_along_dim(places_along(x), 2)),
    ("index_select, negative", (0, 1, 2), lambda x: x.index_select(-1, ROWS)),
):
    neighbour(name, axes, body)


NOTHING, ALL = torch.tensor(0.0), (0, 1, 2, 3)


def put_rows(x: Tensor, y: Tensor) -> Tensor:
    return aten.index_put_(x.clone(), [None, y > 0], NOTHING)


def put(*places: Any, **options: Any) -> Callable[..., Any]:
    def body(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[places] = y
        return x

    return body


for name, axes, body, shape in (
    ("x[a] = y", (1, 2, 3), put(ROWS[:2]), (2, 8, 6, 6)),
    ("x[:, :, a, b] = y", (0, 1), put(slice(None), slice(None), ROWS[:2], ROWS[:2]), (4, 8, 2)),
    ("x[a, :, b] = y", (1, 3), put(ROWS[:2], slice(None), ROWS[:2]), (2, 8, 6)),
    ("x[a] = y, spread", (1, 2, 3), put(ROWS[:2]), (8, 1, 6)),
    ("x[mask] = y", (1, 2, 3), put(MASK), (3, 8, 6, 6)),
    ("x[mask] = 1 number", (1, 2, 3), put(MASK), (1,)),
    ("x[:, mask] = y", (0, 2, 3), put(slice(None), torch.arange(8) > 4), (4, 3, 6, 6)),
):
    neighbour(name, axes, body, MAP, shape)

neighbour("x[x > 0] = 0", ALL, lambda x: aten.index_put_(x.clone(), [x > 0], NOTHING))
neighbour("x[:, y > 0] = 0", ALL, put_rows, MAP, (8, 6))
for name, axes, body in (
    ("normal of 8", (0, 2, 3), lambda x: x.sum((0, 2, 3)) + torch.normal(0.0, 1.0, (8,))),
    ("normal of a size", ALL, lambda x: x.sum((0, 2, 3)) + torch.normal(0.0, 1.0, x.shape[1:2])),
):
    NEIGHBOURS[name] = Example(body, (MAP,), bool(axes), random=True, axes=axes)

# ---------------------------------------------------------------------------- orders along one axis

for name in ("sort", "cummax", "cummin", "cumprod", "logcumsumexp"):
    example(name, lambda x, n=name: getattr(torch, n)(x, dim=2))
for name in ("median", "nanmedian", "mode"):
    example(name, lambda x, n=name: getattr(torch, n)(x, dim=2))
example("topk", lambda x: x.topk(2, 3))
example("kthvalue", lambda x: x.kthvalue(2, 3))
for name in ("tril", "triu"):
    example(name, lambda x, n=name: getattr(torch, n)(x, 1))
    example(f"{name}_", lambda x, n=name: getattr(x.clone(), f"{n}_")())
for name, axes, body in (
    ("sort along the last axis", (0, 1, 2), lambda x: x.sort(descending=True)),
    ("sort along the first axis", (1, 2, 3), lambda x: x.sort(dim=0, stable=True)),
    ("topk along the channels", (0, 2, 3), lambda x: x.topk(3, 1)),
    ("kthvalue that is kept", (0, 2, 3), lambda x: x.kthvalue(3, 1, keepdim=True)),
    ("median of the channels", (0, 2, 3), lambda x: x.median(1)),
    ("tril", (0, 1), lambda x: x.tril()),
):
    neighbour(name, axes, body)
