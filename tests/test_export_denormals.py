"""Weights below the smallest normal number become zero, wherever a file holds them."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from slimnet.export import export_onnx
from slimnet.export.denormals import denormals_sentence, flush_denormals

IMAGES = (torch.zeros(1, 3, 8, 8),)
NUMBERS = np.array([0, 1, -1, 3e-39, -3e-39, 1.2e-38, np.inf, np.nan], np.float32)
FLUSHED = np.array([0, 1, -1, 0, 0, 1.2e-38, np.inf, np.nan], np.float32)


def holding(numbers, *, constant=False):
    """A file that gives these numbers, as an initialiser or as a constant."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(numbers.dtype)
    value = numpy_helper.from_array(numbers, "numbers")
    output = onnx.helper.make_tensor_value_info("output", kind, numbers.shape)
    nodes = [onnx.helper.make_node("Identity", ["numbers"], ["output"])]
    if constant:
        nodes = [onnx.helper.make_node("Constant", [], ["output"], value=value)]
    graph = onnx.helper.make_graph(nodes, "g", [], [output], [] if constant else [value])
    return onnx.helper.make_model(graph)


def held(file):
    (tensor,) = file.graph.initializer or [file.graph.node[0].attribute[0].t]
    return numpy_helper.to_array(tensor)


@pytest.mark.parametrize("constant", [False, True])
def test_what_is_too_small_is_zero_and_all_else_stays_to_the_bit(tmp_path, constant):
    file = holding(NUMBERS, constant=constant)
    assert flush_denormals(file, tmp_path) == 2
    np.testing.assert_array_equal(held(file), FLUSHED)
    assert flush_denormals(file, tmp_path) == 0


@pytest.mark.parametrize(("kind", "count"), [(np.float64, 1), (np.float16, 0), (np.int64, 0)])
def test_each_type_has_a_smallest_number_of_its_own(tmp_path, kind, count):
    numbers = np.array([0, 2, 1e-310, 3e-39, 1e-7]).astype(kind)
    assert flush_denormals(holding(numbers), tmp_path) == count


def test_weights_beside_the_file_are_changed_there(tmp_path):
    numbers = np.tile(NUMBERS, 200)
    path = tmp_path / "large.onnx"
    onnx.save(holding(numbers), path, save_as_external_data=True, location="large.onnx.data")
    file = onnx.load(path, load_external_data=False)
    assert flush_denormals(file, tmp_path) == 400
    np.testing.assert_array_equal(held(onnx.load(path)), np.tile(FLUSHED, 200))


def test_an_export_says_how_many_there_were(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Flatten()).eval()
    with torch.no_grad():
        model[1].weight[0, :3] = 3e-39
    record = export_onnx(model, IMAGES, tmp_path / "a.onnx")
    assert record.denormals == 3
    assert record.to_json()["denormals"] == 3
    tensors = map(numpy_helper.to_array, onnx.load(tmp_path / "a.onnx").graph.initializer)
    sizes = np.concatenate([np.abs(x).ravel() for x in tensors if x.dtype == np.float32])
    assert sizes[sizes > 0].min() > 1.2e-38
    assert denormals_sentence(3).startswith(
        "3 weights below the smallest normal number set to zero"
    )


def test_a_network_without_them_is_left_alone(tmp_path):
    assert export_onnx(nn.Conv2d(3, 2, 1), IMAGES, tmp_path / "a.onnx").denormals == 0
