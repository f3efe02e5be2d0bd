"""Detectors become ONNX as they run; what decides by a value in the user's own code does not."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms, nms

from slimnet.errors import InputError
from slimnet.export import ExportError, export_onnx, measure_latency
from slimnet.timing.prune import prune


class Detector(nn.Module):
    """Boxes of eight pixels at the places that score above zero, in torchvision's form."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, images):
        return [self.found(self.body(image[None])[0, 0]) for image in images]

    def found(self, heat):
        chosen = heat.flatten() > 0
        places = torch.nonzero(chosen)[:, 0]
        y, x = 4.0 * (places // heat.shape[1]), 4.0 * (places % heat.shape[1])
        boxes, scores = torch.stack([x, y, x + 8, y + 8], 1), heat.flatten()[places]
        kept = self.kept(boxes, scores)
        return {"boxes": boxes[kept], "labels": torch.ones_like(kept), "scores": scores[kept]}

    def kept(self, boxes, scores):
        """Its algorithm depends on how many there are, which ``torch.export`` cannot follow."""
        return batched_nms(boxes, scores, torch.ones_like(scores), 0.3)


class Followed(Detector):
    def kept(self, boxes, scores):
        return nms(boxes, scores, 0.3)


class FirstOnly(Detector):
    """Its own code looks at how many boxes there are."""

    def kept(self, boxes, scores):
        kept = super().kept(boxes, scores)
        return kept[:1] if len(kept) > 3 else kept


def detector(kind=Detector):
    torch.manual_seed(0)
    model = kind().eval()
    with torch.no_grad():
        model.body[2].bias.fill_(0.2)
    return model


def images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return ([torch.rand(3, *size, generator=generator) for size in sizes],)


def found(path, *pictures):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, [x.numpy() for x in pictures], strict=True)))


def test_a_slim_detector_is_written_for_images_of_any_size(tmp_path):
    slim = prune(detector(), images((64, 64)), ratio=0.5, align=None).model
    path = tmp_path / "slim.onnx"
    record = export_onnx(slim, images((64, 64)), path)
    assert "decides by the values of a tensor" in record.recorded
    assert record.any_size and not record.dynamic_batch
    assert record.outputs == ("boxes", "labels", "scores")
    assert record.parity.images == ("3x64x64", "3x96x128") and record.parity.found > 10
    (picture,) = images((40, 72))[0]
    for one, other in zip(found(path, picture), slim([picture])[0].values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-4, atol=1e-4)


def test_what_torch_follows_is_written_as_it_is_followed(tmp_path):
    record = export_onnx(detector(Followed), images((32, 32)), tmp_path / "a.onnx")
    assert record.recorded is None and not record.any_size
    assert "takes a list of images" in record.static_reason
    assert record.parity.images == ("3x32x32",)


def test_each_image_of_a_list_is_an_input(tmp_path):
    path = tmp_path / "two.onnx"
    record = export_onnx(detector(), images((64, 64), (32, 48)), path)
    assert record.inputs == ("input_0", "input_1")
    assert record.outputs[3:] == ("1.boxes", "1.labels", "1.scores")
    timed = measure_latency({"two": path}, images((64, 64)), batch=2, rounds=1, threads=1)
    assert timed.batch == 2
    with pytest.raises(InputError, match="takes batch 2 only and was to run 1"):
        measure_latency({"two": path}, images((64, 64)), batch=1, rounds=1, threads=1)


def test_of_a_detector_only_the_outputs_that_are_read_are_written(tmp_path):
    names = ("0.boxes", "0.scores")
    record = export_onnx(detector(), images((64, 64)), tmp_path / "a.onnx", outputs=names)
    assert record.outputs == ("boxes", "scores")


def test_code_that_decides_by_what_was_found_is_refused(tmp_path):
    reason = r"decides by the values .*, and written as it ran: .*in test_export_tracing\.py:\d+"
    with pytest.raises(ExportError, match=reason):
        export_onnx(detector(FirstOnly), images((64, 64)), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_finds_nothing_says_that_nothing_was_compared(tmp_path):
    model = detector()
    with torch.no_grad():
        model.body[2].bias.fill_(-100)
    record = export_onnx(model, images((64, 64)), tmp_path / "a.onnx")
    assert record.parity.found == 0
    assert "nothing was found there" in record.parity.sentence("onnxruntime")


def test_the_file_holds_no_path_of_the_machine(tmp_path):
    export_onnx(detector(), images((64, 64)), tmp_path / "a.onnx")
    assert b".py" not in (tmp_path / "a.onnx").read_bytes()
    axes = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == [3, "height", "width"]
