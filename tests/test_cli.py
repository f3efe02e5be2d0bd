"""The command line as a newcomer meets it: every refusal is one sentence and exit code 2."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slimnet import cli
from slimnet.models import MODELS
from slimnet.version import __version__

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        self.first = nn.Conv2d(channels, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))

def make_model():
    return Net()

def make_colour():
    return Net(3)

def make_nothing():
    return 3

def make_trouble():
    raise RuntimeError("boom")

class Two(Net):
    def forward(self, x, context, scale=1.0):
        return {"scores": super().forward(x) * scale, "context": context}

def make_inputs():
    return {"context": torch.ones(1, 3), "x": torch.zeros(1, 1, 8, 8)}
"""


class Pickled(nn.Sequential):
    pass


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """One folder of good and bad files, made once."""
    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    (folder / "mine.py").write_text(SOURCE)
    state = MODELS["digits_vgg"].make().state_dict()
    torch.save(state, folder / "dense.pt")
    for name, value in (("nan", float("nan")), ("inf", float("inf"))):
        broken = {key: tensor.clone() for key, tensor in state.items()}
        next(iter(broken.values())).view(-1)[0] = value
        torch.save(broken, folder / f"{name}.pt")
    whole = (folder / "dense.pt").read_bytes()
    (folder / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("hello")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"epoch": 3}, folder / "numbers.pt")
    torch.save({"w": torch.zeros(3)}, folder / "unknown.pt")
    torch.save(Pickled(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)), folder / "pickled.pt")
    _data(folder)
    _prepare(folder)
    return folder


def _data(folder):
    random = np.random.default_rng(0)
    good = {
        "x_train": random.integers(0, 255, (24, 8, 8, 1), dtype=np.uint8),
        "y_train": np.arange(24) % 10,
        "x_test": random.integers(0, 255, (20, 8, 8, 1), dtype=np.uint8),
        "y_test": np.arange(20) % 10,
    }
    changes = {
        "good": {},
        "flat": {"x_train": good["x_train"][..., 0]},
        "float": {"x_train": good["x_train"] / 255},
        "outside": {"y_test": np.full(20, 77)},
        "more": {"y_train": np.arange(24)},
        "fewer": {"y_train": np.arange(3)},
        "colour": {name: np.repeat(good[name], 3, 3) for name in ("x_train", "x_test")},
        "tiny": {name: good[name][:, :2, :2] for name in ("x_train", "x_test")},
    }
    for name, change in changes.items():
        np.savez(folder / f"{name}.npz", **{**good, **change})
    np.savez(folder / "lacking.npz", x_train=good["x_train"])


def _prepare(folder):
    """A torch.export program, a TorchScript file and slim networks."""
    model = MODELS["digits_vgg"].make().eval()
    example = (torch.zeros(2, *MODELS["digits_vgg"].input_shape),)
    torch.export.save(torch.export.export(model, example), folder / "program.pt2")
    (folder / "script").mkdir()
    (folder / "script" / "constants.pkl").write_bytes(b"")
    shutil.make_archive(str(folder / "script"), "zip", folder, "script")
    (folder / "script.zip").rename(folder / "script.pt")
    code = run(folder, "prune dense.pt --ratio 0.5 -o slim.pt")
    assert code == 0
    torch.save(_net(folder), folder / "net.pt")
    assert (
        run(folder, "prune net.pt --arch mine.py:make_model --input 1,1,8,8 --ratio 0.5 -o n.pt")
        == 0
    )


def _net(folder):
    namespace = {}
    exec(SOURCE, namespace)
    return namespace["make_model"]().state_dict()


def run(folder, command):
    before = Path.cwd()
    os.chdir(folder)
    try:
        cli.main(command.split() if isinstance(command, str) else command)
    except SystemExit as stopped:
        return stopped.code
    finally:
        os.chdir(before)
    raise AssertionError("main always exits")


@pytest.fixture
def slimnet(shelf, capsys):
    """Run a command in the folder: exit code, stdout, stderr."""

    def call(command):
        capsys.readouterr()
        code = run(shelf, command)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


PRUNE = "prune dense.pt -o new.pt"
COMPARE = "compare dense.pt --epochs 1 --no-time -o study"
GOOD = f"{COMPARE} --data npz:good.npz"
TAYLOR = f"{PRUNE} --ratio 0.5 --criterion taylor"
BEFORE = f"{PRUNE} --ratio 0.5 --criterion magnitude-init"
CASES = {
    # files
    "inspect missing.pt": "there is no file missing.pt",
    "inspect .": "is a folder",
    "inspect truncated.pt": "truncated or damaged",
    "inspect empty.pt": "is empty",
    "inspect text.pt": "is no torch file",
    "inspect list.pt": "holds a list",
    "inspect numbers.pt": "holds no tensors",
    "inspect unknown.pt": "no known network .* --arch",
    "compare program.pt2 --data npz:good.npz -o study": "exported program, which cannot be trained",
    "verify program.pt2 --against dense.pt": "an exported program that slimnet did not cut",
    "export program.pt2 --pt2 --onnx": "name the format to export to: --onnx, or --pt2",
    "inspect script.pt": "TorchScript archive, which is not read",
    "inspect pickled.pt": "loading one runs its code: .*--allow-pickle",
    "inspect nan.pt": "NaN or Inf",
    "prune inf.pt --ratio 0.5 -o new.pt": "NaN or Inf",
    "inspect net.pt --arch mine.py:make_model --example mine.py:make_nothing": "returned a int",
    "inspect net.pt --arch mine.py:make_model --example mine.py:make_inputs": "no input 'context'",
    "inspect dense.pt --example mine.py:make_inputs --input 1,1,8,8": "--input and --example",
    "inspect dense.pt --arch torchvision:quantized_resnet18": "is quantised",
    "verify dense.pt --against dense.pt": "no slim network of slimnet",
    "verify slim.pt --against missing.pt": "there is no file missing.pt",
    "verify slim.pt --against n.pt": "not cut from|does not fit|Net",
    "verify n.pt --against net.pt": "--arch mine.py:make_model",
    "verify n.pt --against net.pt --arch mine.py:make_colour": "does not fit",
    "inspect n.pt": "with --arch mine.py:make_model, which runs that file",
    "prune n.pt --ratio 0.5 -o new.pt": "with --arch mine.py:make_model",
    "compare n.pt --data npz:good.npz -o study": "with --arch mine.py:make_model",
    # budgets and options of the cut
    PRUNE: "give exactly one budget",
    f"{PRUNE} --ratio 0.5 --macs 0.5": "give exactly one budget",
    f"{PRUNE} --ratio 1": r"ratio must lie in \[0, 1\)",
    f"{PRUNE} --ratio -0.1": r"ratio must lie in \[0, 1\)",
    f"{PRUNE} --ratio nan": r"ratio must lie in \[0, 1\)",
    f"{PRUNE} --ratio many": "'--ratio'.*valid number|valid float",
    f"{PRUNE} --macs 0": r"macs must lie in \(0, 1\]",
    f"{PRUNE} --params 1.5": r"params must lie in \(0, 1\]",
    f"{PRUNE} --ratio 0.999": r"would leave .* with none; lower it",
    f"{PRUNE} --macs 0.00001": r"0.001% of the MACs left\) cannot be met, the nearest is .*--best-",
    f"{PRUNE} --bytes 10": r"at most 10 bytes\) cannot be met, the nearest is [\d,]+: ",
    f"{PRUNE} --ratio 0.5 --min-channels 9999": "50% of the channels removed. cannot be met",
    f"{PRUNE} --ratio 0.5 --criterion foo": "unknown criterion 'foo': the known ones are apoz",
    f"{PRUNE} --ratio 0.5 --scope foo": "unknown scope 'foo': the known ones are global, harm",
    f"{PRUNE} --ratio 0.5 --align foo": "--align must be auto, off or a number",
    f"{PRUNE} --ratio 0.5 --align 0": "--align must be auto, off or a number",
    f"{PRUNE} --ratio 0.5 --min-channels 0": "must be at least 1",
    f"{PRUNE} --ratio 0.5 --keep foo": "no layer is called 'foo'",
    f"{PRUNE} --ratio 0.5 --layer-ratio foo": "must be LAYER=RATIO",
    f"{PRUNE} --ratio 0.5 --layer-ratio foo=0.5": "no layer is called 'foo'",
    f"{PRUNE} --ratio 0.5 --layer-ratio foo=2": r"must lie in \[0, 1\)",
    f"{PRUNE} --ratio 0.5 --arch foo": "names no architecture",
    f"{PRUNE} --ratio 0.5 --arch torchvision:resnet9": "the closest known ones are",
    f"{PRUNE} --ratio 0.5 --arch slimnet:resnet20": "does not fit slimnet:resnet20",
    f"{PRUNE} --ratio 0.5 --arch no.py:make": "there is no file no.py",
    f"{PRUNE} --ratio 0.5 --arch mine.py:foo": "no function 'foo'; it defines .*make_model",
    f"{PRUNE} --ratio 0.5 --arch mine.py:make_nothing": "returned int",
    f"{PRUNE} --ratio 0.5 --arch mine.py:make_trouble": "failed: RuntimeError: boom",
    f"{PRUNE} --ratio 0.5 --device foo": "no device 'foo' here: the known ones are cpu",
    f"{PRUNE} --ratio 0.5 --device cuda:99": "no device 'cuda:99' here",
    f"{PRUNE} --ratio 0.5 --input foo": "is no shape: give it, batch included",
    f"{PRUNE} --ratio 0.5 --input 1,1": "does not run on an input of shape",
    f"{PRUNE} --ratio 0.5 --input 1,4,8,8": "does not run on an input of shape",
    f"{PRUNE} --ratio 0.5 --input 1,1,999999999,999999999": "and at most 268,435,456 are made",
    f"{PRUNE} --ratio 0.5 --seed -1": "'--seed'",
    f"{PRUNE} --ratio 0.5 --threads 0": "'--threads'",
    f"{PRUNE} --ratio 0.5 --bogus": "No such option: --bogus .*prune --help",
    "prune": "Missing argument .*prune --help",
    "bogus": "No such command 'bogus'",
    # what criteria read
    f"{PRUNE} --ratio 0.5 --criterion taylor": r"taylor reads gradients: .* \(--data digits\|npz:",
    f"{PRUNE} --ratio 0.5 --criterion apoz": r"apoz reads activations: give images \(--data",
    f"{PRUNE} --ratio 0.5 --criterion magnitude-init": r"at initialisation: .* \(--init FILE\)",
    f"{PRUNE} --ratio 0.5 --across foo": "unknown across 'foo': the known ones are mean, max",
    f"{PRUNE} --ratio 0.5 --reduce foo": "unknown reduce 'foo': the known ones are sum, mean",
    f"{TAYLOR} --data foo": "unknown data 'foo': the known kinds are",
    f"{TAYLOR} --data npz:good.npz --samples 0": "'--samples'",
    f"{TAYLOR} --data npz:colour.npz": "does not run on the calibration images of 3x8x8",
    f"{TAYLOR} --data npz:more.npz": "outside the network's 10 classes",
    f"{BEFORE} --init missing.pt": "there is no file missing.pt",
    f"{BEFORE} --init net.pt": "does not fit slimnet:digits_vgg",
    f"{BEFORE} --init nan.pt": "NaN or Inf",
    # places
    "prune dense.pt --ratio 0.5 -o text.pt/new.pt": "cannot be written: there is no folder",
    "prune dense.pt --ratio 0.5 -o missing/new.pt": "cannot be written: there is no folder",
    "prune dense.pt --ratio 0.5 -o .": "is a folder: name a file",
    "export slim.pt": "name the format to export to: --onnx",
    "export slim.pt --pt2 --outputs boxes": "an exported program holds the whole network",
    "export slim.pt missing/slim.onnx --onnx": "cannot be written: there is no folder",
    "export slim.pt --onnx --batch 0": "'--batch'",
    "compare dense.pt --data npz:good.npz -o text.pt": "text.pt cannot be made",
    "compare dense.pt --data npz:good.npz -o text.pt/study": "cannot be made",
    "demo -o text.pt": "text.pt cannot be made",
    # data and studies
    f"{COMPARE} --data foo": "unknown data 'foo': the known kinds are",
    f"{COMPARE} --data npz:missing.npz": "there is no file missing.npz",
    f"{COMPARE} --data npz:dense.pt": "lacks x_train",
    f"{COMPARE} --data npz:lacking.npz": "holds images without labels, and",
    f"{COMPARE} --data npz:flat.npz": r"x_train is uint8 of shape \[24, 8, 8\]",
    f"{COMPARE} --data npz:float.npz": "x_train is float64",
    f"{COMPARE} --data npz:outside.npz": "labels run from 77 to 77, outside",
    f"{COMPARE} --data npz:fewer.npz": "24 images but 3 labels",
    f"{COMPARE} --data npz:more.npz": "the data has 24 classes and the network 10 outputs",
    f"{COMPARE} --data npz:colour.npz": "images have 3 channels and the network takes 1",
    f"{COMPARE} --data npz:tiny.npz": "tiny.npz: the network does not run on inputs of shape",
    f"{COMPARE} --data cifar10:missing": "no intact CIFAR-10 there",
    f"{COMPARE} --data imagefolder:missing": "missing",
    f"{GOOD} --regime foo": "unknown regime 'foo': the known ones are finetune",
    f"{GOOD} --criterion l1,foo": "unknown criterion 'foo'",
    f"{GOOD} --criterion l1,magnitude-increase": r"give them \(--init FILE\)",
    f"{GOOD} --ratio 0.5,x": "--ratio 'x' is no number",
    f"{GOOD} --ratio 0.5,1.5": r"in \[0, 1\), and 1.5 does not",
    f"{GOOD} --ratio 0.5,0.5": "each once",
    f"{GOOD} --ratio 0.5,0.999": "would leave .* with none",
    f"{GOOD} --min-channels 9999": "50% of the channels removed. cannot be met",
    f"{GOOD} --keep foo": "no layer is called 'foo'",
    f"{GOOD} --scope foo": "unknown scope 'foo'",
    f"{GOOD} --normalize foo": "unknown normalisation 'foo'",
    f"{GOOD} --lr 0": "learning rate must be greater than 0",
    f"{GOOD} --seeds 0": "'--seeds'",
    f"{GOOD} --device foo": "no device 'foo' here",
    "compare dense.pt --data npz:good.npz -o study --epochs 0": "epochs must be at least 1",
    "compare net.pt --arch mine.py:make_model --data npz:colour.npz -o study": "does not run on",
}


@pytest.mark.parametrize("command", CASES)
def test_bad_input_is_one_sentence_and_nothing_is_written(command, slimnet, shelf):
    before = {path: path.stat().st_mtime_ns for path in shelf.rglob("*") if path.is_file()}
    folders = {path for path in shelf.rglob("*") if "__pycache__" not in str(path)}
    code, out, err = slimnet(command)
    *progress, sentence = err.splitlines()
    assert code == 2
    assert out == ""
    assert set(progress) <= {"cutting and proving", "exporting"}
    assert re.match(f"slimnet: .*({CASES[command]})", sentence), sentence
    assert not re.search("Traceback|Error:(?! boom)", sentence)
    assert {path for path in shelf.rglob("*") if "__pycache__" not in str(path)} == folders
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_refusal_leaves_the_old_output_whole(slimnet, shelf):
    (shelf / "kept.pt").write_text("precious")
    assert slimnet("prune dense.pt --ratio 0.999 -o kept.pt")[0] == 2
    assert (shelf / "kept.pt").read_text() == "precious"


def test_a_tampered_network_is_no_warning_but_an_error(slimnet, shelf):
    payload = torch.load(shelf / "slim.pt", weights_only=True)
    del payload["digest"]
    next(t for t in payload["tensors"].values() if t.dim() == 4).view(-1)[0] += 1
    torch.save(payload, shelf / "tampered.pt")
    code, out, err = slimnet("verify tampered.pt --against dense.pt")
    assert (code, out) == (2, "")
    assert "is not the original with the removed channels zeroed" in err
    assert len(err.splitlines()) == 1


def test_inspect_prune_verify(slimnet, shelf):
    code, out, _ = slimnet("inspect dense.pt")
    assert code == 0
    assert out.startswith("dense.pt: recognised as slimnet:digits_vgg; input 1x1x8x8 (the archi")
    assert out.count("recognised") == 1
    code, out, err = slimnet("prune dense.pt --ratio 0.5 -o slim.pt")
    assert (code, err) == (0, "cutting and proving\n")
    assert "asked for: 50% of the channels removed; achieved: 50.0%" in out
    assert "\nslim.pt written\nnow: " in out
    code, out, _ = slimnet("verify slim.pt --against dense.pt")
    assert code == 0
    assert out.startswith("proof: slim = original with the removed channels zeroed")


def test_every_budget_and_limit_is_taken(slimnet):
    commands = (
        "--macs 0.5 --scope global --align off --min-channels 4 --criterion bn-scale",
        "--params 0.5 --keep features.* --no-verify --best-effort",
        "--ratio 0.25 --layer-ratio features.0=0.5 --align 4 --input 2,1,8,8 --seed 3",
    )
    for command in commands:
        code, out, err = slimnet(f"prune dense.pt -o other.pt --json {command}")
        assert code == 0, err
        record = json.loads(out)
        assert record["output"] == "other.pt"
        assert record["plan"]["asked"]["criterion"] in command or "criterion" not in command
        assert (record["certificate"] is None) == ("--no-verify" in command)
        assert err == ""


def test_criteria_get_what_they_read(slimnet, shelf):
    torch.save(MODELS["digits_vgg"].make().state_dict(), shelf / "start.pt")
    for criterion, given in {
        "gradient": "--data npz:good.npz --normalize none --samples 10 --across l2",
        "mean-activation": "--data digits --samples 10 --reduce max",
        "magnitude-increase": "--init start.pt",
    }.items():
        command = f"prune dense.pt --ratio 0.5 -o other.pt --no-verify --json {given}"
        code, out, err = slimnet(f"{command} --criterion {criterion}")
        assert code == 0, err
        asked = json.loads(out)["plan"]["asked"]
        assert asked["criterion"] == criterion
        assert asked["samples"] == (10 if "--samples" in given else None)
        assert asked["across"] == ("l2" if "--across" in given else None)
        assert asked["reduce"] == ("max" if "--reduce" in given else None)


def test_a_slim_network_is_pruned_again_and_proven_against_the_dense_one(slimnet):
    assert slimnet("prune slim.pt --ratio 0.25 --align off -o slimmer.pt")[0] == 0
    again = "prune slimmer.pt --ratio 0.25 --align off -o slimmer.pt"
    assert slimnet(again)[0] == 2
    assert slimnet(f"{again} --overwrite")[0] == 0
    code, out, _ = slimnet("verify slimmer.pt --against dense.pt")
    assert code == 0
    assert "proof: slim = original" in out
    code, out, _ = slimnet("inspect slimmer.pt")
    assert "slim slimnet:digits_vgg with" in out


def test_a_users_class_goes_the_whole_way(slimnet, shelf):
    arch = "--arch mine.py:make_model"
    for command in (
        f"inspect n.pt {arch}",
        f"prune n.pt {arch} --ratio 0.25 --align off -o n2.pt",
        f"verify n2.pt --against net.pt {arch}",
        "export n2.pt --onnx --no-latency",
        f"compare n2.pt {arch} --data npz:good.npz --epochs 1 --seeds 1 --no-time -o studyn",
    ):
        code, _, err = slimnet(command)
        assert code == 0, (command, err)
    assert (shelf / "n2.onnx").is_file()
    assert (shelf / "studyn" / "report.html").is_file()


def test_a_pickled_network_is_loaded_where_that_is_allowed(slimnet):
    code, out, _ = slimnet("prune pickled.pt --allow-pickle --ratio 0.5 --input 1,3,9,9 -o p.pt")
    assert code == 0
    assert "pickled.pt: Pickled; input 1x3x9x9 (as given)" in out


def test_a_trained_networks_proof_says_what_it_covers(slimnet, shelf):
    payload = torch.load(shelf / "slim.pt", weights_only=True)
    del payload["digest"]
    torch.save({**payload, "trained": True}, shelf / "claimed.pt")
    code, out, _ = slimnet("verify claimed.pt --against dense.pt")
    assert code == 0 and "real weights" in out
    assert "says that its weights were trained after the cut, and all of them are" in out
    next(t for t in payload["tensors"].values() if t.dim() > 1).mul_(1.5)
    torch.save({**payload, "trained": True}, shelf / "trained.pt")
    code, out, _ = slimnet("verify trained.pt --against dense.pt")
    assert code == 0 and "real weights" not in out
    assert "(1 tensor of other numbers)" in out
    assert "only the structure is proven, with random weights" in out
    assert json.loads(slimnet("verify trained.pt --against dense.pt --json")[1])["trained"] is True


def test_inspect_in_json_is_complete(slimnet):
    code, out, err = slimnet("inspect dense.pt --json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["network"].startswith("dense.pt: ")
    assert record["cost"].keys() == {"macs", "params", "bytes"}
    for layer in record["layers"]:
        assert layer["prunable"] == layer["channels"] or layer["reasons"]
    listed = {group["number"] for group in record["groups"]}
    assert {number for layer in record["layers"] for number in layer["groups"]} == listed


def test_export_writes_a_file_its_record_and_words(slimnet, shelf):
    code, out, _ = slimnet("export slim.pt --onnx e.onnx --threads 1 --batch 2")
    assert code == 0
    assert (shelf / "e.onnx").is_file()
    assert "equals PyTorch within" in out
    assert re.search(r"latency: slim .* against ", out)
    assert "batch 2, 1 thread, CPUExecutionProvider" in out
    record = json.loads((shelf / "e.onnx.json").read_text())
    assert record["onnx"]["dynamic_batch"] is True
    code, out, err = slimnet("export dense.pt --onnx e.onnx --no-latency --json")
    assert (code, err) == (0, "")
    assert json.loads(out)["latency"] is None
    assert slimnet("export slim.pt --onnx e.onnx --against dense.pt --json")[0] == 0


def test_an_exported_program_goes_in_and_comes_out(slimnet, shelf):
    code, out, _ = slimnet("prune program.pt2 --ratio 0.5 -o slim.pt2")
    assert code == 0 and "an exported program of" in out and "slim.pt2 written" in out
    assert torch.export.load(shelf / "slim.pt2").module()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    code, out, _ = slimnet("verify slim.pt2 --against program.pt2")
    assert code == 0 and "proof: slim = original" in out
    code, out, _ = slimnet("export slim.pt --pt2 e.pt2")
    assert code == 0 and "dynamic batch" in out and "torch.export.load" in out
    code, out, _ = slimnet("verify e.pt2 --against dense.pt --json")
    assert code == 0 and json.loads(out)["exact"] is True
    assert slimnet("inspect e.pt2")[0] == 0


STUDY = "compare dense.pt --data digits --train-images 64 --test-images 32 --no-time --lr 0.01"


def test_a_study_is_written_printed_and_read_again(slimnet, shelf):
    command = f"{STUDY} --ratio 0.3,0.5 --criterion l1,l2 --regime finetune --seeds 1 -o st"
    code, out, _ = slimnet(f"{command} --epochs 1")
    assert code == 0
    assert "st/report.html written" in out
    cells = sorted((shelf / "st" / "cells").iterdir())
    assert len(cells) == 5
    assert (shelf / "st" / "report.html").stat().st_size < 100_000
    assert json.loads((shelf / "st" / "results.json").read_text()).keys() == {"dense"}
    kept = sorted(path.name.rpartition("-")[0] for path in (shelf / "st" / "kept").glob("*.onnx"))
    assert kept[0] == "dense" and kept[1] == "l1-0.3-finetune-seed0" and len(kept) == 5
    assert "st/kept holds 5 networks, each with ONNX" in out
    assert "repair" in cli.COMMANDS["compare"].__dataclass_fields__["regime"].default
    code, out, err = slimnet(f"{command} --epochs 1 --json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["records"]) == 5
    assert sorted((shelf / "st" / "cells").iterdir()) == cells
    assert slimnet(f"{command} --epochs 2")[0] == 0
    assert len(list((shelf / "st" / "cells").iterdir())) == 9


def test_workers_give_what_one_process_gives(slimnet, shelf):
    """Of a class in a file of the user's, which they read themselves."""
    command = (
        "compare n.pt --arch mine.py:make_model --data npz:good.npz --regime finetune --seeds 2 "
        "--epochs 1 --no-time --threads 1 --json"
    )
    records = []
    for options in ("-o one", "-o two --workers 2"):
        code, out, err = slimnet(f"{command} {options}")
        assert (code, err) == (0, "")
        unlike = dict.fromkeys(("seconds", "memory", "energy"))
        records.append([{**record, **unlike} for record in json.loads(out)["records"]])
    assert records[0] == records[1]
    code, _, err = slimnet(f"{command} -o three --engine local --workers 2")
    assert code == 2 and "local runs one cell at a time" in err
    code, _, err = slimnet(f"{command} -o three --engine cloud")
    assert code == 2 and "the known ones are local, processes" in err


def test_a_killed_study_goes_on_where_it_was(slimnet, shelf):
    command = f"{STUDY} --epochs 2 --regime scratch-e --seeds 60 -o killed"
    cells = shelf / "killed" / "cells"
    process = subprocess.Popen(
        [sys.executable, "-m", "slimnet", *command.split()],
        cwd=shelf,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while process.poll() is None and len(list(cells.glob("*.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 3 <= len(finished) < 61
    assert slimnet(command)[0] == 0
    after = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert len(after) == 61
    assert after.items() >= finished.items()


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself_with_an_example(name, slimnet):
    code, out, _ = slimnet(f"{name} --help")
    assert code == 0
    assert f"Example: slimnet {name}" in " ".join(out.split())


def test_the_commands_of_the_refusals_are_those_of_the_program():
    names = {command.callback.__name__ for command in cli.app.registered_commands}
    assert names == set(cli.COMMANDS)


def test_version_and_bare_call(slimnet):
    code, said, _ = slimnet("--version")
    assert code == 0 and said.startswith(f"slimnet {__version__}, torch {version('torch')}, ")
    code, out, err = slimnet("")
    assert (code, err) == (0, "")
    assert "compare" in out


SLOW = {"onnx", "onnxruntime", "sklearn", "torchvision.datasets", "jinja2", "torchvision"}
SECONDS = {"torch", "numpy", "scipy", *SLOW}
QUICK = """
import sys
from slimnet import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as stopped:
    code = stopped.code
print(code, *sys.modules, file=sys.stderr)
"""


def modules_of(command, shelf):
    """What a command says, its exit code, and what was imported for it."""
    done = subprocess.run(
        [sys.executable, "-c", QUICK, *command.split()],
        cwd=shelf,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    *said, last = done.stderr.splitlines()
    code, *modules = last.split()
    return done.stdout + "".join(said), int(code), set(modules)


def test_what_takes_seconds_to_import_is_left_alone(shelf):
    said, code, modules = modules_of("inspect dense.pt", shelf)
    assert said and code == 0 and not SLOW & modules


@pytest.mark.parametrize(
    ("command", "code"),
    [
        *(("", 0), ("--help", 0), ("--version", 0), ("nothing", 2), ("--bogus", 2)),
        *(("prune dense.pt --rato 0.5", 2), ("prune", 2), ("prune dense.pt --ratio many", 2)),
        *(("prune dense.pt --ratio 2", 2), ("prune dense.pt --ratio 0.5 --align foo", 2)),
        ("inspect dense.pt --input foo", 2),
        *((f"{name} --help", 0) for name in cli.COMMANDS),
    ],
)
def test_help_versions_and_typing_errors_answer_before_torch_could_be_imported(
    command, code, shelf
):
    said, ended, modules = modules_of(command, shelf)
    assert said and ended == code and not SECONDS & modules


def test_keyword_inputs_from_a_file_go_all_the_way(slimnet):
    given = "--arch mine.py:Two --example mine.py:make_inputs"
    shown = slimnet(f"inspect net.pt {given}")[1]
    assert "input 1x1x8x8, 1x3 (from mine.py:make_inputs)" in shown
    code, out, _ = slimnet(f"prune net.pt {given} --ratio 0.5 -o two.pt")
    assert code == 0
    assert "proof: slim = original" in out
    assert slimnet("verify two.pt --against net.pt --arch mine.py:Two")[0] == 0
    code, out, _ = slimnet(f"export net.pt two.onnx --onnx {given} --no-latency")
    assert code == 0
    assert "equals PyTorch within" in out
    assert slimnet("export two.pt slim.onnx --onnx --no-latency")[0] == 0


def test_piped_lines_are_not_folded(shelf):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "slimnet", "prune", "dense.pt", "--ratio", "0.5", "-o", "piped.pt"],
        cwd=shelf,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout
    assert any(
        line.startswith("widths are multiples of 16") and line.endswith("--align off turns it off")
        for line in done.stdout.splitlines()
    )


LOUD = """
import ctypes, os
print("LOUD")
from mine import Net as Quiet

class Net(Quiet):
    def forward(self, x):
        print("LOUD forward")
        return super().forward(x)

def make():
    print("LOUD make")
    ctypes.CDLL(None).puts(b"LOUD in C")
    os.system("echo LOUD child")
    return Net()
"""


def test_json_stays_json_whatever_a_users_code_prints(shelf):
    (shelf / "loud.py").write_text(LOUD)
    command = "inspect net.pt --arch loud.py:make --input 1,1,8,8 --json"
    done = subprocess.run(
        [sys.executable, "-m", "slimnet", *command.split()],
        cwd=shelf,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["layers"]
    for line in ("LOUD", "LOUD make", "LOUD in C", "LOUD child", "LOUD forward"):
        assert line in done.stderr.splitlines()


def test_words_of_a_users_code_are_not_those_of_the_command(slimnet, shelf):
    (shelf / "loud.py").write_text(LOUD)
    out, err = slimnet("inspect net.pt --arch loud.py:make --input 1,1,8,8")[1:]
    assert "LOUD" not in out and "LOUD make" in err
    assert "loud.py:make" in out


@pytest.mark.parametrize("name", ["a\x1b[2Jb.pt", "[red]x.pt", "a\x07\u202eb.pt"])
def test_a_name_reaches_the_terminal_spelled_out(name, slimnet, shelf):
    torch.save({name: torch.zeros(3)}, shelf / "odd.pt")
    for path in ("odd.pt", name):
        code, out, err = slimnet(f"inspect {path}")
        assert code == 2
        assert (out + err).isascii() and (out + err).replace("\n", "").isprintable()
    assert ascii(name)[1:-1] in err


def test_weights_are_chosen_where_a_checkpoint_holds_several(slimnet, shelf):
    state = torch.load(shelf / "dense.pt")
    other = {n: t * 2 if t.is_floating_point() else t for n, t in state.items()}
    torch.save({"model": state, "ema": other, "args": Namespace(lr=0.1)}, shelf / "both.pt")
    code, out, _ = slimnet("prune both.pt --weights ema --ratio 0.5 -o ema.pt")
    assert "slimnet repair ema.pt --against both.pt --data DATA --weights ema (" in out
    assert code == 0 and "strides, padding and activations cannot be seen in weights" in out
    assert "also there: 'ema' (--weights KEY chooses)" in slimnet("inspect both.pt")[1]
    assert slimnet("verify ema.pt --against both.pt --weights ema")[0] == 0
    assert slimnet("verify ema.pt --against both.pt")[0] == 2
    code, _, err = slimnet("inspect both.pt --weights swa")
    assert code == 2 and "both.pt holds no weights under 'swa'; it holds 'model', 'ema'" in err
    assert "holds no other weights" in slimnet("inspect ema.pt --weights ema")[2]


def test_safetensors_go_in_and_out(slimnet, shelf):
    save_file(torch.load(shelf / "dense.pt"), shelf / "dense.safetensors")
    assert slimnet("prune dense.safetensors --ratio 0.5 -o first.safetensors")[0] == 0
    assert slimnet("verify first.safetensors --against dense.safetensors")[0] == 0
    assert slimnet("prune first.safetensors --ratio 0.3 -o second.pt")[0] == 0
    assert slimnet("verify second.pt --against dense.pt")[0] == 0
    code, out, _ = slimnet("export second.pt out.safetensors --safetensors")
    assert code == 0 and "out.safetensors" in out
    assert slimnet("verify out.safetensors --against dense.pt")[0] == 0
    assert slimnet("export n.pt n.safetensors --safetensors")[0] == 0
    assert "--arch mine.py:make_model" in slimnet("inspect n.safetensors")[2]
    assert slimnet("inspect n.safetensors --arch mine.py:make_model")[0] == 0
    code, out, _ = slimnet("export dense.pt --safetensors --json")
    assert code == 0 and json.loads(out)["safetensors"]["path"] == "dense.safetensors"
    assert "--onnx, or --pt2, or --safetensors" in slimnet("export n.pt --safetensors --onnx")[2]


def test_a_class_is_named_with_its_arguments(slimnet, shelf):
    namespace = {}
    exec(SOURCE, namespace)
    torch.save(namespace["Net"](3).state_dict(), shelf / "three.pt")
    command = "prune three.pt --arch mine.py:Net(channels=3) --input 1,3,8,8 --ratio 0.5 -o t.pt"
    assert slimnet(command)[0] == 0
    assert "with --arch mine.py:Net(channels=3), which" in slimnet("inspect t.pt")[2]
    assert slimnet("verify t.pt --against three.pt --arch mine.py:Net(3)")[0] == 0


def test_a_network_that_torch_cannot_export_is_said_to_need_its_class(slimnet, shelf):
    line = "x = torch.relu(self.second"
    branch = SOURCE.replace(line, f"x = x + (1 if x.sum() > 0 else 2)\n        {line}")
    (shelf / "branch.py").write_text(branch)
    command = "prune net.pt --arch branch.py:make_model --input 1,1,8,8 --ratio 0.5 -o b.pt --json"
    code, out, err = slimnet(command)
    assert code == 0 and json.loads(out)["output"] == "b.pt"
    assert "no program lies in the file, because torch.export cannot record" in " ".join(
        err.split()
    )


@pytest.mark.skipif(sys.platform == "win32", reason="its shell has other pipes")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("inspect dense.pt > /dev/full", 2, "slimnet: what is to be said cannot be written: no sp"),
        ("inspect dense.pt | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("--help | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("--version | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("inspect dense.pt >&-", 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_is_no_traceback(line, code, said, shelf):
    line = f"{sys.executable} -m slimnet {line}"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["bash", "-c", line], cwd=shelf, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["inspect", "dense.pt"], ["--help"]])
def test_a_stream_of_ascii_spells_out_what_it_cannot_show(arguments, shelf):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    env["PYTHONIOENCODING"] = "ascii"
    command = [sys.executable, "-m", "slimnet", *arguments]
    done = subprocess.run(command, cwd=shelf, env=env, capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.isascii() and b"slimnet" in done.stdout + b"slimnet" * (len(arguments) > 1)


LONG = "a/" * 3_000


@pytest.mark.parametrize(
    "command",
    [
        f"compare dense.pt --data digits -o {LONG}s",
        f"compare dense.pt --data npz:{LONG}data.npz -o s",
        f"prune {LONG}net.pt --ratio 0.5",
        f"prune net.pt --ratio 0.5 --input 1,1,8,8 --arch {LONG}net.py:make",
        f"prune dense.pt --ratio 0.5 -o {LONG}slim.pt",
        f"verify {LONG}net.pt --against dense.pt",
        f"repair {LONG}net.pt --data digits --against dense.pt -o slim.pt",
    ],
)
def test_a_path_that_no_system_takes_is_one_short_sentence(command, slimnet, shelf):
    code, out, err = slimnet(command)
    assert code == 2 and out == ""
    assert "too long" in err.lower() and len(err) < 3_000


def test_a_refusal_that_holds_a_files_text_stays_short(slimnet, shelf):
    text = "x" * 100_000
    code, _, err = slimnet(f"inspect dense.pt --input {text}")
    assert code == 2 and len(err) < 3_000 and "[…]" in err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("prune dense.pt --ratio 0.5 --seed 18446744073709551616", "less than or equal to"),
        ("prune dense.pt --ratio 0.5 --threads 1000000", "less than or equal to"),
        (
            "prune dense.pt --ratio 0.5 --input 99999999999999999999999,1,8,8",
            "and at most 268,435,456",
        ),
        (
            "export dense.pt out.onnx --onnx --batch 999999999999",
            "and at most 268,435,456 are made",
        ),
        (
            "export dense.pt out.onnx --onnx --input 1,1,99999999,8",
            "and at most 268,435,456 are made",
        ),
        (GOOD.replace("--no-time", "--batch 999999999999"), "and at most 268,435,456"),
        ("sensitivity dense.pt --points 1000000000", "less than or equal to"),
        (
            "sparsify dense.pt --data digits --strength 1e300 -o s.pt",
            "the strength 1e+300 is more than",
        ),
    ],
)
def test_a_number_that_no_machine_can_serve_is_refused_before_the_work(
    command, sentence, slimnet, shelf
):
    before = sorted(shelf.iterdir())
    code, _, err = slimnet(command)
    assert code == 2 and sentence in " ".join(err.split())
    assert [x for x in sorted(shelf.iterdir()) if x not in before] in ([], [shelf / "study"])


def test_an_empty_argument_is_no_path(slimnet, shelf):
    code, _, err = slimnet(["compare", "dense.pt", "--data", "digits", "-o", ""])
    assert code == 2 and "an argument is empty: is a variable of the shell not set?" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names there")
@pytest.mark.parametrize("source", ["/dev/zero", "pipe", "folder"])
@pytest.mark.parametrize(
    "command",
    [
        "inspect {}",
        "verify {} --against dense.pt",
        "prune dense.pt --ratio 0.5 --init {} -o out.pt",
        "prune dense.pt --ratio 0.5 --criterion taylor --data npz:{} -o out.pt",
        "export {} out.onnx --onnx",
    ],
)
def test_what_never_ends_is_no_file(command, source, slimnet, shelf):
    (shelf / "folder").mkdir(exist_ok=True)
    if not (shelf / "pipe").exists():
        os.mkfifo(shelf / "pipe")
    code, _, err = slimnet(command.format(source))
    assert code == 2 and re.search("is a device or a pipe|is a folder", " ".join(err.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_no_utf8_is_read_and_written(slimnet, shelf):
    odd = os.fsdecode(b"\xff.pt")
    (shelf / odd).write_bytes((shelf / "dense.pt").read_bytes())
    assert slimnet(["prune", odd, "--ratio", "0.5", "-o", os.fsdecode(b"\xfe.pt")])[0] == 0
    assert slimnet(["inspect", os.fsdecode(b"\xfe.pt")])[0] == 0


def test_a_plan_is_written_reviewed_edited_and_applied(slimnet, shelf):
    code, out, err = slimnet("prune dense.pt --ratio 0.5 --dry-run -o plan.json")
    assert code == 0, err
    assert "now: edit it, and slimnet prune dense.pt --plan plan.json" in out
    asked = "prune dense.pt --ratio 0.5 -o told.pt --overwrite --json"
    applied = "prune dense.pt --plan plan.json -o told.pt --overwrite --json"
    usual, same = (json.loads(slimnet(command)[1]) for command in (asked, applied))
    assert same["plan"]["removed"] == usual["plan"]["removed"]
    path = shelf / "plan.json"
    text = json.loads(path.read_text())
    text["groups"][0]["keep"] = 9
    path.write_text(json.dumps(text))
    edited = json.loads(slimnet(applied)[1])["plan"]
    assert [cut["after"] for cut in edited["groups"]][:2] == [
        9,
        usual["plan"]["groups"][1]["after"],
    ]
    code, out, err = slimnet(f"{applied} --macs 0.5")
    assert code == 2 and "plan.json says every width" in err
    code, out, err = slimnet("prune dense.pt --plan none.json -o told.pt --overwrite")
    assert code == 2 and "there is no file none.json" in err
    for keep, words in (("x", "does not name channels"), (None, "keep None is no number")):
        text["groups"][0]["keep"] = keep
        path.write_text(json.dumps(text))
        code, _, err = slimnet(applied)
        assert code == 2 and words in err
    for content in ("{}", "[1]", "no", '{"groups": [1]}'):
        path.write_text(content)
        code, _, err = slimnet(applied)
        assert code == 2 and "plan" in err


def test_a_plan_of_an_own_network_says_the_whole_command_that_cuts(slimnet):
    network = "--arch mine.py:make_model --input 1,1,8,8"
    _, out, _ = slimnet(f"prune net.pt --ratio 0.5 --dry-run -o own-plan.json {network}")
    said = f"slimnet prune net.pt --plan own-plan.json {network}"
    assert f"now: edit it, and {said}\n" in out
    code, _, err = slimnet(f"{said.removeprefix('slimnet ')} -o planned.pt")
    assert code == 0, err


def test_prune_says_what_comes_next(slimnet):
    _, out, _ = slimnet("prune dense.pt --ratio 0.5 -o next.pt --overwrite")
    assert "now: slimnet repair next.pt --against dense.pt --data DATA" in out
    assert "now: slimnet retrain next.pt --data DATA --against dense.pt --distill" in out
    assert "then: slimnet export tuned.pt --onnx" in out
