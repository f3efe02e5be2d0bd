"""An int8 file is measured beside its float32 file, and refused where it is slower."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.export import ExportError, Latency, export_int8, int8, read_metadata
from slimnet.export.devices import multiplies_bytes
from slimnet.export.int8 import kernels_sentence
from slimnet.export.onnx_module import OnnxModule
from slimnet.export.readings import Speedup, Timing
from slimnet.export.runtime_graph import RuntimeGraph
from slimnet.network import Network
from slimnet.tasks.data import load_data

IMAGE = (torch.zeros(1, 1, 8, 8),)


class Residual(nn.Module):
    """A stem with ReLU6, a block that is added, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.MaxPool2d(2)
        )
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(x + self.block(x)).mean((2, 3)))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, x):
        scores = self.net(x)
        return {"double": scores * 2, "scores": [scores]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Residual()
    for norm in (made.stem[1], made.block[3]):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.fixture(scope="module")
def task():
    return load_data("digits").limited(train=64, test=48)


@pytest.fixture
def timed(monkeypatch):
    """No clock: int8 is so many times as fast as a test says."""
    asked = {}

    def tell(times):
        def measure(candidates, example, *, batch, threads, backend):
            asked.update(names=list(candidates), batch=batch, threads=threads)
            assert all(path.is_file() for path in candidates.values())
            return Latency(
                (Timing("float32", 6.0, 5.0, 7.0), Timing("int8", 6.0 / times, 1.0, 9.0)),
                (Speedup("int8", "float32", times, times, times),),
                *("onnxruntime", "CPU", "a processor", threads or 1, batch, 30, {}),
            )

        monkeypatch.setattr(int8, "measure_latency", measure)
        return asked

    return tell


def test_both_files_are_measured_and_the_small_one_is_kept(tmp_path, model, task, timed):
    asked = timed(3.0)
    path = tmp_path / "net.onnx"
    record = export_int8(model, IMAGE, path, task, samples=32, batch=4, threads=1)
    assert [found.name for found in tmp_path.iterdir()] == ["net.onnx"]
    assert asked == {"names": ["float32", "int8"], "batch": 4, "threads": 1}
    before, after = record.files
    assert (before.median_ms, after.median_ms) == (6.0, 2.0)
    assert after.size_bytes == path.stat().st_size
    assert record.samples == 32 and record.metric.name == "accuracy"
    network = task.measure(model, task.batches("test", 16))["accuracy"]
    assert before.metrics["accuracy"] == pytest.approx(network, abs=3)  # one of 48 is 2.1
    assert record.float32.parity.error < 1e-4
    assert json.loads(json.dumps(record.to_json()))["runs"]["kinds"]["QLinearConv"] == 3


def test_every_convolution_runs_on_integers_with_its_activation(tmp_path, model, task, timed):
    timed(3.0)
    record = export_int8(model, IMAGE, tmp_path / "net.onnx", task, samples=32)
    runs = record.runs
    assert runs.number("QLinearConv") == 3
    assert runs.number("Conv", "FusedConv", "Relu", "Clip", "BatchNormalization") == 0
    assert kernels_sentence(runs) == "3 of 3 convolutions run on integers"
    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    images, _ = next(iter(task.batches("test", 48)))
    (found,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()


def test_weights_are_signed_bytes_per_channel_and_the_batch_stays_free(
    tmp_path, model, task, timed
):
    timed(3.0)
    export_int8(model, IMAGE, tmp_path / "net.onnx", task, samples=16, extra={"own": "text"})
    graph = onnx.load(tmp_path / "net.onnx").graph
    bytes_ = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sorted(tuple(t.dims) for t in bytes_ if len(t.dims) == 4) == [
        (16, 1, 3, 3),
        (16, 16, 1, 1),
        (16, 16, 3, 3),
    ]
    scales = {len(t.dims) and t.dims[0] for t in graph.initializer if "weight" in t.name}
    assert 16 in scales
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert read_metadata(tmp_path / "net.onnx").versions.keys() == {"slimnet", "torch"}
    assert b"onnx.infer" not in (tmp_path / "net.onnx").read_bytes()


def test_images_of_any_size_stay_free(tmp_path, model, task, timed):
    timed(3.0)
    record = export_int8(model, IMAGE, tmp_path / "a.onnx", task, samples=16, dynamic_size=True)
    assert record.float32.any_size
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": np.zeros((3, 1, 12, 20), np.float32)})
    assert found.shape == (3, 10)


def test_what_is_slower_is_refused_unless_it_is_wanted(tmp_path, model, task, timed):
    timed(0.5)
    path = tmp_path / "net.onnx"
    with pytest.raises(
        ExportError, match=r"slower than float32 here, 12\.0 ms against 6\.00 ms"
    ) as told:
        export_int8(model, IMAGE, path, task, samples=16)
    assert "--keep-slower" in str(told.value)
    assert list(tmp_path.iterdir()) == []
    record = export_int8(model, IMAGE, path, task, samples=16, keep_slower=True)
    assert path.is_file() and record.files[1].median_ms == 12


def test_without_the_latency_nothing_is_timed(tmp_path, model, task, monkeypatch):
    monkeypatch.setattr(int8, "measure_latency", None)
    record = export_int8(model, IMAGE, tmp_path / "a.onnx", task, samples=16, latency=False)
    assert record.latency is None
    assert record.files[1].median_ms is None


@pytest.mark.parametrize("lacks", [True, False])
def test_without_vnni_weights_have_seven_bits(tmp_path, model, task, timed, monkeypatch, lacks):
    timed(3.0)
    monkeypatch.setattr(int8, "multiplies_bytes", lambda: not lacks)
    record = export_int8(model, IMAGE, tmp_path / "net.onnx", task, samples=16)
    assert record.reduced is lacks
    tensors = onnx.load(tmp_path / "net.onnx").graph.initializer
    weights = [onnx.numpy_helper.to_array(t) for t in tensors if len(t.dims) == 4]
    assert (max(np.abs(w.astype(int)).max() for w in weights) > 64) is not lacks


def test_the_processor_is_asked_for_vnni(monkeypatch):
    from slimnet.export import devices

    told = {"vnni": "fpu sse4_2 avx512_vnni", "none": "fpu sse4_2 avx2", "no x86": ""}
    answers = {}
    for name, flags in told.items():
        monkeypatch.setattr(devices, "_told", lambda key, flags=flags: flags)
        answers[name] = multiplies_bytes()
    assert answers == {"vnni": True, "none": False, "no x86": None}


def test_kernels_that_stay_in_float_are_counted():
    runs = RuntimeGraph({"QLinearConv": 2, "FusedConv": 1, "Relu": 3})
    assert kernels_sentence(runs) == (
        "2 of 3 convolutions run on integers; 1 stay in float32; 3 activations not joined to any"
    )


def test_what_has_no_int8_form_is_refused(tmp_path, task):
    class OneBatch(nn.Module):
        def forward(self, x):
            return x.reshape(1, 64)[:, :10]

    with pytest.raises(InputError, match=r"batches of any size.*one only: .*is invalid for input"):
        export_int8(OneBatch(), IMAGE, tmp_path / "a.onnx", task, samples=8, latency=False)

    class Detector(nn.Module):
        def forward(self, images):
            return [image.sum() for image in images]

    with pytest.raises(InputError, match="Detector takes a list of images"):
        export_int8(Detector(), ([torch.zeros(3, 8, 8)],), tmp_path / "a.onnx", task)
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_is_called_like_its_network(tmp_path):
    from slimnet.export import export_onnx

    network = Named().eval()
    export_onnx(network, IMAGE, tmp_path / "all.onnx")
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = network(images)
    module = OnnxModule(tmp_path / "all.onnx", Network.of(network), IMAGE)
    for found in (module(images), module(x=images)):
        torch.testing.assert_close(found["double"], expected["double"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
    assert list(module.parameters()) == []
    with pytest.raises(InputError, match="the ONNX file does not run: "):
        module(torch.zeros(1, 3, 8, 8))
    export_onnx(network, IMAGE, tmp_path / "some.onnx", outputs=["scores"])
    module = OnnxModule(tmp_path / "some.onnx", Network.of(network), IMAGE, ["scores"])
    assert module(images)["double"] is None
    torch.testing.assert_close(module(images)["scores"], expected["scores"], rtol=1e-4, atol=1e-5)


def test_calibration_data_of_another_shape_are_refused(tmp_path, model, task, timed):
    timed(3.0)
    pixels = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    wide = replace(task, x_train=pixels, x_test=pixels[:48])
    with pytest.raises(InputError, match=r"give inputs of 16x3x8x8, and .* for batchx1x8x8"):
        export_int8(model, IMAGE, tmp_path / "a.onnx", wide, samples=16)
