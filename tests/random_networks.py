"""Random networks: a program of small steps, and the network that runs it.

A program is a frozen list of steps and a head, all plain numbers: it prints as the Python that
makes it again, and shrinks. A step reads one or two of the values before it (0 is the newest) and
appends one. Every program is valid: a step whose operator does not fit its input (a chunk of an
odd width) becomes an identity, decided by running the sample through while the network is built.

To add an operator: one function ``(x, y, n) -> nn.Module | None`` with ``@operator``; ``x`` and
``y`` are sample maps ``[batch, channels, height, width]``, ``n`` is a free number that picks the
variant. The module is called with ``(x, y)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from oracle import float64, outputs, relative_error, zeroed
from torch import Tensor, nn

import slimnet
from slimnet.errors import PruneError

Builder = Callable[[Tensor, Tensor, int], "nn.Module | None"]
OPERATORS: dict[str, Builder] = {}
HEADS = ("pooled", "flat", "nhwc", "map", "two", "pyramid", "decoder")
WIDTHS = (16, 24, 32, 20)
MIN_WIDTH, MAX_WIDTH = 2, 96


@dataclass(frozen=True)
class Step:
    """One operator, the values it reads (0 is the newest, modulo how many there are), a variant."""

    op: str
    x: int = 0
    y: int = 1
    n: int = 0


@dataclass(frozen=True)
class Program:
    """A whole random network; ``Network(program)`` builds it."""

    steps: tuple[Step, ...]
    head: str = "pooled"


def program_of(seed: int, longest: int = 12) -> Program:
    """The program that ``seed`` stands for."""
    draw = Random(seed)
    names = sorted(OPERATORS)
    steps = tuple(
        Step(draw.choice(names), min(draw.randrange(6), draw.randrange(6)), draw.randrange(4), n)
        for n in (draw.randrange(12) for _ in range(draw.randint(2, longest)))
    )
    return Program(steps, draw.choice(HEADS))


def programs(longest: int = 8) -> st.SearchStrategy[Program]:
    """Hypothesis strategy over the same programs."""
    number = st.integers(0, 11)
    step = st.builds(
        Step,
        op=st.sampled_from(sorted(OPERATORS)),
        x=st.integers(0, 3),
        y=st.integers(0, 3),
        n=number,
    )
    steps = st.lists(step, min_size=1, max_size=longest).map(tuple)
    return st.builds(Program, steps=steps, head=st.sampled_from(HEADS))


def example() -> tuple:
    return (torch.randn(2, 3, 8, 8),)


class Mismatch(AssertionError):
    """A slim network that is not the original with the removed channels zeroed."""


def judge(program: Program, *, ratio: float, criterion: str, seed: int) -> str:
    """Prune one random network; "exact", "approximate", "nothing" (to prune) or "refused".

    Raises:
        Mismatch: the slim network is wrong, or a refusal does not name a layer.
    """
    make = partial(Network, program)
    model, sample = float64(make, example, seed)
    try:
        pruned = slimnet.prune(
            model, sample, ratio=ratio, criterion=criterion, align=None, seed=seed
        )
    except PruneError as refusal:
        return _judged_refusal(model, refusal)
    found, certificate = outputs(pruned.model, sample), pruned.certificate
    if certificate.exact:
        reference = zeroed(make, model, pruned.plan.removed)
        _require(relative_error(found, outputs(reference, sample)) < 1e-9, "unequal", program)
        return "exact" if any(pruned.plan.removed.values()) else "nothing"
    _require(certificate.error <= certificate.tolerance, "error above the tolerance", program)
    _require(all(tensor.isfinite().all() for tensor in found), "not finite", program)
    return "approximate"


def _judged_refusal(model: nn.Module, refusal: PruneError) -> str:
    layers = [name for name, _ in model.named_modules() if name]
    _require(any(name in str(refusal) for name in layers), f"no layer named: {refusal}", model)
    return "refused"


def _require(holds: bool, what: str, program: Any) -> None:
    if not holds:
        raise Mismatch(f"{what}: {program}")


class Network(nn.Module):
    """Runs a program: stem, steps, head."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.reads = tuple((step.x, step.y) for step in program.steps)
        self.stem, self.steps = nn.Conv2d(3, 16, 3, padding=1), nn.ModuleList()
        with torch.no_grad():
            values = [self.stem(torch.zeros(2, 3, 8, 8))]
            for step in program.steps:
                x, y = _read(values, step.x, step.y)
                self.steps.append(_fitting(step, x, y))
                values.append(self.steps[-1](x, y))
            self.head = Head(program.head, values[-1])

    def forward(self, x: Tensor) -> Any:
        values = [self.stem(x)]
        for (first, second), step in zip(self.reads, self.steps, strict=True):
            values.append(step(*_read(values, first, second)))
        return self.head(values[-1])


class Op(nn.Module):
    """A function of ``(self, x, y)`` over parts; integers among the parts become attributes."""

    def __init__(self, run: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.run(self, x, y)


class Head(nn.Module):
    """From the last map to the outputs: linears, a map, two of them, or a decoder."""

    def __init__(self, kind: str, sample: Tensor) -> None:
        super().__init__()
        self.kind, (_, width, height, wide) = kind, sample.shape
        features = {"flat": height * wide, "nhwc": height * wide, "pyramid": 5}.get(kind, 1) * width
        self.linear = nn.Linear(features, 64 if kind == "decoder" else 5)
        if kind in ("map", "two"):
            self.conv = nn.Conv2d(width, 4, 1)
        if kind == "decoder":
            self.up = nn.ConvTranspose2d(16, 3, 2, stride=2)
        if kind == "map":
            del self.linear

    def forward(self, x: Tensor) -> Any:
        return getattr(self, f"_{self.kind}")(x)

    def _pooled(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def _flat(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))

    def _nhwc(self, x: Tensor) -> Tensor:
        return self.linear(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1))

    def _map(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def _two(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), self._pooled(x)

    def _pyramid(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([F.adaptive_avg_pool2d(x, n).flatten(1) for n in (1, 2)], 1))

    def _decoder(self, x: Tensor) -> Tensor:
        return self.up(self._pooled(x).view(x.shape[0], -1, 2, 2))


def _read(values: list[Tensor], *back: int) -> tuple[Tensor, ...]:
    return tuple(values[-1 - number % len(values)] for number in back)


def _fitting(step: Step, x: Tensor, y: Tensor) -> nn.Module:
    module = OPERATORS[step.op](x, y, step.n)
    if module is None or not MIN_WIDTH <= _width(module.eval()(x, y)) <= MAX_WIDTH:
        return Op(lambda m, x, y: x)
    return module


def operator(build: Builder) -> Builder:
    OPERATORS[build.__name__] = build
    return build


# ----------------------------------------------------------------------------- one layer of weights


@operator
def conv(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Conv2d(
        _width(x), WIDTHS[n % 4], 1 + n % 3 // 2 * 2, padding=n % 3 // 2, bias=n % 2 == 0
    )
    return Op(lambda m, x, y: m.layer(x).relu(), layer=layer)


@operator
def conv_down(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: m.layer(x), layer=nn.Conv2d(_width(x), WIDTHS[n % 4], 3, 2, 1))


@operator
def conv_grouped(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (2, 4)[n % 2]
    if _width(x) % groups:
        return None
    layer = nn.Conv2d(_width(x), (16, 32)[n // 2 % 2], 3, padding=1, groups=groups)
    return Op(lambda m, x, y: m.layer(x), layer=layer)


@operator
def conv_depthwise(x: Tensor, y: Tensor, n: int) -> nn.Module:
    width, multiplier = _width(x), 1 + n % 2
    layer = nn.Conv2d(width, width * multiplier, 3, padding=1, groups=width)
    return Op(lambda m, x, y: m.layer(x), layer=layer)


@operator
def conv_transposed(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (1, 2)[n % 2]
    if _width(x) % groups or x.shape[2] > 8:
        return None
    layer = nn.ConvTranspose2d(_width(x), WIDTHS[n % 3], 2, stride=2, groups=groups)
    return Op(lambda m, x, y: m.layer(x), layer=layer)


@operator
def conv_shared(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Conv2d(_width(x), _width(x), 1)
    return Op(lambda m, x, y: m.layer(m.layer(x).relu()), layer=layer)


@operator
def conv_siamese(x: Tensor, y: Tensor, n: int) -> nn.Module:
    parts = {"fit": Fit(x, y), "layer": nn.Conv2d(_width(x), WIDTHS[n % 4], 1)}
    return Op(lambda m, x, y: torch.maximum(m.layer(x), m.layer(m.fit(y))), **parts)


@operator
def linear_to_map(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Linear(_width(x), 64)
    return Op(lambda m, x, y: m.layer(x.mean((2, 3))).view(x.shape[0], -1, 2, 2), layer=layer)


@operator
def linear_per_pixel(x: Tensor, y: Tensor, n: int) -> nn.Module:
    layer = nn.Linear(_width(x), WIDTHS[n % 4])
    return Op(lambda m, x, y: m.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer=layer)


# ------------------------------------------------------------------------------------------ norms


@operator
def batch_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: m.norm(x).relu(), norm=nn.BatchNorm2d(_width(x), affine=n % 4 > 0))


@operator
def instance_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    # A single pixel has no variance of its own: there the tracked one is used.
    tracks = n % 3 == 0 or x[0, 0].numel() == 1
    norm = nn.InstanceNorm2d(_width(x), affine=n % 2 == 0, track_running_stats=tracks)
    return Op(lambda m, x, y: m.norm(x), norm=norm)


@operator
def group_norm(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (1, 2, 4)[n % 3]
    if _width(x) % groups:
        return None
    return Op(lambda m, x, y: m.norm(x), norm=nn.GroupNorm(groups, _width(x)))


@operator
def layer_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    norm = nn.LayerNorm(_width(x))
    return Op(lambda m, x, y: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm)


@operator
def prelu(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: m.slope(x), slope=nn.PReLU(_width(x) if n % 2 else 1))


@operator
def scale(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x * m.scale, scale=nn.Parameter(torch.ones(_width(x), 1, 1)))


# -------------------------------------------------------------------------------- two values meet


class Fit(nn.Module):
    """Brings ``y`` to the shape of ``x``: a 1x1 convolution where the widths differ, a resize."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.size = tuple(x.shape[2:])
        same = _width(x) == _width(y)
        self.project = nn.Identity() if same else nn.Conv2d(_width(y), _width(x), 1)

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
        nn.Conv2d(_width(x), WIDTHS[n % 4], 3, padding=1),
        nn.BatchNorm2d(WIDTHS[n % 4]),
        nn.ReLU(),
        nn.Conv2d(WIDTHS[n % 4], _width(x), 1),
    )
    return Op(lambda m, x, y: x + m.inner(x), inner=inner)


@operator
def squeeze_excite(x: Tensor, y: Tensor, n: int) -> nn.Module:
    gate = nn.Sequential(nn.Linear(_width(x), 8), nn.ReLU(), nn.Linear(8, _width(x)), nn.Sigmoid())
    if n % 2:
        return Op(lambda m, x, y: x * m.gate(x.mean((2, 3)))[:, :, None, None], gate=gate)
    return Op(lambda m, x, y: x * m.gate(x.mean((2, 3))).view(*x.shape[:2], 1, 1), gate=gate)


@operator
def mask(x: Tensor, y: Tensor, n: int) -> nn.Module:
    return Op(lambda m, x, y: x * m.gate(x).sigmoid(), gate=nn.Conv2d(_width(x), 1, 1))


# --------------------------------------------------------------------------------- channels move


@operator
def channel_shuffle(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    groups = (2, 4)[n % 2]
    if _width(x) % groups:
        return None
    if n % 3 == 0:
        return Op(lambda m, x, y: m.shuffle(x), shuffle=nn.ChannelShuffle(groups))
    return Op(_shuffled, groups=groups)


def _shuffled(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, m.groups, c // m.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@operator
def chunk(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if _width(x) % 2:
        return None
    if n % 3 == 0:
        return Op(lambda m, x, y: F.glu(x, 1))
    if n % 3 == 1:
        return Op(lambda m, x, y: torch.mul(*x.chunk(2, 1)))
    return Op(lambda m, x, y: torch.cat(x.chunk(2, 1)[::-1], 1))


@operator
def split(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """Sizes from an attribute, from the shape, or literal: the first part goes through a relu."""
    width = _width(x)
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
    width, start = _width(x), (0, 4, 8)[n % 3]
    if n % 4 == 0:
        return Op(lambda m, x, y: x[:, ::2])
    if n % 4 == 1:
        return Op(lambda m, x, y: x[:, start:])
    if n % 4 == 2:
        return Op(lambda m, x, y: x[:, : m.kept], kept=max(width - start, 1))
    return Op(lambda m, x, y: x[:, : x.shape[1] // 2])


@operator
def index(x: Tensor, y: Tensor, n: int) -> nn.Module:
    width = _width(x)
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
    if _width(x) % 4 == 0 and x.shape[2] <= 8:
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


def _width(x: Tensor) -> int:
    return x.shape[1]
