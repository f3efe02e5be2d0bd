"""``slimnet export --onnx`` in its forms, as a user types it."""

import json
import re

import numpy as np
import pytest
import torch
from onnx import load

from slimnet.cli import main
from slimnet.export import read_metadata
from slimnet.models import MODELS

INT8 = "export net.pt q.onnx --onnx --int8 --data npz:data.npz --samples 24 --threads 1"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A network, a slim one, and data."""
    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    torch.save(MODELS["digits_resnet"].make().state_dict(), folder / "net.pt")
    random = np.random.default_rng(0)
    splits = {"train": 24, "test": 20}
    images = {f"x_{s}": random.integers(0, 255, (n, 8, 8, 1), np.uint8) for s, n in splits.items()}
    labels = {f"y_{s}": np.arange(n) % 10 for s, n in splits.items()}
    np.savez(folder / "data.npz", **images, **labels)
    return folder


@pytest.fixture
def slimnet(shelf, monkeypatch, capsys):
    monkeypatch.chdir(shelf)

    def run(line):
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_slim_file_says_its_cut_and_takes_any_size(slimnet, shelf):
    assert slimnet("prune net.pt --ratio 0.5 -o slim.pt")[0] == 0
    code, out, err = slimnet("export slim.pt a.onnx --onnx --no-latency --dynamic-size --opset 18")
    assert code == 0, err
    assert "opset 18, dynamic height and width, dynamic batch" in out
    assert "images of 1x8x8, 1x40x72, 1x7x7" in out
    said = read_metadata(shelf / "a.onnx")
    assert said.plan["after"]["macs"] < 0.3 * said.plan["before"]["macs"]
    assert "relative error" in said.certificate["says"]


def test_denormal_weights_are_said(slimnet, shelf):
    state = MODELS["digits_resnet"].make().state_dict()
    name = next(name for name, t in reversed(state.items()) if t.dim() == 2)
    state[name][0, :3] = 3e-39
    torch.save(state, shelf / "tiny.pt")
    code, out, _ = slimnet("export tiny.pt t.onnx --onnx --no-latency")
    assert code == 0
    assert "3 weights below the smallest normal number set to zero" in out
    assert json.loads((shelf / "t.onnx.json").read_text())["onnx"]["denormals"] == 3


def test_float16_is_timed_beside_float32(slimnet, shelf):
    code, out, _ = slimnet("export net.pt h.onnx --onnx --fp16 --threads 1")
    assert code == 0
    assert "numbers, float16, opset" in out
    assert "tolerance 1e-02" in out
    assert "latency: float16 runs in" in out
    assert "float32 in" in out
    names = [
        t["name"] for t in json.loads((shelf / "h.onnx.json").read_text())["latency"]["timings"]
    ]
    assert names == ["float32", "float16"]


def test_int8_is_a_table_of_size_time_and_metric(slimnet, shelf):
    code, out, err = slimnet(f"{INT8} --keep-slower")
    assert code == 0, err
    lines = out.split("\n")
    (start,) = (number for number, line in enumerate(lines) if "accuracy" in line)
    headings, _, *rows = lines[start : start + 4]
    assert headings.split() == ["size", "ms", "accuracy", "%"]
    assert [row.split()[0] for row in rows] == ["float32", "int8"]
    assert "q.onnx written: int8, opset" in out
    assert re.search(r"ranges from 24 samples; (\d+) of \1 convolutions run on integers\n", out)
    assert "latency: int8 runs in" in out
    record = json.loads((shelf / "q.onnx.json").read_text())
    assert [row["name"] for row in record["int8"]["files"]] == ["float32", "int8"]
    assert any(t.data_type == 3 for t in load(shelf / "q.onnx").graph.initializer)


def test_int8_without_the_clock_says_no_time(slimnet):
    code, out, _ = slimnet(f"{INT8} --no-latency")
    assert code == 0
    assert "–" in out and "latency" not in out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("export net.pt --onnx --int8", "--int8 finds ranges, and measures, with data: add --data"),
        ("export net.pt --onnx --data npz:data.npz", "--data means nothing without --int8"),
        ("export net.pt --onnx --keep-slower", "--keep-slower means nothing without --int8"),
        ("export net.pt --onnx --samples 3", "--samples means nothing without --int8"),
        ("export net.pt --onnx --int8 --data npz:none.npz", "none.npz"),
        ("export net.pt --onnx --int8 --fp16 --data npz:data.npz", "two files"),
        ("export net.pt --onnx --fp16 --against net.pt", "leave --against out"),
        ("export net.pt --pt2 --fp16", "has one form: leave --fp16 out"),
        ("export net.pt --safetensors --opset 18", "has one form: leave --opset out"),
        ("export net.pt --onnx --opset 7 --no-latency", "opset 7 was asked for"),
        ("export net.pt --onnx --opset 99 --no-latency", "take an older one"),
        ("export net.pt data.npz --onnx --int8 --data npz:data.npz", "data.npz is read here"),
    ],
)
def test_what_is_refused_is_one_sentence_and_writes_nothing(slimnet, shelf, line, sentence):
    before = {path: path.stat().st_mtime_ns for path in shelf.iterdir()}
    code, out, err = slimnet(line)
    assert (code, out) == (2, "")
    assert sentence in err.split("\n")[-2]
    assert {path: path.stat().st_mtime_ns for path in shelf.iterdir()} == before
