"""What onnxruntime makes of a file is counted, and said where it costs."""

import json

import torch
from torch import nn

from slimnet.export import export_onnx
from slimnet.export.runtime_graph import RuntimeGraph

IMAGES = (torch.zeros(1, 3, 8, 8),)


def test_a_batch_norm_after_a_convolution_is_gone(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    record = export_onnx(model, IMAGES, tmp_path / "a.onnx")
    assert record.runs.batch_norms == record.runs.constants == 0
    assert record.runs.number("Conv", "FusedConv") == 1
    assert record.runs.sentence() is None
    assert json.loads(json.dumps(record.to_json()))["runs"]["kinds"] == dict(record.runs.kinds)


def test_a_batch_norm_that_nothing_folds_is_said(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))
    record = export_onnx(model, IMAGES, tmp_path / "a.onnx")
    assert record.runs.batch_norms == 1
    assert record.runs.sentence().startswith("onnxruntime runs 1 batch norm as such")


def test_the_most_frequent_come_first_and_unknown_kinds_are_none(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Flatten())
    runs = export_onnx(model, IMAGES, tmp_path / "a.onnx").runs
    numbers = list(runs.kinds.values())
    assert numbers == sorted(numbers, reverse=True)
    assert runs.number("Nothing") == 0
    assert RuntimeGraph({"BatchNormalization": 2, "Constant": 1}).constants == 1


def test_without_the_check_nothing_is_opened(tmp_path):
    assert export_onnx(nn.Conv2d(3, 2, 1), IMAGES, tmp_path / "a.onnx", verify=False).runs is None
