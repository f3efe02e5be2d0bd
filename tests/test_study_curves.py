"""One group cut alone: what is measured equals the slim network, and nothing else changes."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from micro import Net, bn, conv
from torch import nn

import slimnet
from slimnet import cli
from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.report.sensitivity import (
    cheapest_sentence,
    sensitivity_table,
    value_of,
    write_sensitivity,
)
from slimnet.samples import Samples
from slimnet.study.curves import Curve, Point, Sensitivity, sensitivity
from slimnet.timing import measured as timing
from slimnet.timing.table import TimeTable

IMAGE = (torch.randn(2, 3, 8, 8),)


def layer_norm(width):
    """Over the channels: a cut changes its statistics."""
    return partial(nn.GroupNorm, 1, width)


def network(norm=bn):
    torch.manual_seed(0)
    parts = {"a": conv(3, 16), "n": norm(16), "b": conv(16, 16), "d": conv(16, 4)}
    return Net(lambda m, x: m.d(m.b(m.n(m.a(x)).relu()).relu()).mean((2, 3)), parts).eval()


def labelled(count=32):
    torch.manual_seed(1)
    return Samples(torch.randn(count, 3, 8, 8), torch.randint(4, (count,)))


@pytest.mark.parametrize(("norm", "criterion"), [(bn, "l1"), (bn, "bn-scale"), (layer_norm, "l2")])
def test_a_point_is_what_the_slim_network_gives(norm, criterion):
    model, data = network(norm), labelled()
    found = sensitivity(model, IMAGE, data, points=3, criterion=criterion)
    curve = next(curve for curve in found.curves if "a" in curve.layers)
    assert curve.approximate == (norm is layer_norm)
    dense = model(data.images).detach()
    for share, point in zip(found.shares, curve.points, strict=True):
        slim = slimnet.prune(
            model, IMAGE, ratio=0, layer_ratio={"a": share}, align=None, criterion=criterion
        ).model
        outputs = slim(data.images).detach()
        assert slim.a.out_channels == point.channels == round(16 * (1 - share))
        assert point.error == pytest.approx(
            float((outputs - dense).norm() / dense.norm()), rel=1e-4
        )
        assert point.accuracy == 100 * float((outputs.argmax(1) == data.labels).float().mean())


def test_labels_give_accuracy_and_images_alone_the_error():
    model, data = network(), labelled()
    found = sensitivity(model, IMAGE, data)
    assert found.accuracy == 100 * float(
        (model(data.images).argmax(1) == data.labels).float().mean()
    )
    assert found.images == 32 and len(found.shares) == 5
    blind = sensitivity(model, IMAGE, data.images)
    assert blind.accuracy is None and blind.curves[0].points[0].accuracy is None
    assert [c.points[0].error for c in blind.curves] == [c.points[0].error for c in found.curves]
    alone = sensitivity(model, IMAGE)
    assert alone.images is None and alone.curves[0].points[0].error > 0


def test_the_network_is_never_changed():
    model = network().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sensitivity(model, IMAGE, labelled())
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_channel_that_nobody_reads_costs_nothing_and_the_others_do():
    model = network()
    with torch.no_grad():
        model.a.weight[:8] = 0
        model.n.weight[:8] = 0
        model.n.bias[:8] = 0
    found = sensitivity(model, IMAGE, points=3)
    errors = [point.error for point in found.curves[0].points]
    assert errors[0] == errors[1] == 0 < errors[2]


def test_more_points_than_channels_are_measured_once_each():
    model = MODELS["digits_vgg"].make().eval()
    found = sensitivity(model, (torch.randn(1, 1, 8, 8),), points=2)
    assert all(len(curve.points) == 2 for curve in found.curves)
    many = sensitivity(network(), IMAGE, points=40)
    assert [point.channels for point in many.curves[0].points] == list(range(15, 0, -1))


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="points must be at least 1, and 0 is not"):
        sensitivity(network(), IMAGE, points=0)
    with pytest.raises(InputError, match=r"does not run on images of \[1, 8, 8\]"):
        sensitivity(network(), IMAGE, torch.randn(4, 1, 8, 8))
    with pytest.raises(InputError, match="criterion taylor reads gradients"):
        sensitivity(network(), IMAGE, criterion="taylor")


def test_a_slim_network_that_does_not_run_is_left_out_and_said():
    class Literal(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

        def forward(self, x):
            x = self.n(self.a(x))
            if x.shape[-1] != int("16"):
                raise ValueError("sixteen or nothing")
            return self.b(x)

    found = sensitivity(Literal().eval(), (torch.randn(2, 8),))
    assert not found.curves
    assert found.skipped == (("a", "the slim network does not run: sixteen or nothing"),)


HOSTILE = "</script><script>alert(1)</script>"


def measured(accuracy=90.0):
    points = (Point(12, 0.25, 0.125, accuracy), Point(4, 0.75, 0.5, accuracy and accuracy / 2))
    curve = Curve(0, (HOSTILE, "b", "c", "d"), 16, True, points)
    skipped = (("head", "it does not run"),)
    return Sensitivity("l1", 8, accuracy, (0.25, 0.75), (curve,), skipped)


def test_the_page_stands_alone_and_holds_every_number(tmp_path):
    path = tmp_path / "page.html"
    write_sensitivity(path, measured(), "Sensitivity of a & b", {"slimnet": "1"})
    page = path.read_text()
    assert HOSTILE not in page and "alert(1)" in page
    for text in ("<td>90.00</td>", "<td>45.00</td>", "a &amp; b", "and 1 more *", "head"):
        assert text in page
    assert "<script src" not in page and "<link" not in page
    write_sensitivity(path, measured(None), "x", {})
    assert "<td>0.125</td>" in path.read_text()


def test_the_table_has_a_row_for_each_group_and_a_column_for_each_share():
    table = sensitivity_table(measured())
    assert [column.header for column in table.columns] == ["channels", "−25%", "−75%", "layers"]
    assert table.row_count == 1
    assert value_of(None) == "–"


def test_the_command_line_measures_writes_and_prints(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(MODELS["digits_resnet"].make().state_dict(), tmp_path / "dense.pt")
    page = tmp_path / "page.html"
    options = ["--data", "digits", "--samples", "64", "--points", "2", "-o", str(page)]
    with pytest.raises(SystemExit) as end:
        cli.main(["sensitivity", str(tmp_path / "dense.pt"), *options])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "−33%" in said and "layer2.0.conv1" in said
    assert "accuracy in percent on 64 images, dense " in said
    assert 5_000 < page.stat().st_size < 100_000


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_any_precision_is_measured_on_images_of_any(kind):
    data = labelled()
    whole = sensitivity(network(), IMAGE, data, points=1, criterion="taylor", calibration=data)
    model, image = network().to(kind), (IMAGE[0].to(kind),)
    found = sensitivity(model, image, data, points=1, criterion="taylor", calibration=data)
    for one, other in zip(whole.curves, found.curves, strict=True):
        assert other.points[0].error == pytest.approx(one.points[0].error, rel=0.05)


@pytest.mark.parametrize(
    ("answer", "most"),
    [(lambda y: y.argmax(1), 1.0), (lambda y: y[:, 0], None), (torch.mean, None)],
)
def test_whatever_a_network_answers_is_measured(answer, most):
    """Whole numbers by the share that differ: their squares say nothing."""
    net = network()
    model = Net(lambda m, x: answer(m.net(x)), {"net": net}).eval()
    found = sensitivity(model, IMAGE, labelled().images, points=3)
    errors = [point.error for curve in found.curves for point in curve.points]
    assert max(errors) > 0
    if most is not None:
        rows = net(labelled().images).argmax(1)
        assert {round(error**2 * len(rows), 6) % 1 for error in errors} == {0.0}
        assert max(errors) <= most


def test_outputs_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match="NaN or infinite outputs"):
        sensitivity(network(), IMAGE, labelled().images.sign() * 3e38)
    with pytest.raises(InputError, match="images are the same"):
        sensitivity(network(), IMAGE, torch.zeros(4, 3, 8, 8))


@pytest.mark.parametrize("labels", [torch.arange(32), torch.arange(32) % 4 - 1])
def test_labels_of_no_class_of_the_network_are_refused(labels):
    with pytest.raises(InputError, match="outside the network's 4 classes, 0 to 3"):
        sensitivity(network(), IMAGE, Samples(labelled().images, labels))


def test_labels_of_one_class_are_measured():
    data = Samples(labelled().images, torch.ones(32).long())
    assert 0 <= sensitivity(network(), IMAGE, data, points=1).accuracy <= 100


def test_what_each_cut_saves_of_the_time_is_the_models_word(monkeypatch, tmp_path):
    """Times by a formula in full blocks; the network itself takes 10 ms."""
    monkeypatch.setenv("SLIMNET_CACHE", str(tmp_path))
    monkeypatch.setattr(timing, "export_onnx", lambda *what, **how: None)
    monkeypatch.setattr(timing, "profile", lambda *what, **how: ())
    monkeypatch.setattr(TimeTable, "_timed", lambda self, form, n, m: -(-n // 8) * -(-m // 8))
    taken = SimpleNamespace(timing=lambda name: SimpleNamespace(median_ms=10.0))
    monkeypatch.setattr(timing, "measure_latency", lambda *what, **how: taken)
    model, data = network(), labelled()
    found = sensitivity(model, IMAGE, data, points=3, latency=True)
    curve = next(curve for curve in found.curves if "a" in curve.layers)
    # a: 1 block read, 2 made; b: 2, 2; d: 2, 1. Without the profile there are no other nodes.
    blocks = [-(-point.channels // 8) for point in curve.points]
    assert [point.ms for point in curve.points] == [1 * n + n * 2 + 2 * 1 for n in blocks]
    assert found.ms == 10 and found.saved(curve.points[-1]) == 10 - (1 + 2 + 2)
    prices = [found.loss(p) / found.saved(p) for p in curve.points]
    assert found.price(curve) == min(prices)
    assert "a run takes 10 ms as it is" in cheapest_sentence(found)
    plain = sensitivity(model, IMAGE, data, points=3)
    assert plain.ms is None and {p.ms for c in plain.curves for p in c.points} == {None}
    assert cheapest_sentence(plain) == ""
    page = tmp_path / "page.html"
    write_sensitivity(page, found, "title", {})
    assert "ms saved at −75%" in page.read_text() and "lost per ms" in page.read_text()
