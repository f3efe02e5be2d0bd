"""Random networks: a program of small steps, and the network that runs it.

A program is a frozen list of steps and a head, all plain numbers: it prints as the Python that
makes it again, and shrinks. A step reads one or two of the values before it (0 is the newest) and
appends one. Every program is valid: a step whose operator does not fit its input (a chunk of an
odd width) becomes an identity, decided by running the sample through while the network is built.

The operators are those of :mod:`random_operators` and :mod:`random_attention`. A network is judged
as itself, or as what ``torch.export`` made of it, with the widths of heads or with whole heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import random_attention  # noqa: F401  (registers its operators)
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from oracle import Removed, float64, outputs, relative_error, zeroed
from random_operators import OPERATORS, Op
from torch import Tensor, nn

import slimnet
from slimnet.errors import PruneError
from slimnet.network import Network as Walked
from slimnet.program.exported import export
from slimnet.program.pt2 import read_pt2

HEADS = ("pooled", "flat", "nhwc", "map", "two", "pyramid", "decoder", "token")
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


def programs(longest: int = 6) -> st.SearchStrategy[Program]:
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


@dataclass(frozen=True)
class Asked:
    """How a network is pruned."""

    ratio: float = 0.5
    criterion: str = "l1"
    heads: bool = False  # attention loses whole heads
    exported: bool = False  # the network is what a .pt2 file holds
    block: bool = False  # its first residual branch leaves whole


def asked_of(seed: int) -> Asked:
    """What ``seed`` stands for: one in four loses heads, or a block; one in twelve is exported."""
    draw = Random(seed)
    ratio, criterion = draw.choice([0.3, 0.5, 0.7]), draw.choice(["l1", "random"])
    heads, exported, block = (draw.random() < share for share in (1 / 4, 1 / 12, 1 / 4))
    return Asked(ratio, criterion, heads, exported, block)


def judge(program: Program, asked: Asked, *, seed: int) -> str:
    """Prune one random network; "exact", "approximate", "nothing" (to prune) or "refused".

    Raises:
        Mismatch: the slim network is wrong, or a refusal does not name a layer.
    """
    make = partial(Network, program)
    original, sample = float64(make, example, seed)
    model = as_program(original, sample) if asked.exported else original
    budget = {"ratio": asked.ratio, "criterion": asked.criterion, "align": None, "seed": seed}
    try:
        blocks = _leaving(model, sample) if asked.block else []
        pruned = slimnet.prune(model, sample, **budget, heads=asked.heads, drop_blocks=blocks)
    except PruneError as refusal:
        return _judged_refusal(model, refusal)
    found, certificate = outputs(pruned.model, sample), pruned.certificate
    if certificate.exact:
        removed = {**pruned.plan.removed, **_silenced(pruned, original)}
        reference = zeroed(make, original, removed, pruned.plan.grouped)
        _require(relative_error(found, outputs(reference, sample)) < 1e-9, "unequal", program)
        return "exact" if any(pruned.plan.removed.values()) else "nothing"
    _require(certificate.error <= certificate.tolerance, "error above the tolerance", program)
    _require(all(tensor.isfinite().all() for tensor in found), "not finite", program)
    return "approximate"


def _leaving(model: nn.Module, sample: tuple) -> list[str]:
    """The first residual branch that could leave whole."""
    return [x.name for x in slimnet.inspect(model, sample).blocks if not x.stays][:1]


def _silenced(pruned: slimnet.Pruned, original: nn.Module) -> Removed:
    """What a branch that left ended with, as elements to set to zero."""
    lengths = {name: len(parameter) for name, parameter in original.named_parameters()}
    names = (name for block in pruned.plan.blocks for name in block.zeroed)
    return {name: {0: tuple(range(lengths[name]))} for name in names}


def as_program(model: nn.Module, sample: tuple) -> nn.Module:
    """The same network, written to a ``.pt2`` file and read without its class."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt2"
        torch.export.save(export(Walked.of(model), sample), path)
        return read_pt2(path).program


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
        if kind == "token":
            self.token, self.norm = nn.Parameter(torch.ones(1, 1, width)), nn.LayerNorm(width)
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

    def _token(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).mT], 1)
        return self.linear(self.norm(tokens + tokens.mean(1, keepdim=True))[:, 0])

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
    if module is None or not MIN_WIDTH <= module.eval()(x, y).shape[1] <= MAX_WIDTH:
        return Op(lambda m, x, y: x)
    return module
