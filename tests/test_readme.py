"""The README keeps its word: its Python runs, its commands parse, its design is the code's."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import typer

import slimnet
from slimnet.cli import app, main
from slimnet.costs.quantity import COSTS
from slimnet.criteria import load_criteria
from slimnet.export import BACKENDS
from slimnet.files.access import Opened
from slimnet.formats import FORMATS, ExportRequest
from slimnet.networks.arch import parse_arch
from slimnet.operator import OPERATORS
from slimnet.study import ENGINES, Candidate, Facts, Study, run_study
from slimnet.study.budget import ratios
from slimnet.study.cells import Cell
from slimnet.tasks.data import load_data
from slimnet.train import REGIMES, Schedule

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *("docs/tasks.md", "docs/networks.md", "docs/to-onnx.md"),
)
README = (ROOT / "README.md").read_text()
IMAGE = (torch.zeros(1, 3, 8, 8),)


def blocks(kind: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks("bash", page) for line in block.split("\n")]
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]


@pytest.fixture
def registries(monkeypatch):
    """What a test registers is forgotten after it."""
    for registry in (OPERATORS, load_criteria(), REGIMES, COSTS, FORMATS, BACKENDS, ENGINES):
        registry.load()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mixer(tmp_path):
    """The README's network that cannot be cut in places, from a file of its own."""
    source = next(block for block in blocks("python") if "def make_model" in block)
    (tmp_path / "net.py").write_text(source)
    return parse_arch(f"{tmp_path / 'net.py'}:make_model").build(init=True)


def run_python(tmp_path, monkeypatch) -> dict:
    """Every Python block of the README, one after the other, as one program."""
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_python_runs_and_what_it_registers_works(tmp_path, monkeypatch, registries, mixer):
    before = slimnet.inspect(mixer, IMAGE)
    names = run_python(tmp_path, monkeypatch)
    assert names["slim"](*names["example"]).shape == (1, 10)
    assert names["timed"].backend == "torch-bfloat16"
    assert names["pruned"].plan.asked["criterion"] == "largest"
    lighter = names["lighter"].plan
    assert 0.49 < lighter.after["weights"] / lighter.before["weights"] <= 0.5
    FORMATS["shapes"].write(ExportRequest(Opened(mixer, None), tmp_path / "mixer.txt"))
    assert "stem.weight (32, 3, 3, 3)" in (tmp_path / "mixer.txt").read_text()
    assert prunable(before) == {"stem"}
    assert prunable(slimnet.inspect(mixer, IMAGE)) == {"stem", "mix"}
    assert slimnet.prune(mixer, IMAGE, ratio=0.5, align=None).model.mix.out_channels == 32
    order, accuracies = study_with("seed-by-seed", "finetune-full", tmp_path)
    assert order == [0, 0, 0, 1, 1]
    assert len(accuracies) == 5


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch, capsys):
    """A page is a program: files, Python and commands, one after the other; trainings are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known, names = set(sys.modules), {"__name__": "page"}
    threads = torch.get_num_threads()
    for kind, text in re.findall(
        r"```(bash|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
    ):
        if kind == "bash":
            for line in shortened(text).strip().split("\n"):
                run_command(line, capsys)
        elif saved := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / saved[1]).write_text(text)
        else:
            exec(compile(shortened(text), page, "exec"), names)
    torch.set_num_threads(threads)
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    assert list(tmp_path.glob("*.onnx"))


def shortened(text: str) -> str:
    """The same with one epoch, and few samples to repair on; no clock stops or refuses anything."""
    text = re.sub(
        r"(--epochs|--minutes) \d+", "--epochs 1", re.sub(r"epochs=\d+", "epochs=1", text)
    )
    text = text.replace(" --int8", " --int8 --keep-slower")
    return re.sub(r"^(slimnet (?:repair|auto) .*)", r"\1 --samples 64", text, flags=re.MULTILINE)


def run_command(line: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line)[1:])
    assert ended.value.code == 0, (line, capsys.readouterr().err)


def prunable(inspection: slimnet.Inspection) -> set[str]:
    return {layer.name for layer in inspection.layers if layer.prunable}


def study_with(engine: str, regime: str, folder: Path) -> tuple[list[int], list[float]]:
    """The seeds in the order in which an engine ran them, and all accuracies."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    made = Candidate(model, Facts(macs=640, params=650))
    study = Study(ratios(0.3, 0.5), ("l1",), (regime,), (0, 1), Schedule(epochs=1))
    data = load_data("digits").limited(train=64, test=32)
    order: dict[Cell, None] = {}
    results = run_study(
        study,
        lambda cut: made,
        made,
        data,
        folder / "study",
        engine=engine,
        progress=lambda status: order.setdefault(status.cell),
    )
    return [cell.seed for cell in order], [record.metrics["accuracy"] for record in results.records]


def test_the_reasons_it_shows_are_the_reasons_given(mixer):
    shown = re.findall(r"because: (.*)", "\n".join(blocks("text")))
    given = {str(r) for layer in slimnet.inspect(mixer, IMAGE).layers for r in layer.reasons}
    assert set(shown) & given
    assert set(shown) <= given


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("slimnet ")])
def test_a_slimnet_command_parses(line):
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, arguments).info_name == name


@pytest.mark.parametrize("line", [c for c in commands() if not c.startswith("slimnet ")])
def test_any_other_command_names_what_is_there(line):
    program, *arguments = shlex.split(line, comments=True)
    extras = re.findall(r"\.\[(.*?)\]", line)
    project = (ROOT / "pyproject.toml").read_text()
    assert all(
        re.search(rf"^{extra} = \[", project, re.M) for e in extras for extra in e.split(",")
    )
    files = [word for word in (program, *arguments) if word.startswith(("scripts/", "tests/"))]
    files += [word for word in arguments if word.endswith(".py")]
    assert all((ROOT / word).is_file() for word in files)
    assert files or program in ("pip", "pytest", "python", ".")


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z0-9-]+)", README))))
def test_an_option_in_the_text_is_one(option):
    known = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {
        name for command in known for p in command.params for name in (*p.opts, *p.secondary_opts)
    }
    assert option in options | {"--help"}


def test_the_table_of_criteria_is_complete():
    section = README.split("### Criteria")[1].split("### ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    assert {name for row in rows for name in re.findall(r"`(.*?)`", row)} == set(load_criteria())


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text())
    assert targets or page.startswith("docs/")
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def design_rows() -> list[tuple[str, ...]]:
    section = README.split("## Design")[1].split("## ")[0]
    return [
        tuple(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`.*?) \|", section, re.M)
    ]


def contracts() -> dict[str, list[list[str]]]:
    """The floors of each package, top first."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.findall(r"layers = \[\n(.*?)\]\ncontainers = \[\"(.*?)\"\]", text, re.DOTALL)
    return {
        package: [re.findall(r"\w+", line) for line in re.findall(r'"(.*?)"', floors)]
        for floors, package in found
    }


def test_the_design_lists_the_floors_of_the_contract():
    floors = contracts()["slimnet"]
    listed = {name for floor in floors for name in floor}
    rows = [sorted(listed.intersection(row)) for row in design_rows()]
    assert rows == [sorted(floor) for floor in floors]


def test_the_design_names_every_module():
    named = set(re.findall(r"`(\w+)`", README.split("## Design")[1].split("## ")[0]))
    package = (ROOT / "slimnet").iterdir()
    parts = [path for path in package if path.suffix in ("", ".py")]  # not the typing marker
    found = {path.stem for path in parts if not path.name.startswith("_")}
    assert found - named == set()


@pytest.mark.parametrize("package", sorted(contracts().keys() - {"slimnet"}))
def test_the_first_page_of_a_package_names_its_modules(package):
    said = re.findall(r":mod:`\.(\w+)`", str(import_module(package).__doc__))
    assert sorted(said) == sorted(name for floor in contracts()[package] for name in floor)
