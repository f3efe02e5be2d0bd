"""Every criterion at one budget, without any training, beside Torch-Pruning's.

    python benchmarks/criteria.py resnet56.th --data npz:cifar10.npz --macs 0.5 -o table.json

For the published CIFAR ResNets. Each criterion cuts to the same share of the MACs (slimnet's count
for both tools, alignment off) with the same training images, and is tested on all test images as
cut, with batch norms re-estimated on these images, and repaired. slimnet cuts in each of
``--scopes`` for the first two columns (after the first seed, in those that tested best by then),
and for the third as ``prune --repair`` does by itself. ``global/mean`` divides a group's scores
by their mean first, as Torch-Pruning does.

Torch-Pruning takes the smallest ratio that meets the budget, locally (its default) and globally.
It is told to leave the classifier and the residual sums alone: with zero-padded shortcuts, what it
makes of sums does not run. So slimnet is told to leave the sums alone too. Its networks' batch
norms are re-estimated by slimnet; it has no repair, so that column meets the best of its others.
Labels are used by criteria that read gradients, and for the test. A cell is the mean (± standard
deviation over seeds, each with other images) of the scope that tests best, that scope, and the MACs
that are left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch_pruning
from torch import nn
from torch_pruning.pruner.importance import (
    BNScaleImportance,
    GroupMagnitudeImportance,
    MagnitudeImportance,
    TaylorImportance,
)

import slimnet
from slimnet.costs.cost import cost
from slimnet.criteria import load_criteria
from slimnet.files.access import open_network
from slimnet.network import Network
from slimnet.repairs import reestimated
from slimnet.samples import Samples
from slimnet.statistics.moments import batch_of
from slimnet.tasks.classification import Dataset
from slimnet.tasks.data import load_data
from slimnet.train import evaluate

COLUMNS = {"raw": "as cut", "norms": "batch norms re-estimated", "repair": "repaired"}
THEIRS = {
    "TP l1": MagnitudeImportance(p=1),
    "TP bn-scale": BNScaleImportance(),
    "TP taylor": TaylorImportance(),
    "TP group-norm": GroupMagnitudeImportance(p=2),
}
SUMS = ("conv1", "*.conv2")
UNTRAINED = "needs initial weights, which published networks lack"


@dataclass(frozen=True)
class Test:
    """One slim network on all test images."""

    row: str
    column: str
    scope: str
    seed: int
    accuracy: float
    remains: float  # share of the MACs


@dataclass(frozen=True)
class Trial:
    """One row with one seed's images."""

    row: str
    model: nn.Module
    dataset: Dataset
    share: float  # of the MACs, that may remain
    scopes: Sequence[Any]  # of slimnet, where it does not repair
    seed: int
    samples: Samples
    example: tuple[torch.Tensor]

    def remains(self, slim: nn.Module) -> float:
        """The share of the MACs that is left."""
        return cost(slim, self.example).macs / cost(self.model, self.example).macs

    def test(self, column: str, scope: str, slim: nn.Module) -> Test:
        """Its accuracy and cost."""
        accuracy = evaluate(slim, self.dataset)
        return Test(self.row, column, scope, self.seed, accuracy, self.remains(slim))

    def untrained(self, scope: str, slim: nn.Module) -> Iterator[Test]:
        """As cut, and with its batch norms re-estimated."""
        yield self.test("raw", scope, slim)
        images = self.samples.images
        yield self.test("norms", scope, reestimated(Network.of(slim), images, batch_of(images)))


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    model = open_network(options.network).model.eval().requires_grad_(True)
    dataset = load_data(options.data, options.normalize)
    conditions = conditions_of(options, evaluate(model, dataset))
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()))
    print(f"{'':18} {' '.join(f'{title:<27}' for title in COLUMNS.values())}", flush=True)
    tests = known(options, conditions)
    for row in options.only:
        if all(test.row != row for test in tests):
            for seed in range(options.seeds):
                scopes = found_best(row, tests) if seed else options.scopes.split(",")
                tests += measured(trial(options, model, dataset, row, seed, scopes))
        print(line(row, tests), flush=True)
        write(options.output, conditions, tests)
    print("\n".join(compared(tests)))


def parsed() -> argparse.Namespace:
    names = [*load_criteria(), *THEIRS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--normalize", default="imagenet")
    parser.add_argument("--macs", type=float, default=0.5, help="share that may remain")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--scopes",
        default="local,global,harm",
        help="of slimnet, not repaired; global/mean is --scope global --across mean",
    )
    parser.add_argument("--only", default=",".join(names), help="rows, separated by commas")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --output")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.only = options.only.split(",")
    if missing := set(options.only) - set(names):
        parser.error(f"no such row: {', '.join(sorted(missing))}; there are {', '.join(names)}")
    return options


def conditions_of(options: argparse.Namespace, dense: float) -> dict[str, Any]:
    return {
        "network": f"{options.network.name}, {dense:.2f} %",
        "budget": f"{options.macs:.1%} of the MACs",
        "how": "one step, alignment off; both leave the classifier and the residual sums alone",
        "images": f"{options.samples} of {options.data}, {options.normalize}",
        "seeds": options.seeds,
        "threads": options.threads,
        "scopes of slimnet": options.scopes,
        "slimnet": slimnet.__version__,
        **{name: version(name) for name in ("torch", "torch-pruning")},
    }


def known(options: argparse.Namespace, conditions: dict[str, Any]) -> list[Test]:
    """Those of an earlier run under the same conditions."""
    if not (options.resume and options.output and options.output.exists()):
        return []
    found = json.loads(options.output.read_text())
    if found["conditions"] != conditions:
        sys.exit(f"{options.output} was measured under other conditions: {found['conditions']}")
    return [Test(**test) for test in found["tests"]]


def write(output: Path | None, conditions: dict[str, Any], tests: Sequence[Test]) -> None:
    if output:
        found = {"conditions": conditions, "tests": [asdict(test) for test in tests]}
        output.write_text(json.dumps(found, indent=1) + "\n")


def found_best(row: str, tests: Sequence[Test]) -> list[str]:
    """The scopes that tested best, in the columns without repair."""
    mine = [test for test in tests if test.row == row]
    cells = (best(mine, [column]) for column in ("raw", "norms"))
    return sorted({test.scope for tests in cells for test in tests})


def trial(
    options: argparse.Namespace,
    model: nn.Module,
    dataset: Dataset,
    row: str,
    seed: int,
    scopes: Sequence[str],
) -> Trial:
    samples = dataset.samples(options.samples, seed)
    example = (torch.zeros(1, *dataset.image_shape),)
    return Trial(row, model, dataset, options.macs, scopes, seed, samples, example)


def measured(trial: Trial) -> Iterator[Test]:
    """Nothing where the criterion cannot be fed."""
    if trial.row in THEIRS:
        return theirs(trial)
    return iter(()) if "initial" in load_criteria()[trial.row].needs else ours(trial)


def ours(trial: Trial) -> Iterator[Test]:
    asked = {"criterion": trial.row, "macs": trial.share, "data": trial.samples}
    asked |= {"align": None, "seed": trial.seed, "verify": False, "keep": SUMS}
    for name in trial.scopes:
        scope, _, across = name.partition("/")
        how = {"scope": scope, "across": across or None}
        cut = slimnet.prune(trial.model, trial.example, **how, **asked)
        yield from trial.untrained(name, cut.model)
    repaired = slimnet.prune(trial.model, trial.example, repair=True, **asked)
    yield trial.test("repair", repaired.plan.asked["scope"], repaired.model)


def theirs(trial: Trial) -> Iterator[Test]:
    model = with_gradients(trial.model, trial.samples)
    for scope in ("local", "global"):
        yield from trial.untrained(scope, smallest_cut(model, trial, scope))


def with_gradients(model: nn.Module, samples: Samples) -> nn.Module:
    """A copy that holds the gradients of the summed loss over all images."""
    model = deepcopy(model)
    for part in samples.batches(64):
        loss = nn.functional.cross_entropy(model(part.images), part.labels, reduction="sum")
        torch.autograd.backward(loss)
    return model


def smallest_cut(model: nn.Module, trial: Trial, scope: str) -> nn.Module:
    """By the smallest ratio that meets the budget: in steps of 5 %, then by halving."""
    low, high = 0.0, 0.05
    while trial.remains(slim := cut(model, trial, scope, high)) > trial.share:
        low, high = high, high + 0.05
    for _ in range(8):
        middle = (low + high) / 2
        tried = cut(model, trial, scope, middle)
        if trial.remains(tried) > trial.share:
            low = middle
        else:
            high, slim = middle, tried
    return slim


def cut(model: nn.Module, trial: Trial, scope: str, ratio: float) -> nn.Module:
    slim = deepcopy(model)
    for copied, parameter in zip(slim.parameters(), model.parameters(), strict=True):
        copied.grad = parameter.grad.clone()  # which a copy lacks
    torch_pruning.pruner.MagnitudePruner(
        slim,
        *trial.example,
        importance=THEIRS[trial.row],
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        ignored_layers=[layer for name, layer in slim.named_modules() if stays(name)],
    ).step()
    return slim


def stays(layer: str) -> bool:
    """Whether it is the classifier, or adds to a residual sum."""
    return layer == "linear" or any(fnmatchcase(layer, name) for name in SUMS)


def line(row: str, tests: Sequence[Test]) -> str:
    mine = [test for test in tests if test.row == row]
    cells = [cell(best(mine, [column])) for column in COLUMNS] if mine else [UNTRAINED]
    return f"{row:18} {' '.join(f'{text:<27}' for text in cells)}".rstrip()


def cell(tests: Sequence[Test]) -> str:
    if not tests:
        return "-"
    found = [test.accuracy for test in tests]
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    remains = statistics.mean(test.remains for test in tests)
    return f"{mean(tests):.2f}{spread} {tests[0].scope} {remains:.1%}"


def best(tests: Sequence[Test], columns: Collection[str]) -> list[Test]:
    """All seeds of the row and scope whose mean is highest in one of the columns.

    A scope that was left after the first seed does not stand against one that was not.
    """
    kinds: dict[tuple[str, ...], list[Test]] = {}
    for test in tests:
        if test.column in columns:
            kinds.setdefault((test.row, test.scope, test.column), []).append(test)
    return max(kinds.values(), key=lambda tests: (len(tests), mean(tests)), default=[])


def mean(tests: Sequence[Test]) -> float:
    return statistics.mean(test.accuracy for test in tests)


def compared(tests: Sequence[Test]) -> Iterator[str]:
    """For each column the best of ours and of theirs."""
    for column, title in COLUMNS.items():
        mine = best([test for test in tests if test.row not in THEIRS], [column])
        peers = [test for test in tests if test.row in THEIRS]
        peer = best(peers, COLUMNS if column == "repair" else [column])
        if mine and peer:
            verdict = "at or above" if mean(mine) >= mean(peer) else "BELOW"
            yield f"{title}: {mine[0].row} {cell(mine)}, {verdict} {peer[0].row} {cell(peer)}"


if __name__ == "__main__":
    main()
