"""A float16 file is half as large, takes and gives float32, and comes near to PyTorch."""

import onnx
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.export import ParityError, export_onnx, read_metadata
from slimnet.export.half import to_float16

IMAGES = (torch.zeros(1, 3, 8, 8),)


def toy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten())


def test_weights_are_float16_and_inputs_and_outputs_float32(tmp_path):
    whole = export_onnx(toy(), IMAGES, tmp_path / "whole.onnx", verify=False)
    record = export_onnx(toy(), IMAGES, tmp_path / "half.onnx", float16=True)
    graph = onnx.load(tmp_path / "half.onnx").graph
    kinds = {t.data_type for t in graph.initializer if len(t.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert record.size_bytes < 0.55 * whole.size_bytes
    assert record.parameters == whole.parameters
    assert record.dynamic_batch
    assert 1e-6 < record.parity.error < record.parity.tolerance == 1e-2
    assert read_metadata(tmp_path / "half.onnx").versions.keys() == {"slimnet", "torch"}


def test_weights_beyond_its_range_are_caught(tmp_path):
    model = toy()
    with torch.no_grad():
        model[0].weight *= 1e7
        model[2].weight *= 1e-7
    with pytest.raises(ParityError, match="relative error"):
        export_onnx(model, IMAGES, tmp_path / "half.onnx", float16=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_beside_the_file_are_refused(tmp_path):
    export_onnx(toy(), IMAGES, tmp_path / "a.onnx", verify=False)
    file, path = onnx.load(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    onnx.save(file, path, save_as_external_data=True, location="b.onnx.data")
    with pytest.raises(InputError, match="networks up to 2 GB"):
        to_float16(onnx.load(path, load_external_data=False))
