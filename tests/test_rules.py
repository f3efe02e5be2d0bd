"""Rules move labels as their operators move elements, and pin what they cannot follow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import Net
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimnet.capture.trace import capture
from slimnet.coupling.couple import Coupling, couple
from slimnet.coupling.labels import matching_runs
from slimnet.errors import PruneError
from slimnet.network import Network

CHANNELS = 12

# name → (what moves the map [2, 12, 4, 4], how many sets of channels can still leave)
MOVES: dict[str, tuple[Callable[[nn.Module, Tensor], object], int]] = {
    "flip": (lambda m, x: x.flip(1), 12),
    "flip two axes": (lambda m, x: x.flip(1, 3), 12),
    "roll": (lambda m, x: x.roll(3, 1), 9),
    "roll back": (lambda m, x: x.roll(-2, 1), 10),
    "roll rows": (lambda m, x: x.roll(1, 2), 12),
    "permute": (lambda m, x: x.permute(0, 3, 1, 2), 12),
    "transpose": (lambda m, x: x.transpose(1, -1), 12),
    "mT": (lambda m, x: x.transpose(1, 2).mT, 12),
    "cat with itself": (lambda m, x: torch.cat([x, x.flip(1)], 1), 12),
    "cat with zeros": (lambda m, x: torch.cat([x, torch.zeros(2, 2, 4, 4)], 1), 12),
    "cat on another axis": (lambda m, x: torch.cat([x, x], 2), 12),
    "cat on another axis, flipped": (lambda m, x: torch.cat([x, x.flip(1)], 2), 6),
    "stack": (lambda m, x: torch.stack([x, x.flip(1)], 1), 6),
    "slice": (lambda m, x: x[:, 4:8], 4),
    "slice from the back": (lambda m, x: x[:, -4:], 8),
    "slice by a share of the shape": (lambda m, x: x[:, : x.shape[1] // 2], 6),
    "slice with a step": (lambda m, x: x[:, ::3], 4),
    "two slices": (lambda m, x: [x[:, :4], x[:, 4:]], 8),
    "narrow": (lambda m, x: x.narrow(1, 2, 6), 4),
    "select": (lambda m, x: x[:, 3], 8),
    "select from the back": (lambda m, x: x[:, -2], 10),
    "unbind": (lambda m, x: x.unbind(1), 0),
    "split": (lambda m, x: x.split(6, 1), 6),
    "split by sizes": (lambda m, x: x.split([5, 7], 1), 0),
    "split by the shape": (lambda m, x: x.split(x.shape[1] // 2, 1), 6),
    "chunk": (lambda m, x: x.chunk(3, 1), 4),
    "uneven chunk": (lambda m, x: x.chunk(5, 1), 0),
    "tensor_split": (lambda m, x: x.tensor_split(2, 1), 6),
    "repeat": (lambda m, x: x.repeat(1, 3, 1, 1), 12),
    "repeat_interleave": (lambda m, x: x.repeat_interleave(2, 1), 12),
    "expand": (lambda m, x: x[:, None].expand(-1, 3, -1, -1, -1), 12),
    "squeeze": (lambda m, x: x[:, :, :1, :1].squeeze(3).squeeze(2), 12),
    "pixel_shuffle": (lambda m, x: F.pixel_shuffle(x, 2), 3),
    "pixel_unshuffle": (lambda m, x: F.pixel_unshuffle(x, 2), 12),
    "channel_shuffle": (lambda m, x: F.channel_shuffle(x, 3), 4),
    "shuffle by views": (
        lambda m, x: x.view(2, 3, x.shape[1] // 3, 4, 4).transpose(1, 2).reshape(2, -1, 4, 4),
        4,
    ),
    "literal index": (lambda m, x: x[:, torch.tensor([3, 1, 1])], 0),
    "index in a buffer": (lambda m, x: x[:, m.order], 12),
    "index_select by a buffer": (lambda m, x: x.index_select(1, m.order), 12),
    "pad": (lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 3)), 12),
    "crop by a pad": (lambda m, x: F.pad(x, (0, 0, 0, 0, -2, -3)), 7),
    "pad of a crop": (lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)), 12),
    "flatten": (lambda m, x: x.flatten(1), 12),
    "flatten, channels last": (lambda m, x: x.permute(0, 2, 3, 1).flatten(1), 12),
    "flatten with the batch": (lambda m, x: x.flatten(0, 1), 12),
    "view there and back": (lambda m, x: x.view(2, -1, 16).view(2, -1, 4, 4), 12),
    "im2col": (lambda m, x: F.unfold(x, 3, padding=1), 12),
    "movedim": (lambda m, x: x.movedim(1, -1), 12),
}


class Spread(nn.Module):
    """One parameter, its number of channels, as a map; then the move."""

    def __init__(self, move: Callable[[nn.Module, Tensor], object], width: int = CHANNELS):
        super().__init__()
        self.move = move
        self.p = nn.Parameter(torch.arange(1.0, width + 1).view(1, width, 1, 1))
        self.register_buffer("order", torch.randperm(width, generator=torch.manual_seed(0)))

    def forward(self):
        return self.move(self, self.p.expand(2, -1, 4, 4).contiguous())


def coupled(model: nn.Module, *example: Tensor) -> tuple[Coupling, list]:
    """Labels of a recorded call, and the records of its results (which are not pinned)."""
    trace = capture(Network.of(model), example)
    outputs, trace.outputs = trace.outputs, []
    return couple([trace]), outputs


@pytest.mark.parametrize("name", MOVES)
def test_labels_move_as_an_arange_moves(name):
    move, expected_free = MOVES[name]
    model = Spread(move)
    coupling, refs = coupled(model)
    own = coupling.atoms.of[coupling.weights["p"].axes[1]]
    assert len(np.unique(own[coupling.atoms.free[own]])) == expected_free
    with torch.no_grad():
        moved = [leaf for leaf in tree_leaves(model()) if isinstance(leaf, Tensor)]
    for ref, values in zip(refs, moved, strict=True):
        axes = coupling.tensors[0][ref.id].axes
        assert_moved(values.numpy().astype(int) - 1, axes, own, coupling)


def assert_moved(channels, axes, own, coupling):
    """Every free slot holds its own atom's channels only; every free channel lies in its slot."""
    free, of = coupling.atoms.free, coupling.atoms.of
    real = channels >= 0  # what the operator fills in is 0 - 1
    atom = np.where(real, own[channels], -1)
    found = np.zeros(channels.shape, bool)
    for d, axis in enumerate(axes):
        if axis is None:
            continue
        shape = [1] * channels.ndim
        shape[d] = -1
        slots = np.broadcast_to(of[axis].reshape(shape), channels.shape)
        others = tuple(k for k in range(channels.ndim) if k != d)
        assert not (free[slots] & real & (slots != atom)).any()
        assert (real.any(others) | ~free[of[axis]]).all(), "a slot of filling is free"
        found |= slots == atom
    assert (found | ~real | ~free[atom]).all(), "a free channel lies in no slot of its own"


def test_the_law_of_moves_notices_a_wrong_label():
    coupling, _ = coupled(Spread(lambda m, x: x.flip(1)))
    axis = coupling.weights["p"].axes[1]
    values = np.broadcast_to(np.arange(CHANNELS)[None, ::-1, None, None], (2, CHANNELS, 4, 4))
    own = coupling.atoms.of[axis]
    assert_moved(values, (None, axis[::-1], None, None), own, coupling)
    for wrong in (axis, None, np.roll(axis[::-1], 1)):
        with pytest.raises(AssertionError):
            assert_moved(values, (None, wrong, None, None), own, coupling)


@pytest.mark.parametrize("dim", [1, -3])
def test_glu_ties_each_value_to_its_gate(dim):
    coupling, (out,) = coupled(Spread(lambda m, x: F.glu(x, dim)))
    own = coupling.atoms.of[coupling.weights["p"].axes[1]]
    np.testing.assert_array_equal(own[:6], own[6:])
    assert len(np.unique(own)) == 6 and coupling.atoms.free[own].all()
    axis = coupling.tensors[0][out.id].axes[1]
    np.testing.assert_array_equal(coupling.atoms.of[axis], own[:6])


def test_addition_ties_both_sides_slot_by_slot():
    coupling, _ = coupled(Spread(lambda m, x: x + x.roll(6, 1).flip(1)))
    own = coupling.atoms.of[coupling.weights["p"].axes[1]]
    moved = np.roll(np.arange(CHANNELS), 6)[::-1]
    np.testing.assert_array_equal(own, own[moved])


def test_a_slot_that_is_spread_over_an_axis_stays():
    coupling, _ = coupled(Spread(lambda m, x: x + x[:, :1]))
    own = coupling.atoms.of[coupling.weights["p"].axes[1]]
    assert not coupling.atoms.free[own[0]]


@pytest.mark.parametrize(
    ("groups", "free"), [(1, 8 + 12), (2, 4 + 6), (4, 2 + 3)], ids=["plain", "two", "four"]
)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_same_positions_leave_every_group_of_a_convolution(kind, groups, free):
    model = Net(
        lambda m, x: m.c(m.a(x)),
        {"a": partial(nn.Conv2d, 3, 8, 1), "c": partial(kind, 8, 12, 1, groups=groups)},
    )
    coupling, _ = coupled(model, torch.randn(1, 3, 4, 4))
    weights = coupling.weights
    inner = coupling.atoms.of[weights["a.weight"].axes[0]]
    outer = coupling.atoms.of[weights["c.bias"].axes[0]]
    assert len(np.unique(inner)) + len(np.unique(outer)) == free
    for atoms in (inner, outer):
        rows = atoms.reshape(groups, -1)
        assert (rows == rows[0]).all()


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_whole_groups_leave_a_depthwise_convolution(multiplier):
    parts = {
        "a": partial(nn.Conv2d, 3, 8, 1),
        "c": partial(nn.Conv2d, 8, 8 * multiplier, 3, groups=8),
    }
    coupling, _ = coupled(Net(lambda m, x: m.c(m.a(x)), parts), torch.randn(1, 3, 4, 4))
    inner = coupling.atoms.of[coupling.weights["a.weight"].axes[0]]
    outer = coupling.atoms.of[coupling.weights["c.weight"].axes[0]]
    assert coupling.atoms.free[inner].all()
    np.testing.assert_array_equal(np.repeat(inner, multiplier), outer)


def statistics_of(body: Callable[[nn.Module, Tensor], Tensor]) -> list[str]:
    coupling, _ = coupled(Spread(body))
    return [str(statistic.reason) for statistic in coupling.statistics]


@pytest.mark.parametrize(
    ("operator", "body"),
    {
        "aten.native_layer_norm": lambda m, x: F.layer_norm(x, x.shape[1:]),
        "aten.native_group_norm": lambda m, x: F.group_norm(x, 2),
        "aten._softmax": lambda m, x: x.softmax(1),
        "aten.mean": lambda m, x: x.mean(1),
        "aten.amax": lambda m, x: x.amax(1),
        "aten.sum": lambda m, x: (x + 1).sum(1),
        "aten.convolution": lambda m, x: F.conv2d(x + 1, torch.ones(2, CHANNELS, 1, 1)),
    }.items(),
)
def test_what_mixes_all_channels_is_a_statistic_with_its_line(operator, body):
    (reason,) = statistics_of(body)[:1]
    assert reason.startswith(operator)
    assert "test_rules.py:" in reason


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x.sum(1),  # removed channels are zero
        lambda m, x: x.relu().sum(1),
        lambda m, x: x.norm(dim=1),
        lambda m, x: x.mean((2, 3)),
        lambda m, x: x.softmax(2),
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: F.instance_norm(x),
    ],
)
def test_what_treats_channels_one_by_one_or_adds_zeros_is_exact(body):
    assert not statistics_of(body)


VECTOR, ROWS = (CHANNELS,), (5, CHANNELS)

EVERY = (torch.tensor([0, 1]),)

# What has zeros in the removed slots of one axis may have none in those of another.
KEEPS_NO_ZEROS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "one number is added": lambda m, x: (x + m.s[:1]).sum(1),
    "one slot is spread": lambda m, x: m.v.sum(0, keepdim=True).expand(x.shape[1]).sum(),
    "an outer sum": lambda m, x: (m.v[:, None] + m.w[None, :]).sum(1),
    "noise is added": lambda m, x: (x + torch.rand_like(x)).sum(1),
    "running logarithms": lambda m, x: x.logcumsumexp(2).sum(1),
    "places in an order": lambda m, x: x.argsort(2).sum(1),
    "a logarithm of sums": lambda m, x: x.logsumexp((2, 3)).sum(1),
    "a shift for every channel": lambda m, x: F.layer_norm(x, (4,), None, m.t).sum(1),
    "a number for each row": lambda m, x: torch.addmm(m.w[:1], m.r.mT, m.u2).sum(0),
    "a bias for every row": lambda m, x: torch.addmm(m.r4, m.p.view(12, 1), m.u1).sum(0),
    "a row is looked up for each": lambda m, x: m.u2[m.p.view(12).long() * 0].sum(0),
    "a number is looked up for each": lambda m, x: m.u2[[m.p.view(12).long() * 0] * 2].sum(),
    "numbers are gathered for each": lambda m, x: m.w.gather(0, m.p.view(12).long() * 0).sum(),
    "a number is written for all": lambda m, x: x.index_fill(2, torch.tensor([1]), 2.0).sum(1),
    "a number is put for all": lambda m, x: x.index_put(EVERY, torch.ones(1)).sum(1),
    "a number is scattered for all": lambda m, x: x.scatter(2, (x * 0).long(), 2.0).sum(1),
    "a bias for every sample": lambda m, x: F.conv1d(m.p.view(12, 1, 1), m.k, m.r4).sum(0),
}
KEEPS_ZEROS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "an outer product": lambda m, x: (m.v[:, None] * m.w[None, :]).sum(1),
    "rows of a matrix by a buffer": lambda m, x: torch.mv(m.r.mT, m.b5).sum(0),
    "columns of a matrix beside a buffer": lambda m, x: (m.b5 @ m.r).sum(0),
    "a spectral norm": lambda m, x: torch.dot(m.b12, torch.mv(m.r.mT, m.b5)),
    "zeros are put": lambda m, x: x.index_put(EVERY, torch.zeros_like(x)).sum(1),
    "zeros are scattered": lambda m, x: x.scatter(2, (x * 0).long(), 0.0).sum(1),
    "slots are looked up": lambda m, x: x[torch.tensor([1, 0]), :, torch.tensor([2, 3])].sum(1),
    "no shift": lambda m, x: F.layer_norm(x, (4,)).sum(1),
    "no bias for each sample": lambda m, x: F.conv1d(m.p.view(12, 1, 1), m.k).sum(0),
}


class Tensors(Spread):
    """More parameters and buffers to put together."""

    def __init__(self, move: Callable[[nn.Module, Tensor], object]):
        super().__init__(move)
        shapes = {"s": (2,), "v": VECTOR, "w": (9,), "t": (4,), "r": ROWS}
        shapes |= {"u2": (5, 3), "u1": (1, 4), "r4": (4,), "k": (4, 1, 1)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        for length in (5, CHANNELS):
            self.register_buffer(f"b{length}", torch.randn(length))


@pytest.mark.parametrize("name", KEEPS_NO_ZEROS)
def test_a_sum_over_slots_that_do_not_vanish_is_a_statistic(name):
    coupling, _ = coupled(Tensors(KEEPS_NO_ZEROS[name]))
    assert [str(s.reason) for s in coupling.statistics]


@pytest.mark.parametrize("name", KEEPS_ZEROS)
def test_a_sum_over_slots_that_vanish_is_exact(name):
    coupling, _ = coupled(Tensors(KEEPS_ZEROS[name]))
    assert not [str(s.reason) for s in coupling.statistics] and coupling.atoms.free.any()


@pytest.mark.parametrize(
    ("text", "body"),
    {
        "aten.unbind makes a tensor of each slot": lambda m, x: x.unbind(1),
        "aten.select takes one slot by its place": lambda m, x: x[:, 11],
        "aten.view is given the literal size 12": lambda m, x: x.view(2, 12, 16),
        "aten.split_with_sizes is given the literal size 5": lambda m, x: x.split([5, 7], 1),
        "aten.index looks up slots by number": lambda m, x: x[:, torch.tensor([0, 11])],
        "aten._fft_r2c has no rule": lambda m, x: torch.fft.fft(x, dim=2).real,
    }.items(),
)
def test_a_pin_names_the_operator_and_the_line(text, body):
    coupling, _ = coupled(Spread(body))
    reasons = [str(reason) for reason in coupling.reasons]
    (found,) = [reason for reason in reasons if reason.startswith(text)]
    assert "test_rules.py:" in found


def test_strict_refuses_an_operator_without_a_rule():
    trace = capture(Network.of(Spread(lambda m, x: torch.fft.fft(x, dim=2).real)), ())
    with pytest.raises(PruneError, match=r"aten\._fft_r2c\.default has no rule .*@slimnet\.rule"):
        couple([trace], strict=True)


def shapes() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 6), min_size=1, max_size=5)


@st.composite
def reshapes(draw) -> tuple[list[int], list[int]]:
    """Two shapes of the same number of elements."""
    old = draw(shapes())
    rest, new = prod(old), []
    while rest > 1 and draw(st.booleans()):
        factor = draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
        new.append(factor)
        rest //= factor
    new.insert(draw(st.integers(0, len(new))), rest)
    return old, new


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(reshapes())
def test_blocks_cut_a_reshape_into_reshapes_of_their_own(pair):
    """The index within a block of old axes equals the index within its block of new axes."""
    old, new = pair
    found = matching_runs(old, new)
    assert [d for ins, _ in found for d in ins] == [d for d, n in enumerate(old) if n != 1]
    assert [d for _, outs in found for d in outs] == [d for d, n in enumerate(new) if n != 1]
    for ins, outs in found:
        np.testing.assert_array_equal(
            np.reshape(index_within(old, ins), new), index_within(new, outs)
        )


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(reshapes())
def test_blocks_are_as_fine_as_they_can_be(pair):
    old, new = pair
    for ins, outs in matching_runs(old, new):
        inner = {prod(old[d] for d in ins[:k]) for k in range(1, len(ins))}
        outer = {prod(new[d] for d in outs[:k]) for k in range(1, len(outs))}
        assert not inner & outer


def index_within(shape: list[int], dims: list[int]) -> np.ndarray:
    """For every element its flat index within a run of axes."""
    index = np.zeros(shape, int)
    for d in dims:
        step = np.arange(shape[d]).reshape([-1 if k == d else 1 for k in range(len(shape))])
        index = index * shape[d] + step
    return index
