"""Outputs that nobody reads hold no channels; what is read of a network stays as it was."""

from __future__ import annotations

import json
import shlex
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import slimnet
from slimnet.cli import main
from slimnet.errors import CertificateError, InputError
from slimnet.files.access import open_network
from slimnet.files.slim_file import read_slim
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import zero_removed

IMAGE = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
Pair = namedtuple("Pair", "features scores")


@dataclass
class Found:
    features: torch.Tensor
    scores: torch.Tensor


WAYS = {
    "dict": (lambda f, s: {"features": f, "scores": s}, "scores"),
    "dataclass": (Found, "scores"),
    "named tuple": (Pair, "scores"),
    "object": (lambda f, s: SimpleNamespace(features=f, scores=s), "scores"),
    "tuple": (lambda f, s: (f, s), "1"),
    "nested": (lambda f, s: {"all": [f, {"best": s}]}, "all.1"),
}


class Classifier(nn.Module):
    """Features and scores, in any container; what it gives in training may be another one."""

    def __init__(self, way="dict", training_way=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.head, self.aside = nn.Linear(64, 10), nn.Linear(64, 7)
        self.way, self.training_way = way, training_way

    def forward(self, x):
        features = self.b(self.a(x).relu()).relu()
        scores = self.head(features.mean((2, 3)))
        if self.training and self.training_way:
            return WAYS[self.training_way][0](self.aside(features.mean((2, 3))), scores)
        return WAYS[self.way][0](features, scores)


def classifier(*ways):
    torch.manual_seed(0)
    return Classifier(*ways).eval()


def pruned(model=None, outputs=("scores",), **options):
    options = {"ratio": 0.5, "align": None} | options
    return slimnet.prune(model or classifier(), IMAGE, outputs=outputs, **options)


@pytest.mark.parametrize("way", WAYS)
def test_what_only_an_unread_output_needs_leaves_whatever_holds_it(way):
    model, name = classifier(way), WAYS[way][1]
    whole, half = pruned(model, ()), pruned(model, (name,))
    assert whole.model.b.out_channels == 64 and whole.plan.outputs == ()
    assert half.model.b.out_channels == 32 and half.plan.outputs == (name,)
    assert half.certificate.exact and half.certificate.error < 1e-12
    assert f"outputs that are read: {name}" in str(half.certificate)
    zeroed = Network.of(classifier(way))
    for parameter, tensor in zeroed.tensors.items():
        zero_removed(parameter, tensor.data, half.plan)
    expected, got = (slimnet.example.read_of(m(*IMAGE), [name]) for m in (zeroed.model, half.model))
    torch.testing.assert_close(expected, got)


def test_an_unread_output_is_still_given_and_is_what_survives_of_it():
    model = classifier()
    slim = pruned(model).model
    kept = [n for n in range(64) if n not in pruned(model).plan.removed["b.weight"][0]]
    with torch.no_grad():
        zeroed = classifier()
        for parameter, tensor in zeroed.named_parameters():
            zero_removed(parameter, tensor, pruned(model).plan)
        torch.testing.assert_close(slim(*IMAGE)["features"], zeroed(*IMAGE)["features"][:, kept])


def test_the_notes_say_what_is_read_and_what_became_smaller():
    (note,) = pruned().plan.notes
    assert note == (
        "outputs that are read: scores; the others may have changed; smaller by the cut: "
        "features 1x64x8x8 → 1x32x8x8"
    )
    assert pruned(outputs=()).plan.notes == ()


def test_a_layer_that_only_an_unread_output_reads_leaves_first():
    class TwoHeads(Classifier):
        def forward(self, x):
            features = self.b(self.a(x).relu()).relu().mean((2, 3))
            return {"scores": self.head(features), "more": self.aside(features)}

    torch.manual_seed(0)
    slim = pruned(TwoHeads().eval(), "scores", macs=0.9, ratio=None, min_channels=1)
    assert slim.model.aside.out_features == 1


def test_a_wrong_number_in_an_output_that_is_read_is_noticed():
    half, model = pruned(), classifier()
    with torch.no_grad():
        half.model.head.bias[0] += 1.0
    with pytest.raises(CertificateError):
        slimnet.verify(half, model)


@pytest.mark.parametrize(
    ("way", "name", "reason"),
    [
        ("dict", "logits", "the network has no output 'logits': it gives 'features', 'scores'"),
        ("nested", "all.2", "no output 'all.2': it gives 'all.0', 'all.1.best'"),
        ("tuple", "scores", "no output 'scores': it gives '0', '1'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(way, name, reason):
    with pytest.raises(InputError, match=reason):
        pruned(classifier(way), name)
    with pytest.raises(InputError, match=reason):
        slimnet.inspect(classifier(way), IMAGE, outputs=name)


def test_a_network_with_one_output_has_none_to_name():
    with pytest.raises(InputError, match="it gives one tensor, which is read anyhow: name none"):
        slimnet.prune(nn.Conv2d(3, 16, 3), IMAGE, ratio=0.5, outputs="scores")


def test_inspect_lists_the_outputs_and_says_which_nobody_reads():
    whole, half = (slimnet.inspect(classifier(), IMAGE, outputs=o) for o in ((), "scores"))
    assert "outputs: features [1,64,8,8], scores [1,10]" in str(whole)
    assert "outputs: scores [1,10]\nnot read, and may change: features [1,64,8,8]" in str(half)
    rows = half.to_json()["outputs"]
    assert rows[0] == {"name": "features", "shape": (1, 64, 8, 8), "read": False}
    one = slimnet.inspect(nn.Sequential(nn.Conv2d(3, 16, 3)), IMAGE)
    assert "outputs" not in str(one)


def test_what_is_read_is_in_the_file_and_proven_from_it(tmp_path):
    half, path = pruned(), tmp_path / "slim.pt"
    slimnet.save(half, path)
    opened = open_network(path)
    assert opened.artifact.plan.outputs == opened.artifact.certificate.outputs == ("scores",)
    assert slimnet.verify(path, classifier()).outputs == ("scores",)
    loaded = slimnet.load(path)
    torch.testing.assert_close(loaded(*IMAGE), half.model(*IMAGE))
    older = replace(half.plan, outputs=())
    assert Plan.from_json({k: v for k, v in older.to_json().items() if k != "outputs"}) == older


def test_a_file_whose_names_are_no_names_is_refused():
    data: dict[str, Any] = pruned().plan.to_json()
    for bad in ("a\x1b[2J", 3, "a..b"):
        with pytest.raises(InputError):
            Plan.from_json(data | {"outputs": [bad]})


def test_a_second_cut_reads_what_the_first_left():
    first, model = pruned(), classifier()
    second = slimnet.prune(first, ratio=0.3, align=None)
    assert second.plan.outputs == ("scores",)
    plan, certificate = second.whole()
    assert plan.outputs == certificate.outputs == ("scores",)
    assert slimnet.verify(second, model).error < 1e-12
    reason = "output features was not read when this network was cut, .*left to read is scores"
    with pytest.raises(InputError, match=reason):
        slimnet.prune(first, ratio=0.3, outputs="features")


def test_a_second_cut_may_read_less_than_the_first():
    first = pruned(outputs=())
    second = slimnet.prune(first, ratio=0.3, align=None, outputs="scores")
    assert second.whole()[0].outputs == ("scores",)
    assert slimnet.verify(second, classifier()).error < 1e-12


def test_repair_and_sensitivity_measure_what_is_read():
    data = torch.randn(32, 3, 8, 8)
    repaired = slimnet.repair(pruned(), classifier(), data)
    assert repaired.repair.after < repaired.repair.before
    curves = slimnet.sensitivity(classifier(), IMAGE, data, outputs="scores", points=2).curves
    assert {curve.layers[0] for curve in curves} == {"a", "b"}
    with pytest.raises(InputError, match="has no output 'other'"):
        slimnet.sensitivity(classifier(), IMAGE, data, outputs="other")


@pytest.mark.parametrize(("training_way", "left"), [("tuple", 7), ("dict", 1)])
def test_a_pass_in_training_mode_that_lacks_a_name_is_read_whole(training_way, left):
    model = classifier("dict", training_way)
    assert pruned(model, ratio=0.9, min_channels=1).model.aside.out_features == left


def test_names_come_as_a_text_or_as_a_sequence():
    several = pruned(outputs="scores, features")
    assert several.plan.outputs == ("scores", "features")
    assert several.model.b.out_channels == 64
    with pytest.raises(InputError, match="output's name"):
        pruned(outputs=("a\nb",))


SOURCE = """
import torch
from torch import nn

import slimnet


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        features = self.b(self.a(x).relu()).relu()
        return {"features": features, "scores": self.head(features.mean((2, 3)))}


def make_task():
    batches = [(torch.randn(8, 3, 8, 8), torch.arange(8)) for _ in range(4)]

    def loss(outputs, batch):
        return nn.functional.cross_entropy(outputs["scores"], batch[1])

    return slimnet.LoaderTask(batches, batches[:1], loss_of=loss, outputs=["scores"])
"""


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Runs one command on such a network; gives what it printed."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    namespace: dict[str, Any] = {}
    exec(SOURCE, namespace)
    torch.manual_seed(0)
    torch.save(namespace["Net"]().state_dict(), "model.pt")

    def run(line):
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(f"{line} --arch own.py:Net"))
        assert ended.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    return run


def test_the_commands_read_what_is_named_and_remember_it(typed):
    shape = "--input 1,3,8,8"
    listed = typed(f"inspect model.pt {shape} --outputs scores")
    assert "outputs: scores [1,10] not read, and may change: features [1,64,8,8]" in listed
    typed(f"prune model.pt {shape} --ratio 0.5 --outputs scores -o slim.pt")
    assert "outputs that are read: scores" in typed("verify slim.pt --against model.pt")
    written = typed("export slim.pt slim.onnx --onnx --against model.pt --threads 1")
    assert "outputs: scores" in written
    assert [x.name for x in onnx.load("slim.onnx").graph.output] == ["scores"]


def test_an_export_refuses_outputs_that_nobody_read_at_the_cut(typed, capsys):
    typed("prune model.pt --input 1,3,8,8 --ratio 0.5 --outputs scores -o slim.pt")
    with pytest.raises(SystemExit) as ended:
        main(shlex.split("export slim.pt --onnx --outputs features"))
    assert ended.value.code == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "the output features was not read when this network was cut" in err


def test_a_task_says_what_its_loss_and_metrics_read(typed):
    task = "--input 1,3,8,8 --data own.py:make_task"
    typed(f"prune model.pt {task} --ratio 0.5 --repair --dry-run -o plan.json")
    assert json.loads(Path("plan.json").read_text())["outputs"] == ["scores"]
    assert "outputs that are read: scores" in typed("prune model.pt --plan plan.json " + task)
    typed("retrain slim.pt --data own.py:make_task --epochs 1 --precision float32 -o tuned.pt")
    assert read_slim(Path("tuned.pt")).plan.outputs == ("scores",)
    both = typed(f"prune model.pt {task} --ratio 0.5 --outputs scores,features -o other.pt")
    assert "outputs that are read: scores, features" in both
