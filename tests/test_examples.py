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


def test_every_example_is_run_here_and_listed():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"steps"}
    assert scripts == set(SHORT)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py`" in listed for name in scripts)


@pytest.mark.parametrize("name", SHORT)
def test_an_example(name, tmp_path, monkeypatch):
    if name == "detection":
        pytest.importorskip("pycocotools")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    for module in ("steps", name):
        sys.modules.pop(module, None)
    example = importlib.import_module(name)
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
