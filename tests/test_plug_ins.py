"""A distribution outside of slimnet adds one of each kind through its entry points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    "criterion": """
        from slimnet.criteria import CRITERIA, Criterion

        def largest(rows):
            return rows.weight.abs().amax(dim=1)

        CRITERIA.add("largest", Criterion(largest, roles=("out",), source="here"))
    """,
    "operator": """
        from slimnet.operator import Reading, rule

        @rule("aten._fft_r2c", reading=Reading.EACH)
        def fourier(at, x, dims, *_):
            for d in dims:
                at.pin(x.axes[d], "mixes its positions")
            return tuple(None if d in dims else axis for d, axis in enumerate(x.axes))
    """,
    "regime": """
        from slimnet.train import Regime

        LONG = Regime("long", "trained for twice as long", start="halved", epochs=2.0)

        def halved(model, sources):
            for parameter in model.parameters():
                parameter.data /= 2
    """,
    "sparsifier": """
        from slimnet.sparsity import SPARSIFIERS, Sparsifier
        from slimnet.train.callback import Callback

        class Shrink(Callback):
            def __init__(self, rate):
                self.rate = rate

            def on_end(self, moment):
                for parameter in moment.model.parameters():
                    parameter.data *= 1 - self.rate

        SPARSIFIERS.add(
            "shrink",
            Sparsifier(lambda model, example, rate: Shrink(rate), "rate", 0.5, "", "here", "less"),
        )
    """,
    "cost": """
        from slimnet.costs.quantity import Quantity

        class Blocks:
            def __init__(self, inputs):
                tensors = [call.outputs[0] for call in inputs.trace.calls]
                self.axes = [axis for ref in tensors for axis in inputs.axes(ref)[1:2]]

            def at(self, lengths):
                return sum(-(-n // 4) * (1.0 if n % 4 == 0 else 1.5) for n in lengths) / 1000

        ENERGY = Quantity("mJ", Blocks, whole=False)
    """,
    "format": """
        from slimnet.formats import FORMATS, Exported, ExportFormat

        def write(request):
            names = list(request.opened.model.state_dict())
            request.target.write_text(chr(10).join(names))
            inputs = len(request.example)
            return Exported({"names": names}, f"lists {len(names)} tensors", (f"{inputs} input",))

        FORMATS.add("names", ExportFormat("a list of names", (".names",), write))
    """,
    "backend": """
        from contextlib import contextmanager

        from slimnet.export import Runner

        @contextmanager
        def nothing(candidate, inputs, threads):
            yield Runner(lambda: None, "nothing", "nowhere")
    """,
    "engine": """
        def backwards(cells, run):
            return [run(cell) for cell in reversed(cells)][::-1]
    """,
    "store": """
        from contextlib import contextmanager

        class Memory:
            held = {}

            def __init__(self, folder):
                self.folder = folder

            def read(self, cell):
                return self.held.get(cell)

            def write(self, result):
                self.held[result.cell] = result

            def finished(self):
                return iter(self.held)

            @contextmanager
            def claim(self, name):
                yield True
    """,
    "task": """
        import torch
        from torch import nn

        from slimnet.task import LoaderTask
        from slimnet.tasks.kind import Kind

        def read(rest, size):
            x = torch.linspace(-1, 1, int(rest))[:, None]
            loss = lambda outputs, batch: nn.functional.mse_loss(outputs, 2 * batch)
            return LoaderTask([x], [x], loss, name=f"doubling {rest}")

        DOUBLING = Kind("task:doubling:COUNT", "twice the number", read)
    """,
    "source": """
        import torch

        from slimnet.tasks.data import Source
        from slimnet.tasks.sources import Splits

        def read(rest, size):
            x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
            return Splits(x, y, x, y, 2)

        NOISE = Source("noise", read)
    """,
    "broken": "import a_module_that_is_not_there",
}
POINTS = """
[slimnet.criteria]
largest = lion.criterion
typo = lion.broken
[slimnet.operators]
fourier = lion.operator
[slimnet.regimes]
long = lion.regime:LONG
[slimnet.starts]
halved = lion.regime:halved
[slimnet.sparsifiers]
shrink = lion.sparsifier
[slimnet.costs]
energy = lion.cost:ENERGY
[slimnet.formats]
names = lion.format
[slimnet.backends]
nothing = lion.backend:nothing
[slimnet.engines]
backwards = lion.engine:backwards
taken = lion.regime:NOT_THERE
[slimnet.stores]
memory = lion.store:Memory
[slimnet.tasks]
doubling = lion.task:DOUBLING
[slimnet.data]
noise = lion.source:NOISE
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder as pip leaves it: a package, and what its distribution says of it."""
    site = tmp_path_factory.mktemp("site")
    (site / "lion").mkdir()
    (site / "lion" / "__init__.py").write_text("")
    for name, text in MODULES.items():
        lines = text.split("\n")
        (site / "lion" / f"{name}.py").write_text("\n".join(line[8:] or line for line in lines))
    (site / "lion" / "broken.py").write_text(MODULES["broken"])
    info = site / "slimnet_lion-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slimnet-lion\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return site


def run(site: Path, code: str, *arguments: Path) -> str:
    """What a fresh process prints that finds the distribution on its path."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PRUNE = """
import torch, slimnet
from torch import nn

class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.head(torch.fft.rfft2(self.mix(self.stem(x))).abs())

x = (torch.randn(1, 3, 8, 8),)
inspection = slimnet.inspect(Mixer(), x)
assert {layer.name for layer in inspection.layers if layer.prunable} == {"stem", "mix"}
made = slimnet.prune(Mixer(), x, ratio=0.5, align=None, criterion="largest")
print(made.model.mix.out_channels, made.certificate is not None)
"""


def test_a_criterion_and_an_operator_are_found_where_they_are_asked_for(site):
    assert run(site, PRUNE) == "8 True"


def test_a_cost_is_a_budget_and_shown_and_need_not_grow_with_the_widths(site):
    said = run(
        site,
        """
import torch, slimnet
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 4, 1))
x = (torch.randn(1, 3, 8, 8),)
plan = slimnet.prune(net.eval(), x, budget={"energy": 0.55}, align=None).plan
share = plan.after["energy"] / plan.before["energy"]
print(list(plan.before), list(plan.asked)[0], 0.5 < share <= 0.55)
print(slimnet.Plan.from_json(plan.to_json()) == plan)
""",
    )
    assert said.split("\n") == ["['macs', 'params', 'bytes', 'energy'] energy True", "True"]


def test_a_sparsifier_trains(site):
    said = run(
        site,
        """
import torch
from slimnet.models import MODELS
from slimnet.sparsity.training import Recipe, sparsify
from slimnet.tasks.data import load_data
from slimnet.train import Schedule

model, data = MODELS["digits_vgg"].make(), load_data("digits").limited(train=32, test=16)
recipe = Recipe("shrink", 0.9, Schedule(epochs=1, lr=1e-6, batch=16))
sparse = sparsify(model, (torch.zeros(1, 1, 8, 8),), data, recipe)
before, after = (sum(p.detach().abs().sum() for p in m.parameters()) for m in (model, sparse.model))
print(round(float(after / before), 2))
""",
    )
    assert said == "0.1"


def test_a_regime_a_backend_and_an_engine_are_among_those_that_there_are(site):
    said = run(
        site,
        """
from slimnet.export import BACKENDS
from slimnet.study.budget import ratios
from slimnet.study import ENGINES
from slimnet.train import REGIMES
print(REGIMES["long"].epochs, "long" in list(REGIMES))
print(ENGINES["backwards"]([1, 2], str), list(ENGINES))
with BACKENDS["nothing"](None, (), 1) as runner:
    print(runner.device)
""",
    )
    assert said.split("\n") == [
        "2.0 True",
        "['1', '2'] ['backwards', 'local', 'processes']",
        "nowhere",
    ]


STUDY = """
import sys
from pathlib import Path
import torch
from torch import nn
from slimnet.study import STORES, Candidate, Facts, Study, run_study
from slimnet.tasks.data import DataSpec
from slimnet.study.budget import ratios
from slimnet.train import STARTS, Schedule

made = Candidate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Facts(640, 650))
study = Study(ratios(0.5), ("l1",), ("long",), (0,), Schedule(epochs=1, lr=1e-9))
data = DataSpec("digits", train=32, test=16).load()
folder = Path(sys.argv[1])
options = {"engine": "backwards", "store": "memory"}
results = run_study(study, lambda *_: made, made, data, folder, **options)
print([record.epochs for record in results.records], len(list(STORES["memory"](folder).finished())))
print(list(STORES), (folder / "cells").exists(), STARTS["halved"].__module__)
"""


def test_a_study_runs_by_an_engine_a_store_a_regime_and_a_start_of_others(site, tmp_path):
    said = run(site, STUDY, tmp_path / "study").split("\n")
    assert said == ["[0, 2] 2", "['folder', 'memory'] False lion.regime"]


def test_a_task_and_a_data_source_are_named_as_any(site):
    said = run(
        site,
        """
import torch
from slimnet.tasks.data import load_data, load_task
from slimnet.train import Schedule, train

task, model = load_task("task:doubling:64"), torch.nn.Linear(1, 1)
history = train(model, task, Schedule(epochs=200, lr=0.1), seed=0, device="cpu")
print(task.name, round(float(model.weight.detach()), 2), history.metrics["loss"] < 1e-3)
print(load_data("noise").image_shape)
""",
    )
    assert said.split("\n") == ["doubling 64 2.0 True", "(1, 4, 4)"]


def test_the_command_line_knows_what_a_plug_in_adds(site):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    command = [sys.executable, "-m", "slimnet", "prune"]
    listed = subprocess.run([*command, "--help"], capture_output=True, text=True, env=env)
    assert "largest" in listed.stdout
    for name, option in (("export", "names"), ("compare", "memory"), ("sparsify", "shrink")):
        listed = subprocess.run(
            [*command[:-1], name, "--help"], capture_output=True, text=True, env=env
        )
        assert option in listed.stdout
    asked = [*command, "slimnet:resnet20", "--ratio", "0.5", "--criterion", "typo"]
    asked += ["-o", str(site / "slim.pt")]
    done = subprocess.run(asked, capture_output=True, text=True, env=env)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "the plug-in typo of slimnet-lion 1.0 cannot be loaded" in said
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in said
    assert "Traceback" not in said


def test_a_broken_one_is_named_where_a_name_is_not_known(site):
    said = run(
        site,
        """
from slimnet.errors import InputError
from slimnet.study import ENGINES
for name in ("slurm", "taken"):
    try:
        ENGINES[name]
    except InputError as error:
        print(type(error).__name__, error)
""",
    ).split("\n")
    why = (
        "the plug-in taken of slimnet-lion 1.0 cannot be loaded (AttributeError: module "
        "'lion.regime' has no attribute 'NOT_THERE'): repair or uninstall slimnet-lion"
    )
    known = "unknown study engine 'slurm': the known ones are backwards, local, processes"
    assert said == [f"UnknownNameError {known}; {why}", f"InputError {why}"]


def test_nothing_is_imported_before_it_is_asked_for(site):
    said = run(
        site,
        """
import sys, slimnet
from slimnet.study import ENGINES
print("lion" in sys.modules)
list(ENGINES)
print("lion.engine" in sys.modules, "lion.criterion" in sys.modules)
""",
    )
    assert said.split("\n") == ["False", "True False"]


def test_the_command_line_shows_a_cost_and_writes_a_format_of_others(site, tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    command = [sys.executable, "-m", "slimnet"]

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=env, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    model = ("net.pt", "--arch", "slimnet:digits_vgg", "--input", "1,1,8,8")
    made = "import torch; from slimnet.models import MODELS; torch.save(MODELS['digits_vgg'].make()"
    run(site, f"{made}.state_dict(), r'{tmp_path / 'net.pt'}')")
    assert re.search(r"MACs, [\d,]+ parameters, [\d.]+ mJ", said("inspect", *model))
    assert re.search(
        r"bytes ([\d,]+ ){2}[\d.]+% mJ ([\d.]+ ){2}", said("prune", *model, "--ratio", "0.5")
    )
    exported = said("export", *model, "--format", "names")
    assert "net.names lists " in exported and exported.endswith("1 input")
    assert "features" in (tmp_path / "net.names").read_text()
