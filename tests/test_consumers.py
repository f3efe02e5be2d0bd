"""Convolutions and linear maps as matrices, and what becomes of their outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.reconstruction import least_squares
from slimnet.reconstruction.consumers import consumers_of
from slimnet.reconstruction.forms import grid

LAYERS = {
    "convolution": (nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 9, 8)),
    "dilated, grouped": (nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=(2, 1)), (2, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 9, 8)),
    "same padding": (nn.Conv2d(4, 6, 3, padding="same", bias=False), (1, 4, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), (2, 4, 5, 6)),
    "transposed, grouped": (
        nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 3), dilation=(2, 1), groups=2),
        (2, 4, 5, 6),
    ),
    "line": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "volume": (nn.Conv3d(4, 6, 2), (2, 4, 3, 4, 5)),
    "linear": (nn.Linear(4, 6), (2, 4)),
    "linear over tokens": (nn.Linear(4, 6, bias=False), (2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_matrix_are_the_output(name):
    layer, shape = LAYERS[name]
    x, weight = torch.randn(shape), layer.weight.detach()
    (consumer,) = consumers_of(capture(Network.of(layer.eval()), (x,)))
    form, output = consumer.form, layer(x).detach()
    spots = tuple(torch.tensor([0, n - 1]) for n in output.shape[2:])
    for places in (None, spots) if "linear" not in name else (None,):
        rows = form.rows(x, places)
        made = (rows.transpose(0, 1) @ form.matrix(weight).mT).transpose(0, 1).flatten(1)
        constant = 0 if layer.bias is None else layer.bias.detach()
        torch.testing.assert_close(made + constant, form.outputs(output, places))


def test_columns_go_through_the_kernel_and_then_through_the_channels():
    layer = nn.Conv2d(2, 1, (1, 2))
    (consumer,) = consumers_of(capture(Network.of(layer.eval()), (torch.zeros(1, 2, 1, 2),)))
    x = torch.tensor([[[[1.0, 2.0]], [[10.0, 20.0]]]])
    assert consumer.form.rows(x, None).tolist() == [[[1.0, 10.0, 2.0, 20.0]]]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rows", [1, 3])
def test_pieces_are_the_rows_and_the_outputs_cut_alike(name, rows, monkeypatch):
    monkeypatch.setattr(least_squares, "PIECE", 1)
    monkeypatch.setattr(least_squares, "LEAST_PIECE", rows)
    layer, shape = LAYERS[name]
    x = torch.randn(5, *shape[1:])
    (consumer,) = consumers_of(capture(Network.of(layer.eval()), (x,)))
    form, output = consumer.form, layer(x).detach()
    spots = tuple(torch.tensor([0, n - 1]) for n in output.shape[2:])
    for places in (None, spots) if "linear" not in name else (None,):
        pieces = list(form.pieces(x, places, output, 2 * output))
        assert len(pieces) > 1
        assert all(len(part) == len(piece[0]) for piece in pieces for part in piece)
        read, said, twice = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        assert torch.equal(read, form.rows(x, places))
        assert torch.equal(said, form.outputs(output, places))
        assert torch.equal(twice, 2 * said)


@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_goes_back_into_its_weight(name):
    layer, shape = LAYERS[name]
    weight = layer.weight.detach()
    (consumer,) = consumers_of(capture(Network.of(layer.eval()), (torch.randn(shape),)))
    form = consumer.form
    assert torch.equal(form.weight(form.matrix(weight), weight.shape), weight)
    outputs = form.matrix(form.output_channels(weight.shape))
    assert outputs[:, :, 0].flatten().tolist() == list(range(6 if "depth" not in name else 8))
    assert (outputs == outputs[:, :, :1]).all()


class Block(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.norm, self.after = nn.BatchNorm2d(4), after

    def forward(self, x):
        x = self.a(x).relu()
        return self.after(self.norm(self.b(x)), x)


def of_b(after):
    trace = capture(Network.of(Block(after).eval()), (torch.randn(1, 4, 5, 5),))
    return next(c for c in consumers_of(trace) if c.weight == "b.weight"), trace


@pytest.mark.parametrize("after", [lambda y, x: (y + x).relu(), lambda y, x: y.add_(x)])
def test_the_stream_that_an_output_is_added_to_is_known(after):
    consumer, trace = of_b(after)
    relu = next(call for call in trace.calls if "relu" in str(call.op))
    assert consumer.other is relu.outputs[0]
    assert consumer.norm.mean == "norm.running_mean"


def scaled_sum(y, x):
    return torch.add(y, x, alpha=2)


def read_twice(y, x):
    return (y + x) * y


def of_another_shape(y, x):
    return y + x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("after", [scaled_sum, read_twice, of_another_shape, lambda y, x: y.relu()])
def test_no_stream_where_the_sum_is_another(after):
    consumer, _ = of_b(after)
    assert consumer.other is None
    assert consumer.norm is not None


def test_a_parameter_that_is_used_twice_is_left_out():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    trace = capture(Network.of(Twice().eval()), (torch.randn(2, 4),))
    assert [c.weight for c in consumers_of(trace)] == ["b.weight"]


@pytest.mark.parametrize(
    "turned",
    [lambda w: w.T, lambda w: w.t(), lambda w: w.mT, lambda w: w.permute(1, 0), lambda w: w],
)
def test_a_weight_may_be_turned_in_any_way(turned):
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))

        def forward(self, x):
            return x @ turned(self.w)

    model, x = Raw(), torch.randn(3, 4)
    (consumer,) = consumers_of(capture(Network.of(model), (x,)))
    matrix = consumer.form.matrix(model.w.detach())
    torch.testing.assert_close(x @ matrix[0].mT, model(x).detach())


class Later(nn.Module):
    """A product by a raw weight, and what follows it."""

    def __init__(self, after, *shape):
        super().__init__()
        self.w, self.c = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(*shape))
        self.after = after

    def forward(self, x):
        return self.after(x @ self.w, self.c)


def test_a_bias_may_be_added_later():
    model = Later(lambda y, c: y.view(1, 3, 4) + c + 1, 4)
    (layer,) = consumers_of(capture(Network.of(model), (torch.randn(3, 4),)))
    assert layer.bias is None
    assert layer.constants == "c" and layer.shifts


@pytest.mark.parametrize(
    ("after", "shape"),
    [
        (lambda y, c: y + c, (3, 4)),  # another constant for each row
        (lambda y, c: y + c, (1,)),
        (lambda y, c: torch.add(y, c, alpha=2), (4,)),
        (lambda y, c: y.relu() + c, (4,)),
        (lambda y, c: (y + c) * c, (4,)),
    ],
)
def test_what_else_is_added_is_no_bias(after, shape):
    layers = consumers_of(capture(Network.of(Later(after, *shape)), (torch.randn(3, 4),)))
    assert [layer.constants for layer in layers] in ([None], [])


def test_a_random_grid_is_about_as_large_as_wanted():
    generator = torch.Generator().manual_seed(0)
    rows, columns = grid((30, 20), 150, generator)
    assert (len(rows), len(columns)) == (15, 10)
    assert len(set(rows.tolist())) == 15
    assert rows.max() < 30
    assert grid((3, 3), 9, generator) is None
