"""No command writes over what it reads, or under a name that says another format."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from slimnet import cli
from slimnet.cli.typed import signature
from slimnet.models import MODELS

SOURCE = """
import torch
def make(): return torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.Conv2d(16, 16, 3))
def make_inputs(): return torch.zeros(1, 1, 8, 8)
def make_data(): raise RuntimeError
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    state = MODELS["digits_vgg"].make().state_dict()
    for name in ("m.pt", "i.pt"):
        torch.save(state, folder / name)
    (folder / "mine.py").write_text(SOURCE)
    images = np.zeros((4, 8, 8, 1), np.uint8)
    np.savez(folder / "d.npz", x_train=images, y_train=[0] * 4, x_test=images, y_test=[0] * 4)
    assert run(folder, "prune m.pt --ratio 0.5 --no-verify -o s.pt") == 0
    for name, of in {"hard.pt": "m.pt", "d.pt": "d.npz", "mine.pt": "mine.py"}.items():
        os.link(folder / of, folder / name)
    (folder / "soft.pt").symlink_to("m.pt")
    (folder / "page.html").symlink_to("m.pt")
    (folder / "out.onnx.json").symlink_to("s.pt")
    (folder / "study").mkdir()
    (folder / "study" / "report.html").symlink_to("../m.pt")
    (folder / "sub").mkdir()
    (folder / "root" / "train" / "one").mkdir(parents=True)
    (folder / "root" / "train" / "one" / "image.pt").write_text("an image")
    return folder


def run(folder, command):
    before = Path.cwd()
    os.chdir(folder)
    try:
        cli.main(command.split())
    except SystemExit as stopped:
        return stopped.code
    finally:
        os.chdir(before)
    raise AssertionError("main always exits")


def contents(folder):
    files = (path for path in folder.rglob("*") if "__pycache__" not in str(path))
    return {path: path.read_bytes() for path in files if path.is_file()}


PRUNE = "prune m.pt --ratio 0.5"
READ = [
    f"{PRUNE} -o m.pt",
    f"{PRUNE} -o ./sub/../m.pt",
    f"{PRUNE} -o hard.pt",
    f"{PRUNE} -o soft.pt",
    f"{PRUNE} --criterion magnitude-init --init i.pt -o i.pt",
    f"{PRUNE} --criterion taylor --data npz:d.npz -o d.pt",
    f"{PRUNE} --criterion taylor --data imagefolder:root -o root/train/one/image.pt",
    f"{PRUNE} --arch mine.py:make -o mine.pt",
    f"{PRUNE} --example mine.py:make_inputs -o mine.pt",
    "prune s.pt --ratio 0.5 -o s.pt",
    "repair s.pt --against m.pt --data npz:d.npz -o s.pt",
    "repair s.pt --against m.pt --data npz:d.npz -o m.pt",
    "repair s.pt --against m.pt --data npz:d.npz -o d.pt",
    "sensitivity m.pt -o page.html",
    "export s.pt s.pt --onnx",
    "export s.pt out.onnx --onnx",
    "export s.pt m.pt --onnx --against m.pt",
    "export m.pt hard.pt --pt2",
    "sparsify m.pt --data npz:d.npz -o m.pt",
    "sparsify m.pt --data npz:d.npz -o d.pt",
    "inspect m.pt --graph page.html",
    "compare m.pt --data npz:d.npz -o study",
]


@pytest.mark.parametrize("command", READ)
def test_what_is_read_is_not_written_over(command, shelf, capsys):
    before = contents(shelf)
    assert run(shelf, command) == 2
    assert re.fullmatch(
        r"slimnet: \S+ is read here and would be written over: name another file, or say "
        r"--overwrite\n",
        capsys.readouterr().err,
    )
    assert contents(shelf) == before


def test_every_command_that_writes_can_be_told_to_overwrite():
    for command, options in cli.COMMANDS.items():
        names = signature(options).parameters
        reads = names.keys() & {"model", "slim"}
        writes = names.keys() & {"output", "file", "graph"}
        assert ("overwrite" in names) == bool(reads and writes), command


def test_a_file_may_be_overwritten_where_that_is_said(shelf, tmp_path):
    for name in ("m.pt", "mine.py"):
        (tmp_path / name).write_bytes((shelf / name).read_bytes())
    (tmp_path / "link.pt").symlink_to("m.pt")
    assert run(tmp_path, "prune m.pt --ratio 0.5 -o link.pt --overwrite") == 0
    assert (tmp_path / "link.pt").is_symlink()
    assert torch.load(tmp_path / "m.pt", weights_only=True)["slimnet_artifact"] == 1
    assert run(tmp_path, "prune m.pt --ratio 0.25 -o m.pt --overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.pt", "m.pt", "mine.py"]


SAYS = {
    f"{PRUNE} -o slim.onnx": "slim.onnx says ONNX, and a slim network is written: name it slim.pt; "
    "slimnet export makes ONNX of it",
    "export s.pt x.onnx --safetensors": "x.onnx says ONNX, and safetensors is written",
    "sparsify m.pt --data npz:d.npz -o x.safetensors": "x.safetensors says safetensors, and a st",
    f"{PRUNE} -o slim.ONNX": "slim.ONNX says ONNX",
    f"{PRUNE} -o slim.json": "slim.json says a text",
    "repair s.pt --against m.pt --data npz:d.npz -o r.npz": "r.npz says arrays",
    "export s.pt x.pt --onnx": "x.pt says a file of torch.save, and ONNX is written: name it x.on",
    "export s.pt x.pt2 --onnx": "x.pt2 says an exported program, and ONNX is written",
    "export s.pt x.onnx --pt2": "x.onnx says ONNX, and an exported program is written: name it x.",
    "sparsify m.pt --data npz:d.npz -o x.pt2": "x.pt2 says an exported program, and a state dict",
    "sensitivity m.pt -o x.svg": "x.svg says a picture, and a page is written: name it x.html",
    "inspect m.pt --graph x.png": "x.png must end in .html",
    f"{PRUNE} -o /dev/fd/1": "/dev/fd/1 is a stream or a device of the system: name a file",
    f"{PRUNE} -o /proc/self/fd/0": "/proc/self/fd/0 is a stream or a device of the system: name a",
    f"{PRUNE} -o -": "- is a stream or a device of the system: name a file",
    "export s.pt /dev/fd/1 --onnx": "/dev/fd/1 is a stream or a device",
    "export s.pt sub --onnx": "sub is a folder: name a file",
}


@pytest.mark.parametrize("command", SAYS)
def test_a_name_of_another_format_or_kind_is_refused_before_any_work(command, shelf, capsys):
    before = contents(shelf)
    assert run(shelf, command) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"slimnet: {SAYS[command]}") and len(err.splitlines()) == 1
    assert contents(shelf) == before


def test_endings_that_say_nothing_are_taken(shelf, tmp_path):
    for name in ("slim", "slim.v2", "slim.PT2", "slim.pth", "slim.SAFETENSORS"):
        (tmp_path / "m.pt").write_bytes((shelf / "m.pt").read_bytes())
        assert run(tmp_path, f"{PRUNE} --no-verify -o {name}") == 0
        assert run(tmp_path, f"verify {name} --against m.pt") == 0
