"""A file of any height and width equals the network at sizes that it was not written at."""

import onnx
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.export import ExportError, export_onnx
from slimnet.export.inputs import resized

IMAGES = (torch.zeros(1, 3, 8, 8),)


class Skipping(nn.Module):
    """As in a U-Net: runs on even sizes alone."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        return torch.cat([x, nn.functional.interpolate(self.down(x), scale_factor=2.0)], 1)


class Padding(nn.Module):
    """Its code decides by the size, which a file cannot."""

    def forward(self, x):
        return nn.functional.pad(x, (0, 4)) if x.shape[-1] % 8 else x * 2


class TwoSizes(nn.Module):
    def forward(self, x, y):
        return x.mean((1, 2, 3)) + y.mean((1, 2, 3))


def pooled():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def axes(path):
    graph = onnx.load(path).graph
    return [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]


def test_height_and_width_are_free_beside_the_batch(tmp_path):
    record = export_onnx(pooled(), IMAGES, tmp_path / "a.onnx", dynamic_size=True)
    assert axes(tmp_path / "a.onnx") == [["batch", 3, "height", "width"], ["batch", 4]]
    assert record.any_size and record.dynamic_batch
    assert record.parity.images == ("3x8x8", "3x40x72", "3x7x7")
    assert "batches 1, 3, images of 3x8x8, 3x40x72, 3x7x7" in record.parity.sentence("onnxruntime")


def test_they_are_fixed_unless_asked_for(tmp_path):
    record = export_onnx(pooled(), IMAGES, tmp_path / "a.onnx")
    assert axes(tmp_path / "a.onnx")[0] == ["batch", 3, 8, 8]
    assert not record.any_size
    assert record.parity.images == ()


def test_sizes_that_the_network_does_not_take_are_not_tried(tmp_path):
    record = export_onnx(Skipping(), IMAGES, tmp_path / "a.onnx", dynamic_size=True)
    assert record.parity.images == ("3x8x8", "3x40x72")


def test_the_axes_of_images_of_two_sizes_have_two_names(tmp_path):
    example = (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 16, 12))
    export_onnx(TwoSizes(), example, tmp_path / "a.onnx", dynamic_size=True)
    assert axes(tmp_path / "a.onnx")[:2] == [
        ["batch", 3, "height", "width"],
        ["batch", 1, "height_1", "width_1"],
    ]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "mat1 and mat2 shapes"),
        (Padding(), r"shapes \(1, 3, 7, 7\) in the ONNX file, \(1, 3, 7, 11\) in PyTorch"),
    ],
)
def test_a_network_of_one_size_is_refused_with_the_reason(tmp_path, model, reason):
    with pytest.raises(ExportError, match=f"for images of any height and width.*{reason}") as told:
        export_onnx(model, IMAGES, tmp_path / "a.onnx", dynamic_size=True)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="Linear takes no images"):
        export_onnx(nn.Linear(3, 2), (torch.zeros(1, 3),), tmp_path / "a.onnx", dynamic_size=True)


def test_an_example_of_another_size_holds_its_own_numbers():
    images, tokens = torch.arange(12.0).reshape(1, 1, 3, 4), torch.arange(3)
    larger = resized((images, tokens), lambda height, width: (height + 2, width + 1))
    assert larger[0].shape == (1, 1, 5, 5)
    assert torch.equal(larger[0][..., :3, :4], images)
    assert set(larger[0].flatten().tolist()) == set(images.flatten().tolist())
    assert larger[1] is tokens
