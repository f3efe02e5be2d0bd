"""One layer after the other: what is solved for, what is held back, what is left as it is."""

from __future__ import annotations

import micro_attention  # noqa: F401  (fills the table)
import pytest
import torch
from micro import MICRO
from torch import nn

import slimnet
from slimnet.capture.modules import copied
from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.plan.plan import Plan, Scale
from slimnet.reconstruction.consumers import consumers_of
from slimnet.reconstruction.least_squares import Fit
from slimnet.reconstruction.refine import WORTH
from slimnet.repairs import reestimated, repair
from slimnet.repairs.layers import SMALL, LayerwiseRepair
from slimnet.repairs.wanted import can_be_wanted, wanted_of
from slimnet.samples import Samples

IMAGES = torch.randn(40, 3, 10, 10, generator=torch.Generator().manual_seed(0))
HELD, FITTED = IMAGES[:8], IMAGES[8:]


def network():
    """A convolution without a bias between two norms that scale, and a head."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(16, 4, 1)).eval()
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.2, 3.0)
    return reestimated(Network.of(model), IMAGES, 40).model.eval()


def repaired(model, *, refine=True, ratio=0.5, batches=(HELD, FITTED), **options):
    """The repairs by layer, the network, its plan, and the network as it was cut."""
    example = (batches[0][:1],)
    cut = slimnet.prune(model, example, ratio=ratio, align=None, **options)
    slim = copied(Network.of(cut.model))
    held, *fitted = map(Samples, batches)
    made = LayerwiseRepair(
        Network.of(model), Network.of(slim), cut.plan, fitted, [held], refine=refine
    )
    layers = made.run(torch.Generator().manual_seed(0), lambda *_: None)
    return {layer.layer: layer for layer in layers}, slim, cut.plan, cut.model


@pytest.fixture
def requests(monkeypatch):
    """What a refinement is asked for; it changes nothing."""
    found = {}

    def refined(segment, parts, checks, tensors, whitenings, scale):
        found[segment.layers[-1].weight] = parts, checks, whitenings
        return ()

    monkeypatch.setattr("slimnet.repairs.layers.refined", refined)
    return found


def test_a_refinement_wants_what_the_original_says_as_the_norm_scales_it(requests):
    """And no more than is lacking: the norm's mean has taken up the constant already."""
    model = network()
    _, slim, plan, cut = repaired(model)
    gone = set(plan.removed["3.weight"][0])
    kept = [channel for channel in range(16) if channel not in gone]
    norm = slim[4]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    taken = cut[4].running_mean - norm.running_mean
    assert taken.abs().max() > 1e-3
    parts, checks, whitenings = requests["3.weight"]
    for images, (part,) in ((FITTED, parts), (HELD, checks)):
        target = model[:4](images)[:, kept].movedim(1, -1).flatten(0, 2)
        torch.testing.assert_close(part.targets, (target - taken) * scale, rtol=1e-4, atol=1e-4)
        assert torch.equal(next(iter(part.values.values())), images)
    units = whitenings["3.weight"].units[0]  # a step is as large as the norm makes it
    torch.testing.assert_close(units, 1 / scale)


def test_few_rows_are_confirmed_by_the_images_held_back(monkeypatch):
    """Where a layer has fewer rows than unknowns, least squares learns them by heart."""
    counts, confirmed = [], Fit.confirmed

    def counted(self, change, constants, rows):
        rows = list(rows)
        counts.append(sum(len(targets) for _, targets in rows))
        return confirmed(self, change, constants, rows)

    monkeypatch.setattr(Fit, "confirmed", counted)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 64), nn.ReLU(), nn.Linear(64, 9)).eval()
    layers, *_ = repaired(model, batches=IMAGES.flatten(1).split((8, 32)))
    assert counts == [8]  # of the second layer: the first one lacks nothing
    assert layers["0.weight"].before < SMALL < layers["2.weight"].before


def test_what_is_nearer_than_worth_it_is_not_refined(requests):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[8:] = tensor[:8]
    layers, *_ = repaired(model, keep=["2"], criterion="obs", data=IMAGES)
    assert layers["2.weight"].before > 0.05 and layers["2.weight"].after < WORTH
    assert not requests


def test_a_small_error_is_mended_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    with torch.no_grad():
        model[0].weight[5] = 1.05 * model[0].weight[9]
        model[0].bias[5] = model[0].bias[9]
        model[2].weight[:, 5] *= 0.5
        model[2].weight[:, 9] *= 20
        others = [n for n in range(16) if n != 5]
        model[0].weight[others] *= 3
    layers, _, plan, _ = repaired(model, ratio=1 / 16, keep=["2"])
    assert plan.removed["0.weight"] == {0: (5,)}
    assert 1e-8 < layers["2.weight"].before < 1e-3
    assert layers["2.weight"].after < 0.1 * layers["2.weight"].before


class Divided(nn.Module):
    """A number that leaves the tensors: run again with other weights, the calls know the old."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.c = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        y = self.b(self.a(x).relu())
        return self.c((y / float(y.abs().mean())).relu())


def test_a_segment_that_says_something_else_by_itself_is_not_refined(requests):
    torch.manual_seed(0)
    layers, *_ = repaired(Divided().eval())
    assert layers["c.weight"].after > WORTH
    assert "b.weight" in requests and "c.weight" not in requests


def test_the_error_is_measured_on_the_images_held_back_alone():
    model = network()
    cut = slimnet.prune(model, (IMAGES[:1],), ratio=0.5, align=None)
    after, done = repair(Network.of(model), Network.of(cut.model), cut.plan, IMAGES)
    held = IMAGES[: done.held_out]
    assert done.held_out == 2 and done.images == 38
    with torch.no_grad():
        target, before, now = (net(held).flatten(1) for net in (model, cut.model, after))
    spread = (target - target.mean(0)).square().mean()
    for error, answers in ((done.before, before), (done.after, now)):
        assert error == pytest.approx(float((answers - target).square().mean() / spread), rel=1e-4)


def test_rows_that_the_cut_multiplied_answer_as_many_times_as_much():
    """A query of half the width is smaller by the root of a half: not what the original's is."""
    micro = MICRO["sdpa"]
    torch.manual_seed(0)
    model, (example, *_) = micro.make().eval(), micro.example()
    cut = slimnet.prune(model, (example,), ratio=0.5, align=None)
    name = Network.of(model)
    layer = next(c for c in consumers_of(capture(name, (example,))) if c.weight == "q.weight")
    assert set(cut.plan.scaled) == {"q.weight", "q.bias"}
    wanted = wanted_of(layer, layer.form, cut.plan, model.q.weight.shape)
    with torch.no_grad():
        torch.testing.assert_close(wanted.of(model.q(example)[0]), cut.model.q(example)[0])


@pytest.mark.parametrize(
    ("scales", "known"),
    [
        ({}, True),
        ({"q.weight": 0, "q.bias": 0}, True),
        ({"q.weight": 0}, False),  # a bias that stays is no part of a multiplied answer
        ({"q.bias": 0}, False),
        ({"q.weight": 1, "q.bias": 0}, False),
    ],
)
def test_a_layer_is_left_alone_where_part_of_it_was_multiplied(scales, known):
    model, (example, *_) = MICRO["sdpa"].make().eval(), MICRO["sdpa"].example()
    layers = consumers_of(capture(Network.of(model), (example,)))
    layer = next(c for c in layers if c.weight == "q.weight")
    plan = Plan({}, scaled={name: (Scale(axis, (0,), 0.5),) for name, axis in scales.items()})
    assert can_be_wanted(layer, plan, model.q.weight.shape) is known
