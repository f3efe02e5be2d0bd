"""Plant wrong rules and wrong cuts, and count those that the proof notices: it must be all.

``python benchmarks/mutants.py`` takes every operator that has a rule (its example in
``tests/operators.py``), breaks the rule in each of the ways of ``CHANGES`` and cuts a network that
calls the operator by what the broken rule says. Its only output is always zero, so that nothing but
the comparison of calls can notice. Whether such a cut is wrong is told by the right rule: what it
calls right is not counted. Then right cuts are spoilt in the ways of ``FAULTS``. Exit code 1 where
a wrong cut is certified.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import torch
from operators import EXAMPLES, Example
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimnet.capture.modules import copied
from slimnet.capture.trace import Trace, capture
from slimnet.coupling.at import At
from slimnet.coupling.couple import Coupling, couple
from slimnet.coupling.groups import find_groups
from slimnet.errors import CertificateError, SlimnetError
from slimnet.network import Network
from slimnet.operator import Operator, of
from slimnet.plan.plan import Plan, agrees, make_plan, surviving
from slimnet.plan.rebuild import rebuild, zero_removed
from slimnet.planning.budget import removed_atoms
from slimnet.proof.certificate import certify
from slimnet.proof.reference import CutContext

# ---------------------------------------------------------------------------------- wrong rules


def shifted(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Off by one: every label of the result is its neighbour's."""
    return lambda *args, **kwargs: relabelled(rule(*args, **kwargs), lambda x: np.roll(x, 1))


def reversed_(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The labels of the result run backwards."""
    return lambda *args, **kwargs: relabelled(rule(*args, **kwargs), lambda x: x[::-1].copy())


def swapped(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Neighbours of the result are exchanged, from the second on."""

    def swap(axis: Any) -> Any:
        places = np.arange(len(axis))
        last = (len(axis) - 1) // 2 * 2
        places[1 : last + 1] = places[1 : last + 1].reshape(-1, 2)[:, ::-1].ravel()
        return axis[places]

    return lambda *args, **kwargs: relabelled(rule(*args, **kwargs), swap)


def relabelled(outputs: Any, change: Callable[[Any], Any]) -> Any:
    """The result of a rule with each live axis changed."""
    if isinstance(outputs, list):
        return [relabelled(axes, change) for axes in outputs]
    return tuple(None if axis is None else change(axis) for axis in outputs)


def silenced(*methods: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The rule cannot say some things."""

    def change(rule: Callable[..., Any]) -> Callable[..., Any]:
        def silent(*args: Any, **kwargs: Any) -> Any:
            with mock.patch.multiple(At, **dict.fromkeys(methods, lambda *given: None)):
                return rule(*args, **kwargs)

        return silent

    return change


CHANGES = {
    "shifted": shifted,
    "reversed": reversed_,
    "swapped": swapped,
    "without ties": silenced("tie", "tie_if_live", "tie_blocks"),
    "without pins": silenced("pin"),
    "without statistics": silenced("statistic", "survivors_only"),
}


@contextmanager
def broken(name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """One operator's rule, in all its overloads, replaced."""

    def spoilt(op: Any) -> Operator:
        known = of(op)
        mine = str(op).split(".")[1] == name and known.labels
        return replace(known, labels=change(known.labels)) if mine else known

    with mock.patch("slimnet.coupling.couple.of", spoilt):
        yield


class Called(nn.Module):
    """Calls an operator on parameters, and multiplies what it gives with more of them.

    What it returns is zero, whatever is cut.
    """

    def __init__(self, made: Example) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = made.body
        self.given = nn.ParameterList(torch.randn(shape) for shape in made.shapes)
        results = self.results()
        self.readers = nn.ParameterList(torch.randn(x.shape) for x in results)

    def results(self) -> list[Tensor]:
        """What the operator gives."""
        leaves = tree_leaves(self.body(*self.given))
        return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]

    def products(self) -> list[Tensor]:
        """Of each result with its reader, summed."""
        return [(x * y).sum() for x, y in zip(self.results(), self.readers, strict=True)]

    def forward(self) -> Tensor:
        """Zero."""
        return torch.stack(self.products()).sum() * 0


@dataclass(frozen=True)
class Cut:
    """A network, what was cut of it, and what the proof needs to know."""

    model: nn.Module
    slim: nn.Module
    context: CutContext


def cut(model: nn.Module, trace: Trace, coupling: Coupling) -> Cut | None:
    """A random part of every group leaves; None where there is none."""
    groups, layers = find_groups(Network.of(model), coupling)
    draw = np.random.default_rng(0)
    scores = {group.number: draw.random(group.size) for group in groups}
    kept = {group.number: -(-group.size * 2 // 3) for group in groups}
    removed = removed_atoms(groups, scores, kept)
    plan = make_plan(coupling, groups, layers, removed)
    if not plan.removed:
        return None
    context = CutContext(trace, coupling, plan)
    return Cut(model, rebuild(Network.of(model), plan), context)


def dead(plan: Plan, coupling: Coupling) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[atoms]: what a plan takes something of."""
    return ~surviving(coupling, plan).alive


def is_right(plan: Plan, truth: Coupling) -> bool:
    """Whether a plan removes whole atoms that may leave, by the right rules."""
    gone = dead(plan, truth)
    return not (gone & ~truth.atoms.free).any() and agrees(truth, plan)


def hides_a_statistic(wrong: CutContext, truth: Coupling) -> bool:
    """Whether something leaves that a statistic is taken over, and the broken rule denies it."""
    gone, denied = dead(wrong.plan, truth), not wrong.coupling.statistics
    return denied and any(gone[truth.atoms.of[s.axis]].any() for s in truth.statistics)


def rule_mutants(only: str) -> Iterator[tuple[str, str, str]]:
    """(operator, change, outcome) of every broken rule."""
    for name, made in EXAMPLES.items():
        if only in name and not made.random:
            yield from ((name, how, outcome(made, name, how)) for how in CHANGES)


def outcome(made: Example, name: str, how: str) -> str:
    """ "noticed", "missed", or why the mutant is none."""
    try:
        model = Called(made)
        trace = capture(Network.of(model), ())
    except Exception:  # its results cannot be multiplied
        return "no network"
    truth = couple([trace])
    with broken(name, CHANGES[how]):
        try:
            wrong = cut(model, trace, couple([trace]))
        except (SlimnetError, IndexError, ValueError, KeyError):
            return "no plan"
    if wrong is None:
        return "nothing cut"
    plan = wrong.context.plan
    if is_right(plan, truth) and not hides_a_statistic(wrong.context, truth):
        return "right all the same"
    if not truth.statistics and computes_the_same(model, wrong):
        return "right all the same"
    return judged(wrong)


def computes_the_same(model: nn.Module, wrong: Cut) -> bool:
    """Whether the products that the network hides are those of the zeroed original."""
    zeroed = copied(Network.of(model))
    with torch.no_grad():
        for name, tensor in zeroed.named_parameters():
            zero_removed(name, tensor, wrong.context.plan)
        try:
            pairs = zip(zeroed.products(), wrong.slim.products(), strict=True)
            return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
        except RuntimeError:  # shapes
            return False


def judged(wrong: Cut, example: tuple[Any, ...] = ()) -> str:
    try:
        certify(Network.of(wrong.model), Network.of(wrong.slim), wrong.context, example)
    except CertificateError:
        return "noticed"
    return "missed"


# ----------------------------------------------------------------------------------- wrong cuts


class Small(nn.Module):
    """Convolutions, norms, a shuffle, a table of indices, and an output that shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.c, self.g = nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.GroupNorm(4, 16)
        self.b, self.l = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)
        self.slope = nn.Parameter(torch.randn(16))
        self.table: Tensor
        self.register_buffer("table", torch.randperm(16))
        self.n.running_mean.normal_()
        self.n.running_var.uniform_(0.5, 1.5)
        for norm in (self.n, self.g):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The number of a class."""
        y = self.n(self.a(x)).relu() * self.slope[:, None, None]
        z = self.g(self.c(y)) + y
        z = self.b(z[:, self.table].relu())
        return self.l(z.mean((2, 3)).sigmoid()).argmax(1)


class Shuffled(nn.Module):
    """Convolutions of three groups around a shuffle that three does not divide."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.s, self.l = nn.Conv2d(3, 12, 1), nn.Linear(12, 5)
        self.a = nn.Conv2d(12, 60, 1, groups=3)
        self.d = nn.Conv2d(60, 60, 3, padding=1, groups=60)
        self.b = nn.Conv2d(60, 12, 1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        """The number of a class."""
        y = self.a(self.s(x))
        y = y.unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2)
        return self.l(self.b(self.d(y)).mean((2, 3)).sigmoid()).argmax(1)


def swap(tensor: Tensor, axis: int) -> None:
    order = [1, 0, *range(2, tensor.shape[axis])]
    tensor.copy_(tensor.index_select(axis, torch.tensor(order)))


def roll(tensor: Tensor, axis: int) -> None:
    tensor.copy_(tensor.roll(1, axis))


FAULTS: dict[str, Callable[[nn.Module], Any]] = {
    **{
        f"{name}: {how.__name__} along axis {axis}": (
            lambda m, name=name, how=how, axis=axis: how(get(m, name), axis)
        )
        for name, axes in {
            "a.weight": 1,
            "a.bias": 1,
            "n.weight": 1,
            "n.bias": 1,
            "n.running_mean": 1,
            "n.running_var": 1,
            "c.weight": 2,
            "c.bias": 1,
            "g.weight": 1,
            "g.bias": 1,
            "b.weight": 2,
            "b.bias": 1,
            "slope": 1,
            "table": 1,
            "l.weight": 2,
            "l.bias": 1,
        }.items()
        for axis in range(axes)
        for how in (swap, roll)
    },
    "a forgotten bias": lambda m: m.c.bias.zero_(),
    "a stale mean": lambda m: m.n.running_mean.zero_(),
    "a stale variance": lambda m: m.n.running_var.fill_(1),
    "another epsilon": lambda m: setattr(m.n, "eps", 1e-3),
    "another padding": lambda m: setattr(m.a, "padding_mode", "reflect") or repad(m.a),
    "another number of groups in a norm": lambda m: setattr(m.g, "num_groups", 1),
    "one weight by a millionth": lambda m: m.b.weight[0, 0].mul_(1 + 1e-6),
    "a sign": lambda m: m.slope[0].neg_(),
    "not a number": lambda m: m.l.bias[0].fill_(float("nan")),
    "infinity": lambda m: m.b.bias[0].fill_(float("inf")),
    "a stride": lambda m: setattr(m.b, "stride", (2, 2)),
    "a dilation": lambda m: (setattr(m.a, "dilation", (2, 2)), setattr(m.a, "padding", (2, 2))),
    "training mode": lambda m: (
        setattr(m.n, "track_running_stats", False)
        or setattr(m.n, "running_mean", None)
        or setattr(m.n, "running_var", None)
    ),
}
"""What is done to a slim network that was cut rightly."""


APART: dict[str, Callable[[nn.Module], Any]] = {
    **{
        f"b.weight: {how.__name__} columns of group {g}": (
            lambda m, how=how, g=g: how(m.b.weight.unflatten(0, (3, -1))[g], 1)
        )
        for g in range(3)
        for how in (swap, roll)
    },
    "b.weight: groups exchanged": lambda m: roll(m.b.weight.unflatten(0, (3, -1)), 0),
    "b.weight: the columns of all channels in order": lambda m: m.b.weight.copy_(
        m.b.weight.unflatten(0, (3, -1)).transpose(0, 2).reshape(m.b.weight.shape)
    ),
    "a column of the depthwise one": lambda m: swap(m.d.weight, 0),
}
"""The same where groups lose other columns."""


def other_columns(plan: Plan, group: int) -> Plan:
    """A plan that takes the next columns of one group of ``b``; as many, but not the right ones."""
    columns = 20
    gone = np.array(plan.removed["b.weight"][1])
    there = gone // columns == group
    gone[there] = group * columns + (gone[there] + 1) % columns
    axes = {**plan.removed["b.weight"], 1: tuple(sorted(gone.tolist()))}
    return replace(plan, removed={**plan.removed, "b.weight": axes})


def repad(conv: nn.Conv2d) -> None:
    conv._reversed_padding_repeated_twice = [1, 1, 1, 1]


def get(model: nn.Module, name: str) -> Tensor:
    return dict([*model.named_parameters(), *model.named_buffers()])[name]


def cut_mutants(only: str) -> Iterator[tuple[str, str, str]]:
    """("a cut", fault, outcome) of every spoilt network."""
    example = (torch.randn(2, 3, 8, 8),)
    for model, faults in ((Small().eval(), FAULTS), (Shuffled().eval(), APART)):
        trace = capture(Network.of(model), example)
        for name, spoil in faults.items():
            if only in name:
                made = right_cut(model, trace, example)
                with torch.no_grad():
                    spoil(made.slim)
                yield "a cut", name, judged(made, example)
    for group in range(3):
        name = f"b.weight: other columns leave group {group}"
        if only in name:
            made = right_cut(model, trace, example)
            wrong = replace(made.context, plan=other_columns(made.context.plan, group))
            spoilt = Cut(model, rebuild(Network.of(model), wrong.plan), wrong)
            yield "a plan", name, judged(spoilt, example)


def right_cut(model: nn.Module, trace: Trace, example: tuple[Any, ...]) -> Cut:
    """A cut that is certified."""
    made = cut(model, trace, couple([trace]))
    if made is None:
        raise RuntimeError("nothing of the small network is cut")
    certify(Network.of(model), Network.of(made.slim), made.context, example)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="operators and faults whose name holds this")
    parser.add_argument("--verbose", action="store_true", help="a line for each mutant")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for mutants in (rule_mutants, cut_mutants):
        for what, how, found in mutants(options.only):
            counts[found] += 1
            if options.verbose or found == "missed":
                print(f"{found:20s} {what}: {how}", flush=True)
    print(f"torch {torch.__version__}: {counts['noticed'] + counts['missed']} wrong cuts,", end=" ")
    print(f"{counts['noticed']} noticed, {counts['missed']} missed;", end=" ")
    print("not wrong: " + ", ".join(f"{n} {k}" for k, n in counts.items() if k not in WRONG))
    return int(counts["missed"] > 0 or not counts["noticed"])


WRONG = ("noticed", "missed")

if __name__ == "__main__":
    sys.exit(main())
