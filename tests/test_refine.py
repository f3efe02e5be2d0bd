"""Refinement: layers change together, and only to the good of images that are not solved for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.reconstruction import refine
from slimnet.reconstruction.consumers import consumers_of
from slimnet.reconstruction.refine import Part, Whitening, refined
from slimnet.reconstruction.segments import segments_of


def network(hidden):
    torch.manual_seed(hidden)
    return (
        nn.Sequential(nn.Conv2d(3, hidden, 3), nn.ReLU(), nn.Conv2d(hidden, 4, 1)).double().eval()
    )


def deep(hidden):
    torch.manual_seed(hidden)
    layers = [nn.Conv2d(3, hidden, 3), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(hidden, 4, 1)).double().eval()


def images(count, seed):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def problem(slim, model, count=64):
    """The segment of a small network that should say what another says, and its parts."""

    def part(seed, number):
        x = images(number, seed)
        trace = capture(Network.of(slim), (x,))
        found = segments_of(trace, {c.call.index: c for c in consumers_of(trace)})
        segment = found[max(found)]
        with torch.no_grad():
            targets = segment.layers[-1].form.outputs(model(x), None)
        return segment, Part(trace.calls, {trace.inputs[0].id: x}, targets)

    segment, fitted = part(0, count)
    _, other = part(1, 16)
    # the second recording has tensors of its own: the first's calls run on its values
    check = Part(
        fitted.calls, {next(iter(fitted.values)): next(iter(other.values.values()))}, other.targets
    )
    return segment, fitted, check


def whitenings(slim, x):
    """As least squares leaves them: of what each layer reads."""
    found = {}
    with torch.no_grad():
        for place, consumer in enumerate(consumers_of(capture(Network.of(slim), (x,)))):
            rest = slim[: 2 * place](x)
            rows = consumer.form.rows(rest, None).transpose(0, 1)
            mean = rows.mean(1)
            centred = rows - mean[:, None]
            lower = torch.linalg.cholesky(centred.mT @ centred / rows.shape[1])
            units = torch.ones(1, len(slim.get_parameter(consumer.weight))).double()
            found[consumer.weight] = Whitening(lower, mean, units)
    return found


def written(slim, changes):
    for change in changes:
        slim.get_parameter(change.layer.weight).data += change.weight
        slim.get_parameter(change.layer.bias).data += change.constants
    return slim


def test_layers_before_the_last_change_with_it_and_new_images_are_answered_better():
    model, slim = network(8), network(5)
    segment, fitted, check = problem(slim, model)
    changes = refined(
        segment, [fitted], [check], Network.of(slim).tensors, whitenings(slim, images(64, 0)), None
    )
    assert [change.layer.weight for change in changes] == ["0.weight", "2.weight"]
    fresh = images(32, 7)
    with torch.no_grad():
        before = (slim(fresh) - model(fresh)).square().mean()
        after = (written(slim, changes)(fresh) - model(fresh)).square().mean()
    assert after < 0.2 * before


def test_the_slope_is_that_of_the_loss():
    model, slim = network(8), network(5)
    segment, fitted, check = problem(slim, model, 4)
    scale = torch.tensor([1.0, 2.0, 0.5, 3.0]).double()
    known = refine._Problem(
        segment, segment.layers, Network.of(slim).tensors, whitenings(slim, images(4, 0)), scale
    )
    rng = np.random.default_rng(0)
    x, way = rng.normal(size=len(known.start)), rng.normal(size=len(known.start))
    parts = [fitted, check]
    value, slope = known.slope(x, parts)
    assert value == pytest.approx(known.loss(x, parts))
    ahead, behind = (known.loss(x + step * way, parts) for step in (1e-5, -1e-5))
    assert slope @ way == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


def test_a_whitened_change_moves_the_outputs_by_its_own_size():
    rows = images(64, 0)[:, :, 0] @ torch.randn(8, 5).double() + 3
    x = rows.reshape(1, -1, 5)
    mean = x.mean(1)
    lower = torch.linalg.cholesky((x - mean).mT @ (x - mean) / x.shape[1])
    v, shift = torch.randn(1, 2, 5).double(), torch.randn(2).double()
    units = torch.tensor([[1.0, 4.0]]).double()
    weights, constants = Whitening(lower, mean, units).lifted(v, shift)
    outputs = x[0] @ weights[0].T + constants
    torch.testing.assert_close(outputs.mean(0), units[0] * shift)
    torch.testing.assert_close(
        outputs.var(0, correction=0), (units[0, :, None] * v[0]).square().sum(1)
    )


def test_nothing_changes_that_other_images_do_not_confirm():
    model, slim = network(8), network(5)
    segment, fitted, check = problem(slim, model)
    with torch.no_grad():
        outputs = segment.layers[-1].form.outputs(slim(next(iter(check.values.values()))), None)
    perfect = Part(check.calls, check.values, outputs)
    rest = (Network.of(slim).tensors, whitenings(slim, images(64, 0)), None)
    assert refined(segment, [fitted], [check], *rest)
    assert not refined(segment, [fitted], [perfect], *rest)


def test_layers_farthest_off_stay_where_too_little_is_answered(monkeypatch):
    model, slim = network(8), deep(5)
    segment, fitted, check = problem(slim, model)
    known = whitenings(slim, images(64, 0))
    rest = (Network.of(slim).tensors, known, None)
    sizes = [slim[place].weight.numel() for place in (0, 2, 4)]
    for enough, changed in ((sum(sizes), 3), (sum(sizes[1:]), 2), (sizes[-1], 0)):
        monkeypatch.setattr(refine, "ENOUGH", fitted.targets.numel() / enough)
        assert len(refined(segment, [fitted], [check], *rest)) == changed


def test_a_layer_without_statistics_stays():
    model, slim = network(8), network(5)
    segment, fitted, check = problem(slim, model)
    known = whitenings(slim, images(64, 0))
    del known["2.weight"]
    changes = refined(segment, [fitted], [check], Network.of(slim).tensors, known, None)
    assert [change.layer.weight for change in changes] == ["0.weight"]


def watched(monkeypatch):
    """What the images held back say of each step, in order."""
    found, loss = [], refine._Problem.loss

    def told(self, x, parts):
        found.append(loss(self, x, parts))
        return found[-1]

    monkeypatch.setattr(refine._Problem, "loss", told)
    return found


def test_it_stops_where_images_held_back_find_steps_worse(monkeypatch):
    """Two in a row, and no further: every step costs a pass over all images."""
    model, slim = network(8), network(5)
    segment, fitted, check = problem(slim, model)
    with torch.no_grad():
        outputs = segment.layers[-1].form.outputs(slim(next(iter(check.values.values()))), None)
    perfect = Part(check.calls, check.values, outputs)
    told = watched(monkeypatch)
    rest = (Network.of(slim).tensors, whitenings(slim, images(64, 0)), None)
    assert not refined(segment, [fitted], [perfect], *rest)
    assert len(told) == 3  # as it is, and two steps


def test_of_all_steps_the_one_is_taken_that_images_held_back_find_best(monkeypatch):
    model, slim = network(8), network(5)
    monkeypatch.setattr(refine, "ENOUGH", 1e-3)
    monkeypatch.setattr(refine, "STEPS", 60)
    segment, fitted, check = problem(slim, model, 1)  # one image: it is soon learnt by heart
    known = whitenings(slim, images(64, 0))
    told = watched(monkeypatch)
    changes = refined(segment, [fitted], [check], Network.of(slim).tensors, known, None)
    steps = list(told)
    assert min(steps) < steps[-1]  # it went past the best one
    fit = refine._Problem(
        segment, segment.layers, Network.of(written(slim, changes)).tensors, known, None
    )
    assert fit.loss(fit.start, [check]) == pytest.approx(min(steps))
