"""The ONNX file equals the model, takes any batch, and is there only when it is right."""

import hashlib
import json
import math
import warnings

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.export import ExportError, export_onnx
from slimnet.timing.prune import prune

IMAGES = (torch.zeros(1, 3, 8, 8),)


def toy():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)
    )


class LiteralBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, 3, -1) * 2


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class NoOnnxOperator(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x.mean((0, 1))).real


class TwoInputs(nn.Module):
    def forward(self, x, y, sign):
        return {"sum": x + sign * y, "product": x * y}


class HiddenModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.modules = []

    def forward(self, x):
        return self.conv(x)


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, [x.numpy() for x in inputs], strict=True)))


@pytest.mark.parametrize("batch", [1, 4])
def test_one_file_serves_every_batch_size(tmp_path, batch):
    model, path = toy(), tmp_path / "toy.onnx"
    record = export_onnx(model, (torch.zeros(batch, 3, 8, 8),), path)
    assert record.dynamic_batch
    assert record.static_reason is None
    model.eval()
    for size in (1, 2, 5):
        images = torch.randn(size, 3, 8, 8)
        (found,) = run(path, images)
        torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-4, atol=1e-5)


def test_axes_and_tensors_have_their_promised_names(tmp_path):
    export_onnx(toy(), IMAGES, tmp_path / "one.onnx")
    graph = onnx.load(tmp_path / "one.onnx").graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["output"]
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_several_inputs_and_a_mapping_as_output_are_numbered(tmp_path):
    example = (torch.randn(1, 4), torch.randn(1, 4), -1)
    record = export_onnx(TwoInputs(), example, tmp_path / "two.onnx")
    assert record.inputs == ("input_0", "input_1")
    assert record.outputs == ("output_0", "output_1")
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(torch.from_numpy(run(tmp_path / "two.onnx", x, y)[0]), x - y)


def test_the_record_counts_what_is_in_the_file(tmp_path):
    record = export_onnx(toy(), IMAGES, tmp_path / "toy.onnx")
    file = onnx.load(tmp_path / "toy.onnx")
    floats = [t for t in file.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert record.parameters == sum(math.prod(t.dims) for t in floats)
    assert record.parameters == 6 * 3 * 9 + 6 + 216 * 5 + 5  # BN is folded into the convolution
    assert record.batch_norms == 0
    assert record.opset == file.opset_import[0].version
    assert record.size_bytes == (tmp_path / "toy.onnx").stat().st_size
    assert record.sha256 == hashlib.sha256((tmp_path / "toy.onnx").read_bytes()).hexdigest()
    assert json.loads(json.dumps(record.to_json()))["parity"]["error"] <= 1e-4


def test_nothing_of_the_removed_channels_stays_in_the_file(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 32, 3), nn.Flatten(2))
    slim = prune(model, IMAGES, ratio=0.5, align=None).model
    record = export_onnx(slim, IMAGES, tmp_path / "slim.onnx")
    assert record.parameters == sum(p.numel() for p in slim.parameters())
    shapes = [tuple(t.dims) for t in onnx.load(tmp_path / "slim.onnx").graph.initializer]
    assert (24, 3, 3, 3) in shapes
    assert not any(48 in shape for shape in shapes)


def test_the_file_stands_alone_and_tells_nothing_of_the_machine(tmp_path):
    export_onnx(toy(), IMAGES, tmp_path / "toy.onnx")
    assert [found.name for found in tmp_path.iterdir()] == ["toy.onnx"]
    assert b".py" not in (tmp_path / "toy.onnx").read_bytes()


def test_a_literal_batch_is_written_static_and_the_record_says_why(tmp_path):
    record = export_onnx(LiteralBatch(), (torch.zeros(2, 3, 4),), tmp_path / "literal.onnx")
    assert not record.dynamic_batch
    assert "fixes the batch size at 2" in record.static_reason
    assert record.parity.batches == (2,)


def test_a_static_batch_on_request_needs_no_reason(tmp_path):
    record = export_onnx(
        toy(), (torch.zeros(3, 3, 8, 8),), tmp_path / "a.onnx", dynamic_batch=False
    )
    assert not record.dynamic_batch
    assert record.static_reason is None
    shape = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_value == 3


def test_evaluation_behaviour_is_written_and_every_mode_comes_back(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, IMAGES, tmp_path / "toy.onnx")
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    images = torch.randn(4, 3, 8, 8)
    (found,) = run(tmp_path / "toy.onnx", images)
    expected = model.eval()(images)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_a_class_that_hides_its_modules_is_exported(tmp_path):
    record = export_onnx(HiddenModules(), IMAGES, tmp_path / "hidden.onnx")
    assert record.dynamic_batch


def test_an_opset_that_torch_cannot_write_is_refused(tmp_path):
    assert export_onnx(toy(), IMAGES, tmp_path / "a.onnx", opset=18).opset == 18
    with pytest.raises(InputError, match=r"opset 7 was asked for and torch writes .* with 18"):
        export_onnx(toy(), IMAGES, tmp_path / "b.onnx", opset=7)
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (NoOnnxOperator(), r"NoOnnxOperator .*: ONNX has no operator for aten\.linalg_eig"),
        (Branching(), r"Branching .*: its code decides by the values of a tensor \(.*\.py:\d+: "),
        (nn.Conv2d(4, 2, 3), r"Conv2d cannot be written as ONNX: .*expected input.* 4 channels"),
        (nn.Flatten(7), r"Flatten cannot be written as ONNX: Dimension out of range"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, model, reason):
    with pytest.raises(ExportError, match=reason) as refusal:
        export_onnx(model, IMAGES, tmp_path / "never.onnx")
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_file_alone(tmp_path):
    path = tmp_path / "kept.onnx"
    path.write_bytes(b"older")
    with pytest.raises(ExportError):
        export_onnx(NoOnnxOperator(), IMAGES, path)
    assert path.read_bytes() == b"older"


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "a.onnx", tmp_path / "file" / "a.onnx"):
        with pytest.raises(InputError, match=r"a\.onnx cannot be written: there is no folder"):
            export_onnx(toy(), IMAGES, path)
    with pytest.raises(InputError, match="is a folder"):
        export_onnx(toy(), IMAGES, tmp_path)


def test_an_example_must_be_a_tuple_with_a_batch(tmp_path):
    with pytest.raises(InputError, match="must be a tuple of the positional inputs"):
        export_onnx(toy(), IMAGES[0], tmp_path / "a.onnx")
    with pytest.raises(InputError, match="no tensor with a batch axis"):
        export_onnx(toy(), (torch.tensor(1.0), 3), tmp_path / "a.onnx")


def test_nothing_is_said_on_the_terminal(tmp_path, capfd):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        export_onnx(toy().train(), IMAGES, tmp_path / "a.onnx", opset=21)
        with pytest.raises(ExportError):
            export_onnx(Branching(), IMAGES, tmp_path / "b.onnx")
    assert heard == []
    assert capfd.readouterr() == ("", "")
