"""``slimnet latency`` as a user meets it: good files, bad ones, what is shown and said."""

import json
import re

import numpy as np
import onnx
import pytest
import torch

from slimnet import cli
from slimnet.cli import latency as command
from slimnet.cli.commands import Files, Latency, Run, batches
from slimnet.cli.latency import own_peak
from slimnet.errors import InputError
from slimnet.models import MODELS


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """ONNX files of one product, a small one and a large one, and a network."""
    folder = tmp_path_factory.mktemp("timed")
    for name, width in (("dense", 512), ("slim", 16)):
        write(folder / f"{name}.onnx", np.ones((8, width), np.float32))
    write(folder / "denormal.onnx", np.full((8, 4), 1e-40, np.float32))
    write(folder / "free.onnx", np.ones((8, 4), np.float32), shape=("batch", "any"))
    write(folder / "four.onnx", np.ones((8, 4), np.float32), shape=(4, 8))
    (folder / "text.onnx").write_text("hello")
    torch.save(MODELS["digits_vgg"].make().state_dict(), folder / "net.pt")
    return folder


def write(path, weight, shape=("batch", 8)):
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    x = make.make_tensor_value_info("x", kind, shape)
    y = make.make_tensor_value_info("y", kind, None)
    tensor = onnx.numpy_helper.from_array(weight, "w")
    graph = make.make_graph([make.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    opset = [make.make_opsetid("", 18)]
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.fixture
def slimnet(shelf, monkeypatch, capsys):
    """Run a command beside the files: its exit code, stdout and stderr; memory is not looked at."""
    monkeypatch.chdir(shelf)
    monkeypatch.setattr(command, "_peak", lambda options, path, batch: 12_300_000)
    threads = torch.get_num_threads()

    def run(words):
        with pytest.raises(SystemExit) as ended:
            cli.main(words.split())
        return ended.value.code, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)


def test_files_are_shown_beside_each_other(slimnet):
    code, out, _ = slimnet("latency dense.onnx slim.onnx --batch 64,256 --rounds 6")
    assert code == 0
    heading, _, *rows = out.split("\n\n")[0].strip().split("\n")
    assert re.split(r"\s{2,}", heading.strip()) == [
        *("file", "batch", "MB", "CPU ms (95 %)", "p90", "wall ms", "samples/s", "memory MB"),
        "speed (95 %)",
    ]
    assert [row.split()[:2] for row in rows] == [
        [name, batch] for batch in ("64", "256") for name in ("dense.onnx", "slim.onnx")
    ]
    assert all(" 12.3 " in row for row in rows)
    assert re.search(r"–$", rows[0].strip())
    assert re.search(r"\d× \(\d.*–.*\) (faster|slower|within the noise)", rows[1])
    assert "median CPU time of 6 interleaved rounds" in out and "batch 64, 256, 1 thread" in out


def test_the_same_as_data(slimnet):
    code, out, err = slimnet("latency dense.onnx slim.onnx --rounds 6 --json --threads 2")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["bytes"].keys() == {"dense.onnx", "slim.onnx"}
    (measured,) = record["measured"]
    assert measured["peak_bytes"] == {"dense.onnx": 12_300_000, "slim.onnx": 12_300_000}
    assert (measured["decides"], measured["batch"], measured["threads"]) == ("wall", 1, 2)
    low, high = measured["timings"][0]["interval_ms"]
    assert low <= measured["timings"][0]["median_ms"] <= high
    assert [each["name"] for each in measured["speedups"]] == ["slim.onnx"]


def test_a_file_beside_itself_has_a_number(slimnet):
    code, out, _ = slimnet("latency slim.onnx slim.onnx --rounds 6")
    assert code == 0 and "slim.onnx (2)" in out


def test_slow_numbers_are_noted(slimnet):
    code, out, _ = slimnet("latency denormal.onnx --rounds 6")
    assert code == 0
    assert "note: denormal.onnx has 32 denormal numbers among its weights" in out


def test_a_network_is_timed_in_torch(slimnet):
    code, out, _ = slimnet("latency net.pt --rounds 6 --batch 2 --device cpu")
    assert code == 0 and "torch cpu" in out and "batch 2, 1 thread" in out


def test_the_batch_is_that_of_the_inputs(slimnet):
    assert "batch 3, " in slimnet("latency slim.onnx --input 3,8 --rounds 6")[1]
    assert "batch 4, " in slimnet("latency four.onnx --rounds 6")[1]
    code, out, _ = slimnet("latency free.onnx --input 3,8 --rounds 6 --batch 5")
    assert code == 0 and "batch 5, " in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("none.onnx", "none.onnx: there is no such file"),
        ("none.pt", "there is no file none.pt"),
        ("text.onnx", "text.onnx is no ONNX file"),
        ("free.onnx", "takes an input of any size, x (batch,any): say which"),
        ("slim.onnx net.pt", "ONNX files and networks are named together"),
        (
            "slim.onnx --backend torch",
            "the torch backends time modules, and were given 'slim.onnx'",
        ),
        ("net.pt --backend onnxruntime", "this backend times ONNX files, and was given a"),
        ("slim.onnx --backend abacus", "unknown latency backend 'abacus': the known ones are"),
        ("slim.onnx --device cpu", "--example and --device are for networks"),
        ("slim.onnx --example a.py:f", "--example and --device are for networks"),
        ("slim.onnx --batch 1,x", "--batch '1,x' is no number of samples, or list of them: 1,8"),
        ("slim.onnx --batch 99999999999", "at most 268,435,456 are made"),
        ("four.onnx --batch 2", "four.onnx takes batch 4 only and was to run 2"),
        ("slim.onnx --input 1,8 --input 1", "takes 1 input (x), and --input is given for 2"),
        ("slim.onnx --input 1,9", "slim.onnx does not run on these inputs"),
        ("slim.onnx --rounds 5", "--rounds"),
        ("slim.onnx --threads 0", "--threads"),
        ("", "Missing argument"),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(slimnet, words, sentence):
    code, out, err = slimnet(f"latency {words}")
    assert (code, out) == (2, "") and sentence in err.split("slimnet: ")[1]


def test_batches_are_listed_once_each():
    assert batches("1,8,1,32") == (1, 8, 32)


def options_of(*files):
    return Latency(file=files, files=Files(), run=Run())


def test_memory_is_that_of_a_process_of_its_own(shelf):
    options = options_of(shelf / "dense.onnx")
    peak = command._peak(options, shelf / "dense.onnx", 1)
    assert peak is None or 0 < peak < 200_000_000


def test_what_that_process_runs_refuses_as_the_command_does(shelf):
    with pytest.raises(InputError, match="is no ONNX file"):
        own_peak(options_of(shelf / "text.onnx"), shelf / "text.onnx", 1)


def test_an_export_may_be_timed_in_another_runtime(slimnet, monkeypatch, shelf):
    code, out, err = slimnet("export net.pt none.onnx --onnx --backend torch")
    assert (code, out) == (2, "") and "were given 'none.onnx'" in err
    code, _, err = slimnet("export net.pt none.onnx --onnx --backend tensorrt")
    assert code == 2 and "has no TensorRT" in err
    assert not (shelf / "none.onnx").exists()
    code, _, err = slimnet("export net.pt none.onnx --onnx --no-latency --backend torch")
    assert code == 2 and "--backend means nothing without --latency" in err
    pytest.importorskip("openvino")
    code, out, _ = slimnet("export net.pt some.onnx --onnx --backend openvino --threads 1")
    assert code == 0 and "OpenVINO" in out
