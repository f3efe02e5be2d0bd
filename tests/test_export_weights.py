"""What a file weighs, which of its numbers are slow, what it takes, and what it needs of memory."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.export.file_inputs import example_of_file
from slimnet.export.weights import denormal_remarks, denormals, file_bytes
from slimnet.memory import peak_bytes

TINY = 1e-40


def toy():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def file_of(path, inputs, **weights):
    """An ONNX file that adds its inputs up, with these initialisers beside."""
    values = [onnx.helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
    total = onnx.helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, None)
    cast = [onnx.helper.make_node("Cast", [n], [f"{n}_f"], to=1) for n in inputs]
    node = onnx.helper.make_node("Sum", [f"{name}_f" for name in inputs], ["total"])
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph([*cast, node], "sum", values, [total], tensors)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def test_denormal_numbers_are_counted_in_networks_and_files(tmp_path):
    model = toy()
    with torch.no_grad():
        model[0].weight[0, 0, 0] = torch.tensor([TINY, -TINY, 0.0])
        model[2].bias[0] = TINY
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    path = file_of(tmp_path / "a.onnx", {"x": (onnx.TensorProto.FLOAT, [2])}, **weights)
    assert denormals(model) == denormals(path) == 3
    (remark,) = denormal_remarks("a.onnx", path)
    assert remark.startswith("a.onnx has 3 denormal numbers among its weights")
    assert list(denormal_remarks("toy", toy())) == []


def test_numbers_that_only_look_denormal_are_not(tmp_path):
    inputs = {"x": (onnx.TensorProto.FLOAT, [2])}
    smallest = np.finfo(np.float32).tiny
    weights = {
        "normal": np.array([smallest, -smallest, 0.0, 1.0], np.float32),
        "wide": np.array([1e-40, 1e-310], np.float64),  # the second is one
        "half": np.array([1e-7], np.float16),  # computed in float32
        "whole": np.array([1, 2]),
    }
    assert denormals(file_of(tmp_path / "a.onnx", inputs, **weights)) == 1


def test_weights_beside_a_file_belong_to_it(tmp_path):
    inputs = {"x": (onnx.TensorProto.FLOAT, [2])}
    path = file_of(tmp_path / "a.onnx", inputs, w=np.full(1000, TINY, np.float32))
    assert file_bytes(path) == path.stat().st_size
    whole = onnx.load(path)
    onnx.save(whole, path, save_as_external_data=True, location="a.data", size_threshold=0)
    assert file_bytes(path) == path.stat().st_size + 4000
    assert denormals(path) == 1000
    (tmp_path / "a.pt").write_bytes(b"1234")
    assert file_bytes(tmp_path / "a.pt") == 4


def test_inputs_are_what_the_file_says(tmp_path):
    path = file_of(
        tmp_path / "a.onnx",
        {
            "image": (onnx.TensorProto.FLOAT, ["batch", 3, 4]),
            "ids": (onnx.TensorProto.INT64, [1, 3, 4]),
            "mask": (onnx.TensorProto.BOOL, [4]),
            "scale": (onnx.TensorProto.DOUBLE, []),
        },
    )
    image, ids, mask, scale = example_of_file(path)
    assert image.shape == (1, 3, 4) and image.dtype == torch.float32 and image.std() > 0.1
    assert ids.shape == (1, 3, 4) and ids.dtype == torch.int64 and not ids.any()
    assert mask.dtype == torch.bool and mask.shape == (4,)
    assert scale.dtype == torch.float64 and scale.shape == ()
    given = example_of_file(path, [(5, 3, 4), (5, 3, 4), (4,), ()])
    assert [tuple(x.shape) for x in given] == [(5, 3, 4), (5, 3, 4), (4,), ()]
    with pytest.raises(InputError, match=r"takes 4 inputs \(image, ids, mask, scale\), and --inp"):
        example_of_file(path, [(5, 3, 4)])


def test_a_size_that_the_file_leaves_open_is_asked_for(tmp_path):
    path = file_of(tmp_path / "a.onnx", {"x": (onnx.TensorProto.FLOAT, ["batch", 3, "h", None])})
    with pytest.raises(InputError, match=r"any size, x \(batch,3,h,\?\): say .* --input 1,3,224"):
        example_of_file(path)


def test_a_list_of_images_of_any_size_stays_a_list(tmp_path):
    image = (onnx.TensorProto.FLOAT, [3, "height", "width"])
    path = file_of(tmp_path / "a.onnx", {"a": image, "b": image})
    (images,) = example_of_file(path, [(3, 8, 8), (3, 8, 8)])
    assert [tuple(x.shape) for x in images] == [(3, 8, 8), (3, 8, 8)]


def test_inputs_that_cannot_be_made_are_refused(tmp_path):
    path = file_of(tmp_path / "a.onnx", {"x": (onnx.TensorProto.UINT64, [2])})
    with pytest.raises(InputError, match=r"takes x as uint64, which is not made here"):
        example_of_file(path)
    with pytest.raises(InputError, match="there is no such file"):
        example_of_file(tmp_path / "none.onnx")


def test_the_highest_mark_of_memory_is_read_while_something_runs():
    size = 300_000_000
    peak = peak_bytes(lambda: bytearray(size))
    assert peak is None or 0.9 * size < peak < 2 * size
    again = peak_bytes(lambda: None)
    assert again is None or again < size / 2
