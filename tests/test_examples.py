"""The examples run from their data to ONNX, in short form, with the commands that they show."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest
import torch

from slimnet.cli import main
from slimnet.files.slim_file import read_slim

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = {
    "segmentation": {"count": 48, "epochs": 1},
    "regression": {"count": 160, "epochs": 1},
    "two_inputs": {"epochs": 1},
    "detection": {"count": 16, "epochs": 1},
}
LOOPS = {
    "own_loop": ("torch", {"count": 128, "epochs": 2}),
    "lightning_callback": ("lightning", {"count": 128, "epochs": 2}),
    "huggingface_trainer": ("transformers", {"count": 64, "epochs": 1}),
    "ultralytics_trainer": ("ultralytics", {"count": 8, "epochs": 1}),
}
"""Training loops of others, and the package that each needs."""


def test_every_example_is_run_here_and_listed():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"steps"}
    assert scripts == SHORT.keys() | LOOPS.keys()
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py`" in listed for name in scripts)


def imported(name, folder, monkeypatch):
    """The example as it starts in a folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(folder)
    for module in ("steps", name):
        sys.modules.pop(module, None)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", SHORT)
def test_an_example(name, tmp_path, monkeypatch):
    if name == "detection":
        pytest.importorskip("pycocotools")
    example = imported(name, tmp_path, monkeypatch)
    steps = importlib.import_module("steps")
    commands = []

    def run(command, folder):
        commands.append(command.split()[0])
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command))
        assert ended.value.code == 0, command

    if getattr(example, "slimnet", None) is steps.slimnet:
        monkeypatch.setattr(example, "slimnet", run)
    monkeypatch.setattr(steps, "slimnet", run)
    threads = torch.get_num_threads()
    example.main(tmp_path, **SHORT[name])
    torch.set_num_threads(threads)
    assert commands[0] == "prune" and "retrain" in commands
    assert read_slim(tmp_path / "tuned.pt").trained
    assert commands[-1] == "export" and (tmp_path / "tuned.onnx").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore")  # others' packages warn of each other
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_others_trains_what_slimnet_cut(name, tmp_path, monkeypatch):
    package, short = LOOPS[name]
    pytest.importorskip(package, exc_type=ImportError)
    for variable in ("YOLO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    example = imported(name, tmp_path, monkeypatch)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        example.main(tmp_path, **short)
    torch.set_num_threads(threads)
    slim = read_slim(tmp_path / "slim.pt")
    assert slim.trained and slim.certificate is not None and slim.certificate.error < 1e-9
    assert slim.plan.after["macs"] < 0.9 * slim.plan.before["macs"]
