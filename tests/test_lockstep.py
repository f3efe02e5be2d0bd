"""Passes that wait for each other at the same calls."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from slimnet.capture.trace import capture
from slimnet.errors import CaptureError
from slimnet.network import Network
from slimnet.reconstruction import lockstep
from slimnet.reconstruction.consumers import consumers_of
from slimnet.reconstruction.lockstep import Walk, together, walking


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def stops_of(trace):
    return {c.call.index: frozenset() for c in consumers_of(trace)}


def walks_of(model, batches, *, after):
    trace = capture(Network.of(model), (batches[0],))
    return trace, [Walk(model, (x,), trace, stops_of(trace), after=after) for x in batches]


def test_every_pass_stops_at_every_layer_with_what_it_reads_and_says():
    model, batches = network(), [torch.randn(3, 4), torch.randn(2, 4)]
    trace, walks = walks_of(model, batches, after=True)
    with walking(walks, [Network.of(model)]):
        met = []
        for (stops,) in together(trace, stops_of(trace), walks):
            met.append([(stop.args[1].shape, stop.result.shape) for stop in stops])
    said = [[tuple(result) for _, result in row] for row in met]
    assert said == [[(3, 8), (2, 8)], [(3, 8), (2, 8)], [(3, 2), (2, 2)]]
    for walk, x in zip(walks, batches, strict=True):
        torch.testing.assert_close(walk.output, model(x))


def test_a_weight_that_is_changed_at_a_stop_is_the_one_that_is_used():
    model, x = network(), torch.randn(3, 4)
    trace, (walk,) = walks_of(model, [x], after=False)
    with torch.no_grad(), walking([walk], [Network.of(model)]):
        for (stops,) in together(trace, stops_of(trace), [walk]):
            if stops[0].call.index == min(stops_of(trace)):
                model[0].weight.zero_()
                model[0].bias.fill_(1.0)
    torch.testing.assert_close(walk.output, model(x))


def test_modules_are_as_they_were_and_no_thread_is_left_when_a_pass_fails():
    class Failing(nn.Module):
        def forward(self, x):
            if x.sum() > 1e6:
                raise ValueError("too large")
            return x

    model = nn.Sequential(nn.Linear(4, 4), Failing()).train()
    before = threading.active_count()
    trace = capture(Network.of(model), (torch.zeros(1, 4),))
    walks = [
        Walk(model, (torch.full((2, 4), x),), trace, stops_of(trace), after=True)
        for x in (0.0, 1e9)
    ]
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    with pytest.raises(ValueError, match="too large"), walking(walks, [Network.of(model)]):
        list(together(trace, stops_of(trace), walks))
    assert model.training
    assert threading.active_count() == before


def test_passes_that_take_different_ways_are_refused():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else self.b(self.a(x))

    model = Forked().eval()
    trace = capture(Network.of(model), (-torch.ones(1, 4),))
    walks = [
        Walk(model, (x,), trace, stops_of(trace), after=True)
        for x in (torch.ones(1, 4), -torch.ones(1, 4))
    ]
    with pytest.raises(CaptureError, match="same calls"), walking(walks, [Network.of(model)]):
        list(together(trace, stops_of(trace), walks))


def test_tensors_are_kept_until_the_last_stop_that_wants_them():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x).relu()
            return self.b(y) + y

    model, x = Residual().eval(), torch.randn(3, 4)
    trace = capture(Network.of(model), (x,))
    stops = {c.call.index: frozenset([c.other.id] if c.other else []) for c in consumers_of(trace)}
    walk = Walk(model, (x,), trace, stops, after=False)
    with torch.no_grad(), walking([walk], [Network.of(model)]):
        first, second = (walk.reach(index) for index in sorted(stops))
        assert not first.kept
        (kept,) = second.kept.values()
        torch.testing.assert_close(kept, model.a(x).relu())


def test_passes_without_room_follow_through_the_network_as_it_is_by_then(monkeypatch):
    """The middle makes most: one pass goes ahead until nothing reads it any more."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 2))
    batches = [torch.randn(2, 4) for _ in range(3)]
    trace, walks = walks_of(model, batches, after=True)
    monkeypatch.setattr(lockstep, "ROOM", 2 * 8)
    counts = []
    with torch.no_grad(), walking(walks, [Network.of(model)]):
        for (stops,) in together(trace, stops_of(trace), walks):
            counts.append(len(stops))
            if len(counts) == 1:
                model[0].weight.zero_()  # which the first has passed
    assert counts == [1, 1, 1, 3]
    for walk, x in zip(walks[1:], batches[1:], strict=True):
        torch.testing.assert_close(walk.output, model(x))
    assert not torch.allclose(walks[0].output, model(batches[0]))
