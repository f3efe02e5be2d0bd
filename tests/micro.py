"""Micro networks: one per construct, each with what an ideal pruner reaches on it.

A network is a row: its parts (made afresh by every call of ``make``), its forward as one
expression, and what to expect. The habit is stem ``a`` (3 to 16 channels), the construct, tail
``b`` (16 to 5 channels). ``expect`` is one or several, joined by " or ", of

* ``exact``: channels go, and slim equals the original with those channels zeroed;
* ``approximate``: channels go, and the certificate says which statistic changes;
* ``pinned:TEXT``: the layer named by ``layer`` keeps its channels, and TEXT is in the printed
  reasons: the operator without a rule, or this file, whose line holds a literal size.

What the file cannot say as a row (a class that does odd things) is a class at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

Body = Callable[..., Any]


@dataclass(frozen=True)
class Micro:
    """One construct: how to make the network, what to feed it, what an ideal pruner reaches."""

    make: Callable[[], nn.Module]
    example: Callable[[], tuple]
    expect: str
    layer: str = "a"
    heads: bool = False  # whether attention loses whole heads

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What may come out: "exact", "approximate", "pinned:..."."""
        return tuple(self.expect.split(" or "))


MICRO: dict[str, Micro] = {}


class Net(nn.Module):
    """Parts as attributes, the forward as one function of the network and its inputs."""

    def __init__(self, body: Body, parts: dict[str, Any]) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part() if isinstance(part, partial) else copy(part))

    def forward(self, *inputs: Any) -> Any:
        return self.body(self, *inputs)


# --------------------------------------------------------------------------------- parts and inputs


def conv(inner: int, outer: int, k: int = 3, **options: Any) -> partial:
    return partial(nn.Conv2d, inner, outer, k, padding=k // 2, **options)


def up(inner: int, outer: int, **options: Any) -> partial:
    return partial(nn.ConvTranspose2d, inner, outer, 2, stride=2, **options)


def lin(inner: int, outer: int, **options: Any) -> partial:
    return partial(nn.Linear, inner, outer, **options)


def bn(width: int, **options: Any) -> partial:
    return partial(nn.BatchNorm2d, width, **options)


def seq(*parts: Any) -> partial:
    return partial(lambda: nn.Sequential(*(part() for part in parts)))


def weight(*shape: int) -> partial:
    return partial(lambda: nn.Parameter(torch.randn(shape)))


def buffer(*shape: int) -> partial:
    return partial(lambda: nn.Buffer(torch.randn(shape)))


def frozen(part: partial) -> partial:
    return partial(lambda: part().requires_grad_(False))


relu = partial(nn.ReLU)


def image() -> tuple:
    return (torch.randn(2, 3, 8, 8),)


def small_image() -> tuple:
    return (torch.randn(2, 3, 4, 4),)


def vector() -> tuple:
    return (torch.randn(2, 8),)


def tokens() -> tuple:
    return (torch.randn(2, 7, 8),)


def row(name: str, expect: str, body: Body, **parts: Any) -> None:
    """Register a network; ``a`` and ``b`` are the usual stem and tail unless given, or None."""
    example, layer = parts.pop("example", image), parts.pop("layer", "a")
    heads = parts.pop("whole_heads", False)
    parts = {"a": conv(3, 16), "b": conv(16, 5)} | parts
    kept = {key: part for key, part in parts.items() if part is not None}
    add(name, Micro(partial(Net, body, kept), example, expect, layer, heads))


def add(name: str, micro: Micro) -> None:
    if name in MICRO:
        raise ValueError(f"micro network {name!r} is registered twice")
    MICRO[name] = micro


# --------------------------------------------------------------- channels move, nothing is computed


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


WIDE = {"a": conv(3, 32), "b": conv(32, 5)}
row("shuffle_view", "exact", lambda m, x: m.b(shuffle(m.a(x), 2)), **WIDE)
row("shuffle_attribute", "exact", lambda m, x: m.b(shuffle(m.a(x), m.groups)), groups=2, **WIDE)
row(
    "shuffle_module",
    "exact",
    lambda m, x: m.b(m.s(m.a(x))),
    s=partial(nn.ChannelShuffle, 4),
    **WIDE,
)
row(
    "shuffle_then_grouped",
    "exact",
    lambda m, x: m.b(m.g(shuffle(m.a(x), 2).relu())),
    g=conv(32, 32, groups=2),
    **WIDE,
)
row(
    "shuffle_then_grouped_of_odd_width",
    "exact",
    lambda m, x: m.b(m.g(shuffle(m.a(x), 2).relu())),
    a=conv(3, 22),
    g=conv(22, 32, groups=2),
    b=conv(32, 5),
)
row(
    "shuffle_then_other_groups",
    "exact",
    lambda m, x: m.b(m.g(shuffle(m.a(x), m.groups).relu()).relu()),
    groups=3,
    a=conv(3, 66),
    g=conv(66, 30, groups=6),
    b=conv(30, 5),
)
row(
    "shuffle_literal_views",
    "pinned:micro.py",
    lambda m, x: m.b(m.a(x).view(-1, 2, 16, 8, 8).transpose(1, 2).reshape(-1, 32, 8, 8)),
    **WIDE,
)
row(
    "pixel_shuffle",
    "exact",
    lambda m, x: m.b(m.s(m.a(x))),
    a=conv(3, 64),
    s=partial(nn.PixelShuffle, 2),
)
row(
    "pixel_shuffle_function",
    "exact",
    lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2).relu()),
    a=conv(3, 64),
)
row(
    "pixel_unshuffle",
    "exact",
    lambda m, x: m.b(m.s(m.a(x))),
    b=conv(64, 5),
    s=partial(nn.PixelUnshuffle, 2),
)


def space_to_depth(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return (
        x.view(b, c, h // 2, 2, w // 2, 2)
        .permute(0, 3, 5, 1, 2, 4)
        .reshape(b, c * 4, h // 2, w // 2)
    )


row("space_to_depth_view", "exact", lambda m, x: m.b(space_to_depth(m.a(x))), b=conv(64, 5))
row(
    "space_to_depth_slices",
    "exact",
    lambda m, x: m.b(torch.cat([m.a(x)[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)),
    b=conv(64, 5),
)
row("flip", "exact", lambda m, x: m.b(m.a(x).flip(1)))
row("flip_space", "exact", lambda m, x: m.b(m.a(x).flip(-1)))
row("flip_and_add", "exact", lambda m, x: m.b(m.a(x) + m.c(x).flip(1)), c=conv(3, 16))
row("roll", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x).roll(3, 1)))
row("roll_space", "exact", lambda m, x: m.b(m.a(x).roll((1, 2), (2, 3))))
row(
    "index_list",
    "pinned:micro.py",
    lambda m, x: m.b(m.a(x)[:, [5, 0, 1, 9, 9, 2, 15, 4]]),
    b=conv(8, 5),
)
row(
    "index_buffer",
    "exact or pinned:micro.py",
    lambda m, x: m.b(m.a(x)[:, m.order]),
    order=partial(lambda: nn.Buffer(torch.arange(15, -1, -1))),
)
row(
    "index_attribute",
    "exact or pinned:micro.py",
    lambda m, x: m.b(m.a(x)[:, m.order]),
    order=[3, 1, 2, 0, 7, 6, 5, 4],
    b=conv(8, 5),
)
row(
    "index_select",
    "exact or pinned:micro.py",
    lambda m, x: m.b(m.a(x).index_select(1, torch.tensor([1, 3, 5, 7, 9, 11, 13, 15]))),
    b=conv(8, 5),
)
row("slice_strided", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x)[:, ::2]), b=conv(8, 5))
row(
    "slice_strided_both",
    "exact or pinned:micro.py",
    lambda m, x: m.b(m.a(x)[:, ::2] + m.a(x)[:, 1::2]),
    b=conv(8, 5),
)
row("slice_head", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x)[:, :12]), b=conv(12, 5))
row("slice_tail", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x)[:, 4:]), b=conv(12, 5))
row("slice_negative", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x)[:, :-4]), b=conv(12, 5))
row(
    "slice_halves", "pinned:micro.py", lambda m, x: m.b(m.a(x)[:, :8] * m.a(x)[:, 8:]), b=conv(8, 5)
)
row(
    "slice_halves_of_shape",
    "exact",
    lambda m, x: (lambda y, half: m.b(y[:, :half] * y[:, half:]))(m.a(x), m.a(x).shape[1] // 2),
    **WIDE | {"b": conv(16, 5)},
)
row("slice_attribute", "exact", lambda m, x: m.b(m.a(x)[:, : m.kept]), kept=12, b=conv(12, 5))
row("narrow", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x).narrow(1, 2, 12)), b=conv(12, 5))
row("select", "exact or pinned:micro.py", lambda m, x: m.b(m.a(x) * m.a(x)[:, 3].unsqueeze(1)))
row(
    "gather",
    "pinned:micro.py",
    lambda m, x: m.b(m.a(x).gather(1, m.a(x).argsort(1)[:, :8])),
    b=conv(8, 5),
)
row(
    "take_along_dim",
    "pinned:gather",
    lambda m, x: m.b(torch.take_along_dim(m.a(x), torch.arange(8).view(1, 8, 1, 1), 1)),
    b=conv(8, 5),
)
row("unbind", "exact or pinned:micro.py", lambda m, x: m.b(torch.stack(m.a(x).unbind(1), 1)))
row("unbind_space", "exact", lambda m, x: m.b(torch.stack(m.a(x).unbind(2)[::-1], 2)))
row("movedim", "exact", lambda m, x: m.b(m.a(x).movedim(1, -1).relu().movedim(-1, 1)))
row("swapaxes", "exact", lambda m, x: m.b(m.a(x).swapaxes(1, 3).swapaxes(1, 3).swapaxes(2, 3)))
row(
    "transpose_T",
    "exact",
    lambda m, x: m.b(m.a(x).T.tanh().T),
    a=lin(8, 16),
    b=lin(16, 5),
    example=vector,
)

# -------------------------------------------------------------------------------------------- split

HALF = {"a": conv(3, 32), "b": conv(16, 5)}
row(
    "chunk",
    "exact",
    lambda m, x: (lambda y: m.b(y[0] * y[1].sigmoid()))(m.a(x).chunk(2, 1)),
    **HALF,
)
row(
    "chunk_uneven",
    "exact or pinned:micro.py",
    lambda m, x: m.b(torch.cat(m.a(x).chunk(3, 1)[:2], 1)),
    b=conv(12, 5),
)
row("chunk_four", "exact", lambda m, x: m.b(sum(m.a(x).chunk(4, 1))), a=conv(3, 64))
row(
    "chunk_c2f",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([*y, m.c(y[1])], 1)))(m.a(x).chunk(2, 1)),
    a=conv(3, 32),
    b=conv(48, 5),
    c=conv(16, 16),
)
row("split_literal", "exact", lambda m, x: m.b(m.a(x).split(8, 1)[1]), b=conv(8, 5))
row(
    "split_uneven",
    "pinned:micro.py",
    lambda m, x: (lambda y: m.c(y[0]) + m.b(y[1]))(m.a(x).split([4, 12], 1)),
    b=conv(12, 5),
    c=conv(4, 5),
)
row(
    "split_attribute_sizes",
    "exact",
    lambda m, x: (lambda y: m.c(y[0]) + m.b(y[1]))(m.a(x).split(m.sizes, 1)),
    a=conv(3, 48),
    b=conv(32, 5),
    c=conv(16, 5),
    sizes=[16, 32],
)
row(
    "split_attribute_int",
    "exact",
    lambda m, x: (lambda y: m.b(y[0]) + m.b(y[1].relu()))(m.a(x).split(m.size, 1)),
    size=16,
    **HALF,
)
row(
    "split_of_shape",
    "exact",
    lambda m, x: (
        lambda y: m.b(y.split(y.shape[1] // 2, 1)[0].relu() + y.split(y.shape[1] // 2, 1)[1])
    )(m.a(x)),
    **HALF,
)
row(
    "tensor_split",
    "exact",
    lambda m, x: (lambda y: m.b(y[0] + y[1].relu()))(m.a(x).tensor_split(2, 1)),
    **HALF,
)
row("glu", "exact", lambda m, x: m.b(F.glu(m.a(x), 1)), **HALF)
row("glu_module", "exact", lambda m, x: m.b(m.g(m.a(x))), g=partial(nn.GLU, 1), **HALF)

# -------------------------------------------------------------------------- cat, stack, pad, repeat

row("cat", "exact", lambda m, x: m.b(torch.cat([m.a(x), m.c(x)], 1)), b=conv(40, 5), c=conv(3, 24))
row("cat_with_input", "exact", lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), b=conv(19, 5))
row("cat_space", "exact", lambda m, x: m.b(torch.cat([m.a(x), m.c(x)], 2)), c=conv(3, 16))
row("cat_batch", "exact", lambda m, x: m.b(torch.cat([m.a(x), m.c(x)], 0)), c=conv(3, 16))
row(
    "cat_same_twice",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([y, y], 1)))(m.a(x)),
    b=conv(32, 5),
)
row(
    "cat_negation",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([y, -y], 1).relu()))(m.a(x)),
    b=conv(32, 5),
)
row(
    "cat_flattened",
    "exact",
    lambda m, x: m.b(torch.cat([m.a(x).flatten(1), m.c(x).flatten(1)], 1)),
    b=lin(40 * 16, 5),
    c=conv(3, 24),
    example=small_image,
)
row(
    "cat_zeros",
    "exact",
    lambda m, x: m.b(torch.cat([m.a(x), x.new_zeros(x.shape[0], 8, 8, 8)], 1)),
    b=conv(24, 5),
)
row(
    "cat_zeros_like",
    "exact",
    lambda m, x: m.b(torch.cat([m.a(x), torch.zeros_like(m.a(x))], 1)),
    b=conv(32, 5),
)
row(
    "cat_then_bn",
    "exact",
    lambda m, x: m.b(m.n(torch.cat([m.a(x), m.c(x)], 1))),
    b=conv(32, 5),
    c=conv(3, 16),
    n=bn(32),
)
row("stack", "exact", lambda m, x: m.b(torch.stack([m.a(x), m.c(x)], 1).amax(1)), c=conv(3, 16))
row(
    "stack_interleave",
    "exact",
    lambda m, x: m.b(torch.stack([m.a(x), m.c(x)], 2).flatten(1, 2)),
    b=conv(32, 5),
    c=conv(3, 16),
)
row(
    "pad_channels",
    "exact",
    lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 4, 4)) + m.c(x)),
    b=conv(24, 5),
    c=conv(3, 24),
)
row(
    "pad_option_a",
    "exact",
    lambda m, x: (lambda y: m.b(m.c(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))))(m.a(x)),
    b=conv(32, 5),
    c=conv(16, 32, stride=2),
)
row(
    "pad_of_attribute",
    "exact",
    lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, m.extra, 0)) + m.c(x)),
    b=conv(24, 5),
    c=conv(3, 24),
    extra=8,
)
row(
    "pad_of_a_difference",
    "exact",
    lambda m, x: (lambda y, z: m.b(z + F.pad(y, (0, 0, 0, 0, 0, z.shape[1] - y.shape[1]))))(
        m.a(x), m.c(x)
    ),
    b=conv(24, 5),
    c=conv(3, 24),
    layer="c",
)
row(
    "pad_of_attributes",
    "exact",
    lambda m, x: (
        lambda y: m.b(m.c(y) + F.pad(y, (0, 0, 0, 0, (m.o - m.i) // 2, (m.o - m.i) // 2)))
    )(m.a(x)),
    b=conv(32, 5),
    c=conv(16, 32),
    i=16,
    o=32,
)
row("pad_space", "exact", lambda m, x: m.b(F.pad(m.a(x), (1, 1, 2, 0))))
row("pad_reflect", "exact", lambda m, x: m.b(F.pad(m.a(x), (1, 1, 1, 1), mode="reflect")))
row(
    "pad_circular",
    "exact",
    lambda m, x: m.b(m.a(x)),
    a=conv(3, 16),
    b=conv(16, 5, padding_mode="circular"),
)
row("repeat", "exact", lambda m, x: m.b(m.a(x).repeat(1, 2, 1, 1)), b=conv(32, 5))
row("repeat_interleave", "exact", lambda m, x: m.b(m.a(x).repeat_interleave(2, 1)), b=conv(32, 5))
row("tile", "exact", lambda m, x: m.b(m.a(x).tile((1, 3, 1, 1))), b=conv(48, 5))
row(
    "expand_gate",
    "exact",
    lambda m, x: (lambda y: m.b(y * m.g(y).expand_as(y)))(m.a(x)),
    g=conv(16, 1),
)
row(
    "expand_literal",
    "pinned:micro.py",
    lambda m, x: m.b(m.a(x) * m.g(x).expand(-1, 16, -1, -1)),
    g=conv(3, 1),
)
row(
    "expand_attribute",
    "exact",
    lambda m, x: m.b(m.a(x) * m.g(x).expand(-1, m.c, -1, -1)),
    g=conv(3, 1),
    c=16,
)

# ------------------------------------------------------------------------ slots looked up by number


def points() -> tuple:
    return (torch.randn(2, 12, 3),)


def nearest(m: Net, x: Tensor) -> Tensor:
    """As PointNet++ gathers points: rows and numbers, channels untouched."""
    y = m.a(x).relu()
    near = torch.cdist(x, x[:, :4]).topk(3, dim=1).indices.mT  # [B, 4, 3]
    rows = torch.arange(x.shape[0]).view(-1, 1, 1).expand_as(near)
    return m.b(y[rows, near, :].amax(2))


def last_token(m: Net, ids: Tensor) -> Tensor:
    y = m.a(m.e(ids)).relu()
    return m.b(y[torch.arange(len(ids)), ids.argmax(-1)])


def messages(m: Net, x: Tensor, edges: Tensor) -> Tensor:
    """As every layer of PyTorch Geometric: gather by source, add up by target."""
    y = m.a(x)
    sent = y[edges[0]]
    into = edges[1].view(-1, 1).expand_as(sent)
    return m.b(torch.zeros_like(y).scatter_add_(0, into, sent).relu())


def added_messages(m: Net, x: Tensor, edges: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y.index_add(0, edges[1], y.index_select(0, edges[0])))


def experts(m: Net, x: Tensor) -> Tensor:
    """Each row goes through the weights of the expert that its gate names."""
    y = m.a(x)
    weights, names = m.gate(y).softmax(-1).topk(2, -1)
    parts = (torch.bmm(y[:, None], m.w[names[:, j]])[:, 0] for j in range(2))
    return m.b(sum(weights[:, j, None] * part for j, part in enumerate(parts)))


def graph() -> tuple:
    return torch.randn(6, 8), torch.randint(0, 6, (2, 15))


CLOUD = {"a": lin(3, 16), "b": lin(16, 5), "example": points}
NODES = {"a": lin(8, 16), "b": lin(16, 5), "example": graph}
row("points_gathered", "exact", nearest, **CLOUD)
row(
    "token_by_number",
    "exact",
    last_token,
    e=partial(nn.Embedding, 9, 8),
    a=lin(8, 16),
    b=lin(16, 5),
    example=lambda: (torch.randint(0, 9, (2, 6)),),
)
row("messages_scattered", "exact", messages, **NODES)
row("messages_added", "exact", added_messages, **NODES)
for layer in ("a", "w"):
    row(
        f"experts_{layer}",
        "exact",
        experts,
        gate=lin(16, 4),
        w=weight(4, 16, 16),
        layer=layer,
        **NODES | {"example": vector},
    )
row(
    "experts_gate",
    "pinned:aten.topk compares its slots with each other",
    lambda m, x: m.gate(m.a(x)).topk(4, -1).values,
    a=lin(8, 16),
    b=None,
    gate=lin(16, 12),
    layer="gate.bias",
    example=vector,
)
row(
    "points_by_mask",
    "exact",
    lambda m, x: m.b(m.a(x)[x[..., 0] > 0]),
    **CLOUD,
)
row(
    "points_written",
    "exact",
    lambda m, x: (lambda y: m.b(y.index_put((x[..., 0] > 0,), m.t)))(m.a(x)),
    t=weight(16),
    layer="t",
    **CLOUD,
)
row(
    "tokens_gathered",
    "exact",
    lambda m, x: (
        lambda y: m.b(y.gather(1, y.detach()[:, :, :1].argsort(1).expand(-1, -1, y.shape[2])))
    )(m.a(x)),
    **CLOUD,
)
row(
    "corners_indexed",
    "exact",
    lambda m, x: m.b(m.a(x)[:, :, m.places, m.places].mT),
    b=lin(16, 5),
    places=torch.tensor([1, 2, 3]),
)

# --------------------------------------------------------------------------- views down to a linear

FLAT = {"b": lin(256, 5), "example": small_image}
row("flatten", "exact", lambda m, x: m.b(m.a(x).flatten(1)), **FLAT)
row("flatten_module", "exact", lambda m, x: m.b(m.f(m.a(x))), f=partial(nn.Flatten), **FLAT)
row("view_batch", "exact", lambda m, x: m.b(m.a(x).view(x.size(0), -1)), **FLAT)
row("view_literal", "pinned:micro.py", lambda m, x: m.b(m.a(x).view(-1, 256)), **FLAT)
row(
    "view_literal_batch_first",
    "pinned:micro.py",
    lambda m, x: m.b(m.a(x).reshape(x.shape[0], 256)),
    **FLAT,
)
row(
    "view_attribute",
    "exact",
    lambda m, x: m.b(m.a(x).view(x.shape[0], m.c, -1).mean(2)),
    c=16,
    b=lin(16, 5),
)
row("view_attribute_product", "exact", lambda m, x: m.b(m.a(x).view(-1, m.c * 4 * 4)), c=16, **FLAT)
row("nhwc_flatten", "exact", lambda m, x: m.b(m.a(x).permute(0, 2, 3, 1).flatten(1)), **FLAT)
row("nwhc_flatten", "exact", lambda m, x: m.b(m.a(x).permute(0, 3, 2, 1).flatten(1)), **FLAT)
row(
    "nwch_flatten",
    "exact",
    lambda m, x: m.b(m.a(x).permute(0, 3, 1, 2).reshape(x.shape[0], -1)),
    **FLAT,
)
row(
    "squeeze_and_view",
    "exact",
    lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).squeeze(-1).squeeze(-1)),
    b=lin(16, 5),
)
row(
    "pool_then_view",
    "exact",
    lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).view(x.shape[0], -1)),
    b=lin(16, 5),
)
row(
    "pyramid_pooling",
    "exact",
    lambda m, x: m.b(
        torch.cat([F.adaptive_max_pool2d(m.a(x), n).flatten(1) for n in (1, 2, 4)], 1)
    ),
    b=lin(16 * 21, 5),
)
row(
    "linear_view_conv",
    "exact",
    lambda m, x: m.b(m.a(x).view(x.shape[0], -1, 4, 4)),
    a=lin(8, 256),
    b=up(16, 3),
    example=vector,
)
row(
    "linear_view_literal",
    "pinned:micro.py",
    lambda m, x: m.b(m.a(x).view(-1, 16, 4, 4)),
    a=lin(8, 256),
    b=up(16, 3),
    example=vector,
)
row(
    "linear_view_attribute",
    "exact",
    lambda m, x: m.b(m.a(x).view(-1, m.c, 4, 4)),
    a=lin(8, 256),
    b=up(16, 3),
    c=16,
    example=vector,
)
row(
    "unflatten_module",
    "exact",
    lambda m, x: m.b(m.u(m.a(x))),
    a=lin(8, 256),
    b=up(16, 3),
    u=partial(nn.Unflatten, 1, (16, 4, 4)),
    example=vector,
)
row("tokens_of_map", "exact", lambda m, x: m.b(m.a(x).flatten(2).transpose(1, 2)), b=lin(16, 5))

# -------------------------------------------------------------------- gates, squeeze and excitation


def squeeze(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


row("gate", "exact", lambda m, x: m.b(m.a(x) * m.c(x).sigmoid()), c=conv(3, 16))
row(
    "se_conv",
    "exact",
    lambda m, x: (lambda y: m.b(y * m.g(squeeze(y)).sigmoid()))(m.a(x)),
    g=seq(conv(16, 16, 1), relu, conv(16, 16, 1)),
)
row(
    "se_linear",
    "exact",
    lambda m, x: (lambda y: m.b(y * m.g(y.mean((2, 3))).sigmoid().view(y.shape[0], -1, 1, 1)))(
        m.a(x)
    ),
    g=seq(lin(16, 8), relu, lin(8, 16)),
)
row(
    "se_linear_view_shape",
    "exact",
    lambda m, x: (
        lambda y: m.b(
            y * m.g(squeeze(y).view(y.shape[0], y.shape[1])).view(y.shape[0], y.shape[1], 1, 1)
        )
    )(m.a(x)),
    g=seq(lin(16, 8), relu, lin(8, 16)),
)
row(
    "eca",
    "pinned:micro.py",
    lambda m, x: (lambda y: m.b(y * m.g(y.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(3)))(
        m.a(x)
    ),
    g=partial(nn.Conv1d, 1, 1, 3, padding=1),
)
row(
    "mask_one_channel",
    "exact",
    lambda m, x: (lambda y: m.b(y * m.g(y).sigmoid()))(m.a(x)),
    g=conv(16, 1),
)
row("mask_from_input", "exact", lambda m, x: m.b(m.a(x) * x[:, :1]))
row(
    "mask_squeezed",
    "exact",
    lambda m, x: (lambda y: m.b(y * m.g(y).squeeze(1).unsqueeze(1)))(m.a(x)),
    g=conv(16, 1),
)


def cbam(x: Tensor, spatial: nn.Module) -> Tensor:
    return x * spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


row("cbam", "approximate", lambda m, x: m.b(cbam(m.a(x), m.s)), s=conv(2, 1))

# ------------------------------------------------------------------------------------- convolutions

row("plain", "exact", lambda m, x: m.b(m.a(x).relu()))
row("conv_without_bias", "exact", lambda m, x: m.b(m.a(x)), a=conv(3, 16, bias=False))
row(
    "sequential",
    "exact",
    lambda m, x: m.b(x),
    a=None,
    b=seq(conv(3, 16), bn(16), relu, conv(16, 5)),
    layer="b.0",
)
row("grouped", "exact", lambda m, x: m.b(m.g(m.a(x))), g=conv(32, 32, groups=2), **WIDE)
row(
    "grouped_changes_width",
    "exact",
    lambda m, x: m.b(m.g(m.a(x))),
    g=conv(32, 64, groups=4),
    a=conv(3, 32),
    b=conv(64, 5),
)
row("depthwise", "exact", lambda m, x: m.b(m.g(m.a(x))), g=conv(16, 16, groups=16))
row(
    "depthwise_multiplier",
    "exact",
    lambda m, x: m.b(m.g(m.a(x))),
    g=conv(16, 32, groups=16),
    b=conv(32, 5),
)
row(
    "depthwise_of_input",
    "exact or pinned:",
    lambda m, x: m.b(m.a(x)),
    a=conv(3, 24, groups=3),
    b=conv(24, 5),
)
row(
    "depthwise_function",
    "exact",
    lambda m, x: m.b(F.conv2d(m.a(x), m.w, groups=m.w.shape[0])),
    w=weight(16, 1, 3, 3),
)
row(
    "depthwise_literal",
    "pinned:micro.py",
    lambda m, x: m.b(F.conv2d(m.a(x), m.w, groups=16)),
    w=weight(16, 1, 3, 3),
)
row(
    "blur_buffer",
    "exact",
    lambda m, x: (lambda y: m.b(F.conv2d(y, m.k.expand(y.shape[1], 1, 3, 3), groups=y.shape[1])))(
        m.a(x)
    ),
    k=buffer(1, 1, 3, 3),
)
row(
    "grouped_after_cat",
    "exact",
    lambda m, x: m.b(m.g(torch.cat([m.a(x), m.c(x)], 1))),
    b=conv(32, 5),
    c=conv(3, 16),
    g=conv(32, 32, groups=2),
)
row(
    "grouped_after_cat_many",
    "exact",
    lambda m, x: m.b(m.g(torch.cat([m.a(x), m.c(x)], 1))),
    b=conv(48, 5),
    c=conv(3, 32),
    g=conv(48, 48, groups=4),
)
row("transposed", "exact", lambda m, x: m.b(m.g(m.a(x))), g=up(16, 24), b=conv(24, 5))
row("transposed_grouped", "exact", lambda m, x: m.b(m.g(m.a(x))), g=up(32, 32, groups=2), **WIDE)
row("transposed_depthwise", "exact", lambda m, x: m.b(m.g(m.a(x))), g=up(16, 16, groups=16))
row(
    "transposed_depthwise_multiplier",
    "exact",
    lambda m, x: m.b(m.g(m.a(x))),
    g=up(16, 32, groups=16),
    b=conv(32, 5),
)
row(
    "conv1d",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    a=partial(nn.Conv1d, 3, 16, 3),
    n=partial(nn.BatchNorm1d, 16),
    b=partial(nn.Conv1d, 16, 5, 1),
    example=lambda: (torch.randn(2, 3, 12),),
)
row(
    "conv3d",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    a=partial(nn.Conv3d, 3, 16, 3),
    n=partial(nn.BatchNorm3d, 16),
    b=partial(nn.Conv3d, 16, 5, 1),
    example=lambda: (torch.randn(2, 3, 5, 5, 5),),
)
row(
    "transposed_1d",
    "exact",
    lambda m, x: m.b(m.a(x).relu()),
    a=partial(nn.Conv1d, 3, 16, 3),
    b=partial(nn.ConvTranspose1d, 16, 5, 2),
    example=lambda: (torch.randn(2, 3, 12),),
)
row(
    "embedding_conv1d",
    "exact",
    lambda m, t: m.b(m.a(t).transpose(1, 2)).amax(2),
    a=partial(nn.Embedding, 30, 16),
    b=partial(nn.Conv1d, 16, 5, 3),
    example=lambda: (torch.arange(18).view(2, 9),),
)
row(
    "mlp",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    a=lin(8, 16),
    n=partial(nn.BatchNorm1d, 16),
    b=lin(16, 5),
    example=vector,
)
row(
    "tokens_mlp",
    "exact",
    lambda m, x: m.b(F.gelu(m.a(x))),
    a=lin(8, 16),
    b=lin(16, 8),
    example=tokens,
)

# ------------------------------------------------------------------------ weights that are computed

row(
    "weight_scaled",
    "exact",
    lambda m, x: m.b(F.conv2d(x, m.w * 0.5)),
    a=None,
    w=weight(16, 3, 3, 3),
    layer="w",
)
row(
    "weight_scale_parameter",
    "exact",
    lambda m, x: m.b(F.conv2d(x, m.a.weight * m.s, m.a.bias)),
    s=weight(16, 1, 1, 1),
)
row(
    "weight_masked",
    "exact",
    lambda m, x: m.b(F.conv2d(x, m.a.weight * m.k, m.a.bias)),
    k=partial(lambda: nn.Buffer((torch.randn(16, 3, 3, 3) > 0).float())),
)


def standardised(weight: Tensor) -> Tensor:
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)


row(
    "weight_standardised",
    "exact",
    lambda m, x: m.b(F.conv2d(x, standardised(m.a.weight), m.a.bias)),
)
row(
    "weight_standardised_chain",
    "approximate or pinned:micro.py",
    lambda m, x: m.b(F.conv2d(m.a(x), standardised(m.c.weight), m.c.bias)),
    c=conv(16, 16),
)
row(
    "weight_reparametrised",
    "exact",
    lambda m, x: m.b(
        F.conv2d(x, m.a.weight + F.pad(m.c.weight, (1, 1, 1, 1)), m.a.bias, padding=1)
    ),
    c=conv(3, 16, 1, bias=False),
)
row(
    "weight_outer",
    "exact or pinned:",
    lambda m, x: m.b(F.linear(x, torch.outer(m.u, m.v)).relu()),
    a=None,
    u=weight(16),
    v=weight(8),
    b=lin(16, 5),
    layer="u",
    example=vector,
)
row(
    "weight_low_rank",
    "exact",
    lambda m, x: m.b(F.linear(x, m.u @ m.v).relu()),
    a=None,
    u=weight(16, 8),
    v=weight(8, 8),
    b=lin(16, 5),
    layer="u",
    example=vector,
)
row(
    "weight_norm",
    "exact",
    lambda m, x: m.b(m.a(x).relu()),
    a=partial(lambda: parametrizations.weight_norm(nn.Conv2d(3, 16, 3))),
)
row(
    "weight_norm_chain",
    "exact",
    lambda m, x: m.b(m.c(m.a(x)).relu()),
    c=partial(lambda: parametrizations.weight_norm(nn.Conv2d(16, 16, 3))),
)
row(
    "spectral_norm",
    "exact",
    lambda m, x: m.b(m.a(x).relu()),
    a=partial(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 16, 3))),
)
row(
    "spectral_norm_chain",
    "exact",
    lambda m, x: m.b(m.c(m.a(x)).relu()),
    c=partial(lambda: parametrizations.spectral_norm(nn.Conv2d(16, 16, 3))),
)
row(
    "spectral_norm_twice",
    "exact",
    lambda m, x: m.b(m.c(m.a(x).relu()).relu()),
    a=partial(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 16, 3))),
    c=partial(lambda: nn.utils.spectral_norm(nn.Conv2d(16, 16, 3))),
)
row(
    "spectral_norm_hook",
    "exact",
    lambda m, x: m.b(m.a(x).relu()),
    a=partial(lambda: nn.utils.spectral_norm(nn.Conv2d(3, 16, 3))),
)

# ---------------------------------------------------------------------------- norms and activations

row("batch_norm", "exact", lambda m, x: m.b(m.n(m.a(x)).relu()), n=bn(16))
row("batch_norm_plain", "exact", lambda m, x: m.b(m.n(m.a(x)).relu()), n=bn(16, affine=False))
row(
    "batch_norm_batch_statistics",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=bn(16, track_running_stats=False),
)
row("batch_norm_first", "exact", lambda m, x: m.b(m.a(m.n(x).relu())), n=bn(3))
row(
    "batch_norm_function",
    "exact",
    lambda m, x: m.b(F.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias)),
    n=bn(16),
)
row(
    "instance_norm", "exact", lambda m, x: m.b(m.n(m.a(x)).relu()), n=partial(nn.InstanceNorm2d, 16)
)
row(
    "instance_norm_affine",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.InstanceNorm2d, 16, affine=True),
)
row(
    "instance_norm_tracking",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.InstanceNorm2d, 16, affine=True, track_running_stats=True),
)
row(
    "group_norm",
    "approximate",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.GroupNorm, 2, 32),
    **WIDE,
)
row(
    "group_norm_one_group",
    "approximate",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.GroupNorm, 1, 16),
)
row(
    "group_norm_per_channel",
    "exact or approximate or pinned:",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.GroupNorm, 16, 16),
)
row(
    "layer_norm",
    "approximate",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    a=lin(8, 16),
    n=partial(nn.LayerNorm, 16),
    b=lin(16, 5),
    example=tokens,
)
row(
    "layer_norm_three_axes",
    "approximate",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.LayerNorm, [16, 8, 8]),
)
row(
    "layer_norm_space",
    "exact",
    lambda m, x: m.b(m.n(m.a(x)).relu()),
    n=partial(nn.LayerNorm, [8, 8]),
)
row(
    "layer_norm_of_shape",
    "approximate",
    lambda m, x: (lambda y: m.b(F.layer_norm(y, y.shape[1:])))(m.a(x)),
)
row(
    "layer_norm_channels_last",
    "approximate",
    lambda m, x: m.b(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
    n=partial(nn.LayerNorm, 16),
)
row(
    "rms_norm",
    "approximate",
    lambda m, x: m.b(m.n(m.a(x))),
    a=lin(8, 16),
    n=partial(nn.RMSNorm, 16),
    b=lin(16, 5),
    example=tokens,
)
row(
    "local_response_norm",
    "approximate or pinned:",
    lambda m, x: m.b(m.n(m.a(x))),
    n=partial(nn.LocalResponseNorm, 5),
)


def response_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    strength = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return x + gamma * (x * (strength / (strength.mean(-1, keepdim=True) + 1e-6))) + beta


row(
    "global_response_norm",
    "approximate",
    lambda m, x: m.b(response_norm(m.a(x).permute(0, 2, 3, 1), m.s, m.t).permute(0, 3, 1, 2)),
    s=weight(1, 1, 1, 16),
    t=weight(1, 1, 1, 16),
)
row("prelu", "exact", lambda m, x: m.b(m.p(m.a(x))), p=partial(nn.PReLU, 16))
row("prelu_one_slope", "exact", lambda m, x: m.b(m.p(m.a(x))), p=partial(nn.PReLU))
row(
    "prelu_everywhere",
    "exact",
    lambda m, x: m.q(m.b(m.p(m.a(m.o(x))))),
    o=partial(nn.PReLU, 3),
    p=partial(nn.PReLU, 16),
    q=partial(nn.PReLU, 5),
)
row(
    "activations",
    "exact",
    lambda m, x: m.b(F.hardswish(F.mish(F.elu(F.silu(F.gelu(F.hardtanh(m.a(x)))))))),
)
row("maxout", "exact", lambda m, x: m.b(torch.maximum(m.a(x), m.c(x))), c=conv(3, 16))
row("crelu_square", "exact", lambda m, x: m.b(m.a(x).relu() ** 2))
row(
    "negatives_put_to_zero",
    "exact",
    lambda m, x: (lambda y: m.b(y.index_put((y < 0,), m.z)))(m.a(x)),
    z=torch.tensor(0.0).double(),
)
row(
    "dropout_of_maps_beside_a_layer_that_never_runs",
    "exact",
    lambda m, x: m.b(m.d(m.a(x))),
    d=partial(nn.Dropout2d, 0.2),
    never=lin(4, 4),
)
row(
    "dropout",
    "exact",
    lambda m, x: m.b(m.d(m.a(x))),
    d=seq(partial(nn.Dropout), partial(nn.Dropout2d), partial(nn.AlphaDropout)),
)

# ------------------------------------------------------------------ parameters, buffers, arithmetic

row("scale_parameter", "exact", lambda m, x: m.b(m.a(x) * m.s), s=weight(1, 16, 1, 1))
row("scale_parameter_view", "exact", lambda m, x: m.b(m.a(x) * m.s.view(1, -1, 1, 1)), s=weight(16))
row(
    "scale_parameter_indexed",
    "exact",
    lambda m, x: m.b(m.a(x) * m.s[None, :, None, None]),
    s=weight(16),
)
row("scale_scalar", "exact", lambda m, x: m.b(m.a(x) * m.s), s=weight())
row(
    "layer_scale",
    "exact",
    lambda m, x: (lambda y: m.b(y + m.s * m.c(y)))(m.a(x)),
    s=weight(16, 1, 1),
    c=conv(16, 16),
)
row("position_map", "exact", lambda m, x: m.b(m.a(x) + m.p), p=weight(1, 16, 8, 8))
row("position_map_of_space", "exact", lambda m, x: m.b(m.a(x) + m.p), p=weight(1, 1, 8, 8))
row(
    "position_tokens",
    "exact",
    lambda m, x: m.b((m.a(x) + m.p).relu()),
    a=lin(8, 16),
    b=lin(16, 5),
    p=weight(1, 7, 16),
    example=tokens,
)
row(
    "class_token",
    "exact",
    lambda m, x: m.b(torch.cat([m.t.expand(x.shape[0], -1, -1), m.a(x)], 1)),
    a=lin(8, 16),
    b=lin(16, 5),
    t=weight(1, 1, 16),
    example=tokens,
)
row("buffer_added", "exact", lambda m, x: m.b(m.a(x) + m.k), k=buffer(16, 1, 1))
row("buffer_multiplied", "exact", lambda m, x: m.b(m.a(x) * m.k), k=buffer(1, 16, 1, 1))
row("frozen_layer", "exact", lambda m, x: m.b(m.a(x)), a=frozen(conv(3, 16)))
row("frozen_norm", "exact", lambda m, x: m.b(m.n(m.a(x))), n=frozen(bn(16)))
row(
    "addcmul",
    "exact",
    lambda m, x: m.b(torch.addcmul(m.a(x), m.c(x), m.s)),
    c=conv(3, 16),
    s=weight(16, 1, 1),
)
row("lerp", "exact", lambda m, x: m.b(torch.lerp(m.a(x), m.c(x), 0.3)), c=conv(3, 16))
row("clamp", "exact", lambda m, x: m.b(m.a(x).clamp(-0.5, 0.5)))
row("clamp_buffer", "exact", lambda m, x: m.b(torch.clamp(m.a(x), max=m.k)), k=buffer(16, 1, 1))
row("masked_fill", "exact", lambda m, x: m.b(m.a(x).masked_fill(m.c(x) < 0, 0.25)), c=conv(3, 16))
row(
    "where",
    "exact",
    lambda m, x: (lambda y: m.b(torch.where(y > 0, y, y * m.s)))(m.a(x)),
    s=weight(16, 1, 1),
)
row("where_space", "exact", lambda m, x: m.b(torch.where(x[:, :1] > 0, m.a(x), 0.0)))
row(
    "matmul_parameter",
    "exact",
    lambda m, x: m.b((m.a(x) @ m.w).relu()),
    a=lin(8, 16),
    b=lin(24, 5),
    w=weight(16, 24),
    example=tokens,
)
row(
    "matmul_transposed_parameter",
    "exact",
    lambda m, x: m.b((x @ m.w.T).relu()),
    a=None,
    b=lin(16, 5),
    w=weight(16, 8),
    layer="w",
    example=vector,
)
row(
    "addmm",
    "exact",
    lambda m, x: m.b(torch.addmm(m.t, m.a(x).relu(), m.w)),
    a=lin(8, 16),
    b=lin(16, 5),
    w=weight(16, 16),
    t=weight(16),
    example=vector,
)
row(
    "bmm_space",
    "exact",
    lambda m, x: m.b((m.a(x).flatten(2) @ m.k).unflatten(2, (8, 8))),
    k=buffer(64, 64),
)

# ------------------------------------------------------------------------------ gradients and reuse


def straight_through(x: Tensor) -> Tensor:
    return x + (x.sign() - x).detach()


@torch.no_grad()
def without_gradient(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


row("detached_branch", "exact", lambda m, x: m.b(m.a(x) + m.c(x).detach()), c=conv(3, 16))
row("no_grad_branch", "exact", lambda m, x: m.b(m.a(x) + without_gradient(m.c, x)), c=conv(3, 16))
row("straight_through", "exact", lambda m, x: m.b(straight_through(m.a(x))))
row(
    "checkpoint",
    "exact",
    lambda m, x: m.b(checkpoint(m.c, m.a(x), use_reentrant=False)),
    c=conv(16, 16),
)
row("shared_layer", "exact", lambda m, x: m.b(m.c(m.c(m.a(x)).relu())), c=conv(16, 16))
row(
    "shared_block_three_times",
    "exact",
    lambda m, x: (lambda f: m.b(f(f(f(m.a(x))))))(lambda y: y + m.c(y).relu()),
    c=seq(conv(16, 24), relu, conv(24, 16)),
)
row("shared_on_two_inputs", "exact", lambda m, x: m.b(m.a(x) + m.a(x.flip(-1)).relu()))
row("shared_norm", "exact", lambda m, x: m.b(m.n(m.a(x)) + m.n(m.c(x))), c=conv(3, 16), n=bn(16))
row("shared_tail", "exact", lambda m, x: (m.b(m.a(x)), m.b(m.c(x))), c=conv(3, 16))

# -------------------------------------------------------------------------- contractions, attention

row(
    "einsum_linear",
    "exact",
    lambda m, x: m.b(torch.einsum("bchw,oc->bohw", m.a(x), m.w).relu()),
    w=weight(24, 16),
    b=conv(24, 5),
)
row(
    "einsum_mix",
    "exact",
    lambda m, x: m.b(torch.einsum("bchw,bchw->bchw", m.a(x), m.c(x))),
    c=conv(3, 16),
)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bci,bcj->bij", q.flatten(2), k.flatten(2)).softmax(-1)
    return torch.einsum("bij,bcj->bci", weights, v.flatten(2)).view(v.shape[0], -1, *v.shape[2:])


QKV = {"a": conv(3, 16, 1), "k": conv(3, 16, 1), "v": conv(3, 24, 1), "b": conv(24, 5)}
row("einsum_attention", "exact", lambda m, x: m.b(attend(m.a(x), m.k(x), m.v(x))), **QKV)
row(
    "attention_not_zero_at_zero",
    "approximate or pinned:",
    lambda m, x: m.b(attend(m.a(x).sigmoid(), m.k(x).sigmoid(), m.v(x))),
    **QKV,
)
row(
    "attention_scaled_by_width",
    "exact or approximate or pinned:",
    lambda m, x: (lambda q: m.b(attend(q * q.shape[1] ** -0.5, m.k(x), m.v(x))))(m.a(x)),
    **QKV,
)
row(
    "attention_function",
    "exact or approximate or pinned:",
    lambda m, x: m.b(F.scaled_dot_product_attention(m.a(x), m.k(x), m.v(x))),
    a=lin(8, 16),
    k=lin(8, 16),
    v=lin(8, 24),
    b=lin(24, 5),
    example=tokens,
)
row(
    "channel_attention",
    "approximate",
    lambda m, x: (lambda y: m.b(((y @ y.mT).softmax(-1) @ y).unflatten(2, (8, 8))))(
        m.a(x).flatten(2)
    ),
)
row(
    "gram_without_softmax",
    "exact",
    lambda m, x: (lambda y: m.b((y @ y.mT @ y).unflatten(2, (8, 8))))(m.a(x).flatten(2)),
)


def non_local(x: Tensor, theta: nn.Module, phi: nn.Module, g: nn.Module, out: nn.Module) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (theta, phi, g))
    mixed = torch.bmm(torch.bmm(q.transpose(1, 2), k).softmax(-1), v.transpose(1, 2))
    return x + out(mixed.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))


row(
    "non_local",
    "exact",
    lambda m, x: m.b(non_local(m.a(x), m.t, m.p, m.g, m.o)),
    t=conv(16, 16, 1),
    p=conv(16, 16, 1),
    g=conv(16, 16, 1),
    o=conv(16, 16, 1),
)
row(
    "unfold_matmul",
    "exact or pinned:",
    lambda m, x: m.b((m.w @ F.unfold(m.a(x), 3, padding=1)).unflatten(2, (8, 8))),
    w=weight(16, 144),
)
row(
    "bilinear",
    "exact",
    lambda m, x: m.b(m.c(m.a(x), m.a(x))),
    a=lin(8, 16),
    c=partial(nn.Bilinear, 16, 16, 24),
    b=lin(24, 5),
    example=vector,
)
row(
    "outer_product_pooling",
    "exact or pinned:",
    lambda m, x: m.b(torch.einsum("bchw,bdhw->bcd", m.a(x), m.a(x)).flatten(1)),
    b=lin(256, 5),
)
row(
    "correlation",
    "exact",
    lambda m, x: m.b((m.a(x) * m.c(x)).sum(1, keepdim=True)),
    c=conv(3, 16),
    b=conv(1, 5),
)

# ------------------------------------------------------------------------- statistics over channels

ONE = {"b": conv(1, 5)}
row("sum_channels", "exact", lambda m, x: m.b(m.a(x).relu().sum(1, keepdim=True)), **ONE)
row(
    "sum_channels_not_zero_at_zero",
    "approximate or pinned:",
    lambda m, x: m.b(m.a(x).sigmoid().sum(1, keepdim=True)),
    **ONE,
)
row("mean_channels", "approximate", lambda m, x: m.b(m.a(x).mean(1, keepdim=True)), **ONE)
row("max_channels", "approximate", lambda m, x: m.b(m.a(x).max(1, keepdim=True)[0]), **ONE)
row(
    "max_channels_after_relu",
    "exact or approximate",
    lambda m, x: m.b(m.a(x).relu().amax(1, keepdim=True)),
    **ONE,
)
row("std_channels", "approximate", lambda m, x: m.b(m.a(x) / (m.a(x).std(1, keepdim=True) + 1)))
row("softmax_channels", "approximate", lambda m, x: m.b(m.a(x).softmax(1)))
row("log_softmax_channels", "approximate", lambda m, x: m.b(m.a(x).log_softmax(1)))
row("normalize_channels", "exact or approximate", lambda m, x: m.b(F.normalize(m.a(x), dim=1)))
row(
    "cosine_similarity",
    "exact or approximate",
    lambda m, x: m.b(F.cosine_similarity(m.a(x), m.c(x), 1).unsqueeze(1)),
    c=conv(3, 16),
    **ONE,
)
row("cumsum_channels", "exact or pinned:cumsum", lambda m, x: m.b(m.a(x).cumsum(1)))
row("fft_space", "exact or pinned:fft", lambda m, x: m.b(torch.fft.fft2(m.a(x)).real))
row("fft_channels", "pinned:fft", lambda m, x: m.b(torch.fft.fft(m.a(x), dim=1).real))
row("sort_channels", "pinned:sort", lambda m, x: m.b(m.a(x).sort(1)[0]))
row("topk_channels", "pinned:topk", lambda m, x: m.b(m.a(x).topk(8, 1)[0]), b=conv(8, 5))

# -------------------------------------------------------------------------------- space and pooling

row("max_pool", "exact", lambda m, x: m.b(F.max_pool2d(m.a(x), 3, 2, 1)))
row("avg_pool", "exact", lambda m, x: m.b(F.avg_pool2d(m.a(x), 2)))
row(
    "adaptive_pools",
    "exact",
    lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 3) + F.adaptive_max_pool2d(m.a(x), 3)),
)
row("lp_pool", "exact", lambda m, x: m.b(F.lp_pool2d(m.a(x).relu() + 0.1, 2, 2)))
row(
    "unpool",
    "exact",
    lambda m, x: (lambda y: m.b(F.max_unpool2d(y[0].relu(), y[1], 2)))(
        F.max_pool2d(m.a(x), 2, return_indices=True)
    ),
)
row("interpolate", "exact", lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2)))
row(
    "interpolate_bilinear",
    "exact",
    lambda m, x: m.b(F.interpolate(m.a(x), size=(5, 7), mode="bilinear", align_corners=False)),
)
row(
    "grid_sample",
    "exact",
    lambda m, x: m.b(
        F.grid_sample(m.a(x), x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False)
    ),
)
row("global_mean", "exact", lambda m, x: m.b(m.a(x).mean((2, 3))), b=lin(16, 5))
row("flip_batch", "exact", lambda m, x: m.b(m.a(x)[[1, 0]]))

# ----------------------------------------------------------------------------------------- in place


def written(y: Tensor, x: Tensor) -> Tensor:
    y[:, :8] = x[:, :1]
    return y


def copied(y: Tensor, out: Tensor, start: int = 0) -> Tensor:
    out[:, start : start + y.shape[1]] = y
    return out


row("relu_in_place", "exact", lambda m, x: m.b(m.a(x).relu_()))
row("add_in_place", "exact", lambda m, x: m.b(m.a(x).add_(m.c(x)).mul_(2)), c=conv(3, 16))
row(
    "iadd_of_branch",
    "exact",
    lambda m, x: (lambda y: m.b(m.c(y).__iadd__(y)))(m.a(x)),
    c=conv(16, 16),
)
row("slice_assigned", "exact or pinned:micro.py", lambda m, x: m.b(written(m.a(x), x)))
row(
    "space_assigned",
    "exact",
    lambda m, x: m.b(copied(m.a(x).mT[:, :, 2:].mT, torch.zeros_like(m.a(x)).mT[:, :, 2:].mT)),
)
row(
    "copied_into_zeros",
    "exact or pinned:micro.py",
    lambda m, x: m.b(copied(m.a(x), x.new_zeros(x.shape[0], 24, 8, 8))),
    b=conv(24, 5),
)
row(
    "copied_into_zeros_of_shape",
    "exact",
    lambda m, x: m.b(copied(m.a(x), x.new_zeros(m.a(x).shape))),
)
row(
    "copied_into_zeros_offset",
    "exact or pinned:micro.py",
    lambda m, x: m.b(copied(m.a(x), x.new_zeros(x.shape[0], 24, 8, 8), 4)),
    b=conv(24, 5),
)

# ----------------------------------------------------------------------------------- whole patterns

row(
    "residual",
    "exact",
    lambda m, x: (lambda y: m.b((y + m.d(m.c(y).relu())).relu()))(m.a(x)),
    c=conv(16, 24),
    d=conv(24, 16),
)
row(
    "residual_projected",
    "exact",
    lambda m, x: (lambda y: m.b(m.c(y) + m.d(y)))(m.a(x)),
    b=conv(24, 5),
    c=conv(16, 24),
    d=conv(16, 24, 1),
)
row(
    "dense_block",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([y, m.c(m.n(y).relu())], 1)))(m.a(x)),
    b=conv(32, 5),
    c=conv(16, 16),
    n=bn(16),
)
row(
    "inception",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([m.c(y), m.d(y), F.max_pool2d(y, 3, 1, 1)], 1)))(m.a(x)),
    b=conv(64, 5),
    c=conv(16, 16, 1),
    d=conv(16, 32),
)
row(
    "inverted_residual",
    "exact",
    lambda m, x: (lambda y: m.b(y + m.c(y)))(m.a(x)),
    c=seq(conv(16, 32, 1), bn(32), relu, conv(32, 32, groups=32), bn(32), conv(32, 16, 1)),
)
row(
    "ghost",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([y, m.c(y)], 1)))(m.a(x)),
    b=conv(32, 5),
    c=conv(16, 16, groups=16),
)
row(
    "unet",
    "exact",
    lambda m, x: (lambda y: m.b(torch.cat([y, m.u(m.c(y))], 1)))(m.a(x)),
    b=conv(32, 5),
    c=conv(16, 24, stride=2),
    u=up(24, 16),
)
row(
    "convnext",
    "approximate",
    lambda m, x: (
        lambda y: m.b(y + m.s * m.f(m.n(m.c(y).permute(0, 2, 3, 1))).permute(0, 3, 1, 2))
    )(m.a(x)),
    c=conv(16, 16, groups=16),
    n=partial(nn.LayerNorm, 16),
    f=seq(lin(16, 32), partial(nn.GELU), lin(32, 16)),
    s=weight(16, 1, 1),
)
row(
    "two_outputs",
    "exact",
    lambda m, x: (lambda y: (m.b(y), m.c(y).mean((2, 3))))(m.a(x)),
    c=conv(16, 7),
)
row(
    "dict_output",
    "exact",
    lambda m, x: (lambda y: {"map": m.b(y), "more": [m.c(y), {"again": m.b(y)}]})(m.a(x)),
    c=conv(16, 7),
)
row("feature_is_output", "pinned:output", lambda m, x: (lambda y: (y, m.b(y)))(m.a(x)))
row(
    "two_inputs",
    "exact",
    lambda m, x, y: m.b(m.a(x) + m.c(y)),
    c=conv(2, 16),
    example=lambda: (torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8)),
)
row(
    "tuple_input",
    "exact",
    lambda m, xs: m.b(m.a(xs[0]) + m.a(xs[1])),
    example=lambda: ([torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)],),
)
row(
    "mean_shift",
    "exact",
    lambda m, x: m.t(m.b(m.a(m.s(x)))),
    b=conv(16, 3),
    s=frozen(conv(3, 3, 1)),
    t=frozen(conv(3, 3, 1)),
)

# --------------------------------------------------------------------------------- recurrent layers


def lstm(inner: int, outer: int, **options: Any) -> partial:
    return partial(nn.LSTM, inner, outer, batch_first=True, **options)


def gru(inner: int, outer: int, **options: Any) -> partial:
    return partial(nn.GRU, inner, outer, batch_first=True, **options)


def stepwise(m: Net, x: Tensor) -> Tensor:
    """A cell at work: its state starts as it likes and every step is kept."""
    state, seen = None, []
    for now in x.unbind(1):
        state = m.a(now, state)
        seen.append(state[0] if isinstance(state, tuple) else state)
    return m.b(torch.stack(seen, 1))


def by_hand(m: Net, x: Tensor) -> Tensor:
    """An LSTM of two linears."""
    h = c = torch.zeros(x.shape[0], m.units, dtype=x.dtype)
    for now in x.unbind(1):
        i, f, g, o = (m.a(now) + m.c(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return m.b(h)


def packed(m: Net, x: Tensor) -> Tensor:
    """Sequences of different lengths, in any order."""
    lengths = torch.tensor([3, 7])
    given = pack_padded_sequence(m.e(x), lengths, batch_first=True, enforce_sorted=False)
    out, (h, _) = m.a(given)
    return m.b(pad_packed_sequence(out, batch_first=True)[0] + h[-1][:, None])


RECURRENT = {"b": lin(16, 5), "example": tokens}
BOTH = {"b": lin(32, 5), "example": tokens}
for name, part in {
    "lstm": lstm(8, 16),
    "lstm_deep": lstm(8, 16, num_layers=3),
    "lstm_plain": lstm(8, 16, bias=False),
    "lstm_projected": lstm(8, 24, proj_size=16, num_layers=2),
    "gru": gru(8, 16),
    "gru_deep": gru(8, 16, num_layers=2, bias=False),
    "rnn": partial(nn.RNN, 8, 16, num_layers=2),
    "rnn_relu": partial(nn.RNN, 8, 16, nonlinearity="relu"),
}.items():
    row(name, "exact", lambda m, x: m.b(m.a(x)[0]), a=part, **RECURRENT)
for name, part in {
    "lstm_both_ways": lstm(8, 16, bidirectional=True, num_layers=2),
    "lstm_projected_both_ways": lstm(8, 24, bidirectional=True, num_layers=2, proj_size=16),
    "gru_both_ways": gru(8, 16, bidirectional=True),
}.items():
    row(name, "exact", lambda m, x: m.b(m.a(x)[0]), a=part, **BOTH)
for name, part in {
    "lstm_cell": partial(nn.LSTMCell, 8, 16),
    "gru_cell": partial(nn.GRUCell, 8, 16, bias=False),
    "rnn_cell": partial(nn.RNNCell, 8, 16),
    "rnn_cell_relu": partial(nn.RNNCell, 8, 16, nonlinearity="relu"),
}.items():
    row(name, "exact", stepwise, a=part, **RECURRENT)
row("lstm_by_hand", "exact", by_hand, a=lin(8, 64), c=lin(16, 64), units=16, **RECURRENT)
row("lstm_packed", "exact", packed, e=lin(8, 12), a=lstm(12, 16), **RECURRENT)
row("lstm_last_state", "exact", lambda m, x: m.b(m.a(x)[1][0][-1]), a=lstm(8, 16), **RECURRENT)
row(
    "lstm_last_memory",
    "exact",
    lambda m, x: m.b(m.a(x)[1][1].transpose(0, 1).flatten(1)),
    a=lstm(8, 16, bidirectional=True),
    **BOTH,
)
row(
    "lstm_last_states_both_ways",
    "exact",
    lambda m, x: m.b(torch.cat((m.a(x)[1][0][-2], m.a(x)[1][0][-1]), 1)),
    a=lstm(8, 16, bidirectional=True, num_layers=2),
    **BOTH,
)
row(
    "lstm_directions_added",
    "exact",
    lambda m, x: m.b(sum(m.a(x)[0].chunk(2, -1))),
    a=lstm(8, 16, bidirectional=True),
    **RECURRENT,
)
row(
    "lstm_directions_by_size",
    "exact",
    lambda m, x: m.b(m.a(x)[0].view(2, 7, 2, m.a.hidden_size).sum(2)),
    a=lstm(8, 16, bidirectional=True),
    **RECURRENT,
)
row("lstm_of_one", "exact", lambda m, x: m.b(m.a(x[0])[0]), a=lstm(8, 16), **RECURRENT)
row(
    "lstm_chain",
    "exact",
    lambda m, x: m.b(m.c(m.a(x).relu())[0]),
    a=lin(8, 16),
    c=lstm(16, 16),
    **RECURRENT,
)
row(
    "lstm_residual",
    "exact",
    lambda m, x: m.b((y := m.a(x)) + m.c(y)[0]),
    a=lin(8, 16),
    c=lstm(16, 16),
    **RECURRENT,
)
row(
    "lstm_after_convolution",
    "exact",
    lambda m, x: m.b(m.c(m.a(x).permute(0, 3, 1, 2).flatten(2))[0]),
    c=lstm(128, 16),
    b=lin(16, 5),
)
row(
    "lstm_norm",
    "approximate",
    lambda m, x: m.b(F.layer_norm(m.a(x)[0], m.n.shape, m.n)),
    a=lstm(8, 16),
    n=weight(16),
    **RECURRENT,
)
row(
    "lstm_hands_its_state_on",
    "exact",
    lambda m, x: m.b(m.c(x, m.a(x.flip(1))[1])[0]),
    a=lstm(8, 16),
    c=lstm(8, 16),
    **RECURRENT,
)
row(
    "lstm_starts_from_a_parameter",
    "exact",
    lambda m, x: m.b(m.a(x, (m.h.expand(-1, 2, -1).contiguous(), m.h.repeat(1, 2, 1)))[0]),
    a=lstm(8, 16),
    h=weight(1, 1, 16),
    **RECURRENT,
)
row(
    "gru_starts_from_a_layer",
    "exact",
    lambda m, x: m.b(m.a(x, m.c(x.mean(1)).sigmoid()[None])[0]),
    a=gru(8, 16),
    c=lin(8, 16),
    **RECURRENT,
)
row(
    "gru_starts_from_an_attribute",
    "exact",
    lambda m, x: m.b(m.a(x, torch.ones(1, x.shape[0], m.units, dtype=x.dtype))[0]),
    a=gru(8, 16),
    units=16,
    **RECURRENT,
)
row(
    "gru_starts_from_a_literal",
    "pinned:aten.gru starts from a state of fixed length (micro.py",
    lambda m, x: m.b(m.a(x, torch.zeros(1, 2, 16, dtype=x.dtype))[0]),
    a=gru(8, 16),
    **RECURRENT,
)
row(
    "gru_starts_from_an_input",
    "pinned:aten.gru starts from a state of fixed length (micro.py",
    lambda m, x, h: m.b(m.a(x, h)[0]),
    a=gru(8, 16),
    b=lin(16, 5),
    example=lambda: (*tokens(), torch.randn(1, 2, 16)),
)
row(
    "gru_beside_what_only_training_uses",
    "exact",
    lambda m, x: m.b(m.a(x)[0]),
    a=gru(8, 16),
    c=lin(4, 4),
    **RECURRENT,
)
row(
    "lstm_weight_norm",
    "exact",
    lambda m, x: m.b(m.a(x)[0]),
    a=partial(
        lambda: parametrizations.weight_norm(nn.LSTM(8, 16, batch_first=True), "weight_hh_l0")
    ),
    **RECURRENT,
)

# --------------------------------------------------------------------------- odd things in the wild


class Plain(nn.Module):
    """Stem and tail; the classes below do one odd thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class UnusedParameters(Plain):
    """Holds a layer and a parameter that no call uses."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.scale = nn.Conv2d(16, 9, 3), nn.Parameter(torch.ones(16))


class TrainOnlyHead(UnusedParameters):
    """Its second head reads ``a`` in training only: cutting ``a`` alone breaks training."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x) * self.scale[None, :, None, None]
        return (self.b(y), self.never(y)) if self.training else self.b(y)


class HoldsPythonModule(Plain):
    """Holds a Python module, on which ``copy.deepcopy`` fails."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = math

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.backend.sqrt(2.0))


class HidesModules(nn.Module):
    """``self.modules = []`` hides the method of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = []
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        return self


class BranchByInteger(nn.Module):
    """An integer among the inputs chooses the branch: the other one is never seen."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleList([nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 5, padding=1)])
        self.b = nn.Conv2d(16, 5, 3)

    def forward(self, x: Tensor, branch: int) -> Tensor:
        return self.b(self.a[branch](x).relu())


class SetsTraining(Plain):
    """Sets ``training`` of its own parts in forward, as frozen backbones do."""

    def forward(self, x: Tensor) -> Tensor:
        self.a.training = False
        self.train(self.training)
        return self.b(self.a(x).relu())


class TrainingIsProperty(Plain):
    """``training`` is a property that ignores what it is given."""

    training = property(lambda self: False, lambda self, value: None)


class CountsCalls(Plain):
    """Counts its calls: recording must not change the user's count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last.append(x.shape[0])
        return self.b(self.a(x).relu())


class ChangesItsInput(Plain):
    """Normalises its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.sub_(0.5).mul_(2)).relu())


class KeepsActivation(Plain):
    """Keeps its last feature map as an attribute, where a deep copy meets a tensor with a graph."""

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.a(x)
        return self.b(self.features.relu())


class HasHook(Plain):
    """A forward hook changes what ``a`` hands out."""

    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_hook(lambda module, inputs, output: output * 2 + 1)


class NeedsArguments(nn.Module):
    """Its constructor has arguments: nothing can call it again without them."""

    def __init__(self, width: int, *, classes: int) -> None:
        super().__init__()
        self.width = width
        self.a, self.b = nn.Conv2d(3, width, 3), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu().mean((2, 3)).view(-1, self.width))


class HasSlots(Plain):
    """Refuses attributes that it does not know."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("a", "b", "training") and not name.startswith("_"):
            raise AttributeError(f"no attribute {name}")
        super().__setattr__(name, value)


class TiedLinears(nn.Module):
    """Two linears with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 5)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu() + self.c(x.flip(1)))


class TiedAutoencoder(nn.Module):
    """Decodes with the transpose of the weight that encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shift = nn.Linear(8, 16), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.a(x).relu(), self.a.weight.t(), self.shift)


class TiedLinearAndConv(nn.Module):
    """A 1x1 convolution uses the weight of a linear, through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Conv2d(3, 16, 3), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(self.a(x), self.c.weight[:, :, None, None]).relu()
        return self.b(self.c(y.mean((2, 3))).relu())


class TiedConvs(nn.Module):
    """Two convolutions in a chain share one weight: its two axes live and die together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.d, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 5, 3)
        self.d.weight = self.c.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.d(self.c(self.a(x)).relu()))


def wild(
    make: type[nn.Module], expect: str, example: Callable[[], tuple] = image, **options: Any
) -> None:
    name = "".join("_" + letter.lower() if letter.isupper() else letter for letter in make.__name__)
    layer = options.pop("layer", "a")
    add(name.lstrip("_"), Micro(partial(make, **options), example, expect, layer))


wild(UnusedParameters, "exact")
wild(TrainOnlyHead, "exact or pinned:")
wild(HoldsPythonModule, "exact")
wild(HidesModules, "exact")
wild(BranchByInteger, "exact or pinned:", lambda: (torch.randn(2, 3, 8, 8), 0), layer="a.0")
wild(SetsTraining, "exact")
wild(TrainingIsProperty, "exact")
wild(CountsCalls, "exact")
wild(ChangesItsInput, "exact")
wild(KeepsActivation, "exact")
wild(HasHook, "exact")
wild(NeedsArguments, "exact", width=16, classes=5)
wild(HasSlots, "exact")
wild(TiedLinears, "exact", vector)
wild(TiedAutoencoder, "exact", vector)
wild(TiedLinearAndConv, "exact")
wild(TiedConvs, "exact")
