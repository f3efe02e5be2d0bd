"""Segments: what is computed for one layer only can be run again by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.reconstruction.consumers import consumers_of
from slimnet.reconstruction.lockstep import Walk, walking
from slimnet.reconstruction.segments import aligned, segments_of, whole_of

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Gated(nn.Module):
    """An expansion whose channels are gated by what is in them, beside a stream."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.widen = nn.Conv2d(8, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.spread = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.narrow = nn.Conv2d(12, 8, 1)

    def forward(self, x):
        x = nn.functional.relu(self.stem(x), inplace=True)
        y = nn.functional.relu6(self.norm(self.widen(x)), inplace=True)
        y = nn.functional.silu(self.spread(y), inplace=True)
        gate = self.squeeze(y.mean((2, 3), keepdim=True)).relu()
        return x + self.narrow(y * self.excite(gate).sigmoid())


def found(model, images=IMAGES):
    trace = capture(Network.of(model.eval()), (images,))
    return trace, segments_of(trace, {c.call.index: c for c in consumers_of(trace)})


def names(segments, last):
    (segment,) = (s for s in segments.values() if s.layers[-1].weight == f"{last}.weight")
    return [layer.weight.removesuffix(".weight") for layer in segment.layers]


def test_a_segment_goes_back_to_what_others_read_too():
    _, segments = found(Gated())
    assert names(segments, "narrow") == ["widen", "spread", "squeeze", "excite", "narrow"]
    assert names(segments, "spread") == ["widen", "spread"]
    assert "stem.weight" not in {layer.weight for s in segments.values() for layer in s.layers}


def test_a_segment_holds_two_layers_before_the_last():
    chain = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(5)))
    _, segments = found(chain)
    assert names(segments, "4.0") == ["2.0", "3.0", "4.0"]
    assert names(segments, "1.0") == ["0.0", "1.0"]
    assert len(segments) == 4


SOME = torch.arange(8.0)


@pytest.mark.parametrize("between", [lambda y: y.cumsum(1), lambda y: y * SOME])
def test_what_no_row_covers_ends_a_segment(between):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            return self.two(between(self.one(x)))

    assert not found(Odd())[1]


@pytest.mark.parametrize("batch", [1, 3])
def test_run_by_itself_it_says_what_the_network_says(batch):
    """Also on fewer images than it was recorded on, and without writing into what it is given."""
    model = Gated()
    trace, segments = found(model)
    images = IMAGES[:batch]
    calls = aligned(trace, capture(Network.of(model), (images,)))
    for index, segment in segments.items():
        walk = Walk(model, (images,), trace, {index: segment.inputs | segment.hidden}, after=True)
        with torch.no_grad(), walking([walk], [Network.of(model)]):
            stop = walk.reach(index)
            inputs = {n: t.clone() for n, t in stop.kept.items()}
            made = segment.run(calls, inputs, Network.of(model).tensors, {})
            again = segment.run(calls, inputs, Network.of(model).tensors, {index: torch.ones(())})
            last = segment.layers[-1].call.outputs[0].id
            torch.testing.assert_close(made[last], stop.result)
            torch.testing.assert_close(again[last], stop.result + 1)
            assert segment.hidden
            for number in segment.hidden:
                torch.testing.assert_close(made[number], stop.kept[number])
            for number in segment.inputs:
                assert torch.equal(inputs[number], stop.kept[number])


def test_calls_of_a_narrower_network_stand_on_the_same_tensors():
    wide = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(6 * 64, 2)).eval()
    slim = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 2)).eval()
    trace = capture(Network.of(wide), (IMAGES,))
    calls = aligned(trace, capture(Network.of(slim), (IMAGES,)))
    assert [call.outputs for call in calls] == [call.outputs for call in trace.calls]
    sizes = [call.args[1] for call in calls if "view" in str(call.op)]
    assert sizes == [[4, 4 * 64]]


@pytest.mark.parametrize(
    "other", [nn.Sequential(nn.Conv2d(3, 6, 1)), nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sigmoid())]
)
def test_other_calls_are_not_aligned(other):
    trace = capture(Network.of(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU()).eval()), (IMAGES,))
    assert aligned(trace, capture(Network.of(other.eval()), (IMAGES,))) is None


def test_a_whole_pass_run_by_itself_says_what_the_network_says():
    model = Gated().eval()
    trace = capture(Network.of(model), (IMAGES,))
    whole = whole_of(trace)
    shown = []
    (image,), (output,) = trace.inputs, trace.outputs
    results = whole.run(
        trace.calls,
        {image.id: IMAGES},
        Network.of(model).tensors,
        {},
        lambda call, x: shown.append((call, x.clone())),
    )
    torch.testing.assert_close(results[output.id], model(IMAGES))
    first = next(x for call, x in shown if "convolution" in str(call.op))
    torch.testing.assert_close(first, model.stem(IMAGES))  # before the ReLU writes into it


def test_what_no_row_covers_leaves_no_whole():
    class Summed(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    assert whole_of(capture(Network.of(Summed()), (IMAGES,))) is None
