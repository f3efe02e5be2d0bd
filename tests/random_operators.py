"""Operators of random networks: convolutions, norms, what meets, what moves.

To add one: a function ``(x, y, n) -> nn.Module | None`` with ``@operator``; ``x`` and ``y`` are
sample maps ``[batch, channels, height, width]``, ``n`` is a free number that picks the variant. The
module is called with ``(x, y)``; None says that the operator does not fit its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Builder = Callable[[Tensor, Tensor, int], "nn.Module | None"]
OPERATORS: dict[str, Builder] = {}
WIDTHS = (16, 24, 32, 20)


def operator(build: Builder) -> Builder:
    OPERATORS[build.__name__] = build
    return build


class Op(nn.Module):
    """A function of ``(self, x, y)`` over parts; integers among the parts become attributes."""

    def __init__(self, run: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.run(self, x, y)


def width_of(x: Tensor) -> int:
    return x.shape[1]


# ----------------------------------------------------------------------------- one layer of weights


@operator
def conv(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Conv2d(
        width_of(x), WIDTHS[n % 4], 1 + n % 3 // 2 * 2, padding=n % 3 // 2, bias=n % 2 == 0
    )
    return Op(lambda m, x, y: m.layer(x).relu(), layer=layer)


@operator
def conv_down(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: m.layer(x), layer=nn.Conv2d(width_of(x), WIDTHS[n % 4], 3, 2, 1))


@operator
def conv_grouped(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (2, 4)[n % 2]
    if width_of(x) % groups:
        return None
    layer = nn.Conv2d(width_of(x), (16, 32)[n // 2 % 2], 3, padding=1, groups=groups)
    return Op(lambda m, x, y: m.layer(x), layer=layer)


@operator
def conv_depthwise(x: Tensor, y: Tensor, n: int) -> nn.Module:
    width, multiplier = width_of(x), 1 + n % 2
    layer = nn.Conv2d(width, width * multiplier, 3, padding=1, groups=width)
    return Op(lambda m, x, y: m.layer(x), layer=layer)


@operator
def conv_transposed(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (1, 2)[n % 2]
    if width_of(x) % groups or x.shape[2] > 8:
        return None
    layer = nn.ConvTranspose2d(width_of(x), WIDTHS[n % 3], 2, stride=2, groups=groups)
    return Op(lambda m, x, y: m.layer(x), layer=layer)


@operator
def conv_shared(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Conv2d(width_of(x), width_of(x), 1)
    return Op(lambda m, x, y: m.layer(m.layer(x).relu()), layer=layer)


@operator
def conv_siamese(x: Tensor, y: Tensor, n: int) -> nn.Module:
    parts = {"fit": Fit(x, y), "layer": nn.Conv2d(width_of(x), WIDTHS[n % 4], 1)}
    return Op(lambda m, x, y: torch.maximum(m.layer(x), m.layer(m.fit(y))), **parts)


@operator
def linear_to_map(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Linear(width_of(x), 64)
    return Op(lambda m, x, y: m.layer(x.mean((2, 3))).view(x.shape[0], -1, 2, 2), layer=layer)


@operator
def linear_per_pixel(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Linear(width_of(x), WIDTHS[n % 4])
    return Op(lambda m, x, y: m.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer=layer)


# ------------------------------------------------------------------------------------------ norms


@operator
def batch_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: m.norm(x).relu(), norm=nn.BatchNorm2d(width_of(x), affine=n % 4 > 0))


@operator
def instance_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    # A single pixel has no variance of its own: there the tracked one is used.
    tracks = n % 3 == 0 or x[0, 0].numel() == 1
    norm = nn.InstanceNorm2d(width_of(x), affine=n % 2 == 0, track_running_stats=tracks)
    return Op(lambda m, x, y: m.norm(x), norm=norm)


@operator
def group_norm(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (1, 2, 4)[n % 3]
    if width_of(x) % groups:
        return None
    return Op(lambda m, x, y: m.norm(x), norm=nn.GroupNorm(groups, width_of(x)))


@operator
def layer_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    norm = nn.LayerNorm(width_of(x))
    return Op(lambda m, x, y: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm)


@operator
def prelu(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: m.slope(x), slope=nn.PReLU(width_of(x) if n % 2 else 1))


@operator
def scale(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x * m.scale, scale=nn.Parameter(torch.ones(width_of(x), 1, 1)))


# -------------------------------------------------------------------------------- two values meet


class Fit(nn.Module):
    """Brings ``y`` to the shape of ``x``: a 1x1 convolution where the widths differ, a resize."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.size = tuple(x.shape[2:])
        same = width_of(x) == width_of(y)
        self.project = nn.Identity() if same else nn.Conv2d(width_of(y), width_of(x), 1)

    def forward(self, y: Tensor) -> Tensor:
        y = self.project(y)
        return y if y.shape[2:] == self.size else F.interpolate(y, self.size)


@operator
def add(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x + m.fit(y), fit=Fit(x, y))


@operator
def multiply(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x * m.fit(y).sigmoid(), fit=Fit(x, y))


@operator
def cat(x: Tensor, y: Tensor, n: int) -> nn.Module:
    size = tuple(x.shape[2:])
    return Op(lambda m, x, y: torch.cat([x, F.interpolate(y, m.size)], 1), size=size)


@operator
def cat_space(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if x.shape[2] > 8:
        return None
    return Op(lambda m, x, y: torch.cat([x, m.fit(y)], 2), fit=Fit(x, y))


@operator
def residual(x: Tensor, y: Tensor, n: int) -> nn.Module:
    inner = nn.Sequential(
        nn.Conv2d(width_of(x), WIDTHS[n % 4], 3, padding=1),
        nn.BatchNorm2d(WIDTHS[n % 4]),
        nn.ReLU(),
        nn.Conv2d(WIDTHS[n % 4], width_of(x), 1),
    )
    return Op(lambda m, x, y: x + m.inner(x), inner=inner)


@operator
def squeeze_excite(x: Tensor, y: Tensor, n: int) -> nn.Module:
    gate = nn.Sequential(
        nn.Linear(width_of(x), 8), nn.ReLU(), nn.Linear(8, width_of(x)), nn.Sigmoid()
    )
    if n % 2:
        return Op(lambda m, x, y: x * m.gate(x.mean((2, 3)))[:, :, None, None], gate=gate)
    return Op(lambda m, x, y: x * m.gate(x.mean((2, 3))).view(*x.shape[:2], 1, 1), gate=gate)


@operator
def mask(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x * m.gate(x).sigmoid(), gate=nn.Conv2d(width_of(x), 1, 1))


# --------------------------------------------------------------------------------- channels move


@operator
def channel_shuffle(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (2, 4)[n % 2]
    if width_of(x) % groups:
        return None
    if n % 3 == 0:
        return Op(lambda m, x, y: m.shuffle(x), shuffle=nn.ChannelShuffle(groups))
    return Op(_shuffled, groups=groups)


def _shuffled(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, m.groups, c // m.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@operator
def shuffle_unit(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """As in ShuffleNet v1, with sizes that divide or do not, and as many groups after it or not."""
    wide, first, second = (
        *((60, 3, 3), (22, 2, 2), (60, 2, 3), (60, 3, 2), (24, 2, 2), (68, 4, 4)),
        *((36, 4, 3), (30, 5, 3), (16, 4, 4), (42, 3, 7), (30, 2, 2), (27, 3, 3)),
    )[n]
    into = first if width_of(x) % first == 0 else 1
    parts = {
        "a": nn.Conv2d(width_of(x), wide, 1, groups=into),
        "d": nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
        "b": nn.Conv2d(wide, 6 * second, 1, groups=second),
    }
    return Op(lambda m, x, y: m.b(m.d(_shuffled(m, m.a(x), y))), **parts, groups=first)


@operator
def chunk(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if width_of(x) % 2:
        return None
    if n % 3 == 0:
        return Op(lambda m, x, y: F.glu(x, 1))
    if n % 3 == 1:
        return Op(lambda m, x, y: torch.mul(*x.chunk(2, 1)))
    return Op(lambda m, x, y: torch.cat(x.chunk(2, 1)[::-1], 1))


@operator
def split(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """Sizes from an attribute, from the shape, or literal: the first part goes through a relu."""
    width = width_of(x)
    sizes, literal = [width // 4, width - width // 4], width // 2
    if n % 3 == 0:
        return Op(lambda m, x, y: _joined(x.split(m.sizes, 1)), sizes=sizes)
    if n % 3 == 1:
        return Op(lambda m, x, y: _joined(x.split((x.shape[1] + 1) // 2, 1)))
    return Op(lambda m, x, y: _joined(x.split([literal, width - literal], 1)))


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([parts[0].relu(), *parts[1:]], 1)


@operator
def slice_channels(x: Tensor, y: Tensor, n: int) -> nn.Module:
    width, start = width_of(x), (0, 4, 8)[n % 3]
    if n % 4 == 0:
        return Op(lambda m, x, y: x[:, ::2])
    if n % 4 == 1:
        return Op(lambda m, x, y: x[:, start:])
    if n % 4 == 2:
        return Op(lambda m, x, y: x[:, : m.kept], kept=max(width - start, 1))
    return Op(lambda m, x, y: x[:, : x.shape[1] // 2])


@operator
def index(x: Tensor, y: Tensor, n: int) -> nn.Module:
    width = width_of(x)
    order = list(range(0, width, 2)) if n % 2 else list(range(width))[::-1]
    if n % 3 == 0:
        return Op(lambda m, x, y: x[:, order])
    return Op(lambda m, x, y: x[:, m.order], order=nn.Buffer(torch.tensor(order)))


@operator
def flip(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x.flip(1) if n % 2 else x.flip(2))


@operator
def roll(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x.roll(n, 1 if n % 2 else 2))


@operator
def pad_channels(x: Tensor, y: Tensor, n: int) -> nn.Module:
    before, after = 4 * (n % 3), 4
    return Op(lambda m, x, y: F.pad(x, (0, 0, 0, 0, before, after)))


@operator
def repeat(x: Tensor, y: Tensor, n: int) -> nn.Module:
    if n % 3 == 0:
        return Op(lambda m, x, y: x.repeat(1, 2, 1, 1))
    if n % 3 == 1:
        return Op(lambda m, x, y: x.repeat_interleave(2, 1))
    return Op(lambda m, x, y: torch.cat([x, x.relu()], 1))


@operator
def pixel_shuffle(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if x.shape[2] % 2 == 0 and n % 2:
        return Op(lambda m, x, y: F.pixel_unshuffle(x, 2))
    if width_of(x) % 4 == 0 and x.shape[2] <= 8:
        return Op(lambda m, x, y: F.pixel_shuffle(x, 2))
    return None


# ------------------------------------------------------------------------------- space, activations


@operator
def pool(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if min(x.shape[2:]) < 2:
        return None
    pools = (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(3, 1, 1))
    return Op(lambda m, x, y: m.pool(x), pool=pools[n % 4])


@operator
def activation(x: Tensor, y: Tensor, n: int) -> nn.Module:
    kinds = (torch.relu, torch.sigmoid, F.gelu, F.hardswish, torch.exp, torch.neg)
    return Op(lambda m, x, y: kinds[n % 6](x.clamp(-3, 3)))


@operator
def in_place(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: (x * 0.5).relu_().add_(1 + n))


@operator
def mean_channels(x: Tensor, y: Tensor, n: int) -> nn.Module:
    if n % 2:
        return Op(lambda m, x, y: x - x.mean(1, keepdim=True))
    return Op(lambda m, x, y: x * x.softmax(1))


@operator
def unknown(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """What no rule is expected for: the layers that it reads are pinned."""
    return Op(lambda m, x, y: torch.cumsum(x, 1) / 8 if n % 2 else torch.sort(x, 1)[0])
