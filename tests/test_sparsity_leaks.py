"""What a dead channel still says is moved to where it belongs: exactly, where that is possible."""

import copy

import numpy as np
import pytest
import torch
from shufflenet import Around, dense
from torch import nn

import slimnet
from slimnet.capture.passes import capture_passes
from slimnet.inspection import analyse
from slimnet.network import Network
from slimnet.sparsity.leaks import Leaks, dead_atoms, remove_leaks

EXAMPLE = (torch.zeros(1, 3, 8, 8, dtype=torch.float64),)
DEAD = [1, 4, 9]


def norm(width):
    made = nn.BatchNorm2d(width)
    for tensor in (made.weight.data, made.bias.data, made.running_mean, made.running_var):
        tensor.uniform_(0.5, 1.5)
    return made


def network(*, padding=0, bias=True, normed=False, inner=16, blocks=1):
    torch.manual_seed(0)
    reader = nn.Conv2d(16, inner, 3, padding=padding, bias=bias, groups=blocks)
    return (
        nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False),
            norm(16),
            nn.ReLU(),
            reader,
            norm(inner) if normed else nn.Sigmoid(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * inner, 10),
        )
        .double()
        .eval()
    )


def silenced(model, filters=DEAD):
    with torch.no_grad():
        model[0].weight[filters] = 0
    groups = analyse(Network.of(model), capture_passes(Network.of(model), EXAMPLE), ()).groups
    return model, groups, dead_atoms(groups, Network.of(model).tensors)


def images():
    return torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options", [{"bias": True}, {"bias": False, "normed": True}], ids=["bias", "norm"]
)
def test_without_padding_the_network_stays_the_same(options):
    model, groups, dead = silenced(network(**options))
    whole = copy.deepcopy(model)
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks(folded=1)
    torch.testing.assert_close(model(images()), whole(images()))
    columns = model[3].weight.transpose(0, 1)
    for tensor in (model[0].weight, model[1].weight, model[1].bias, columns):
        assert not tensor[DEAD].any()
        assert tensor[[0, 2]].any()


def test_a_grouped_reader_hears_every_block():
    model, groups, dead = silenced(network(blocks=2), [1, 9])  # the same place in both blocks
    whole = copy.deepcopy(model)
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks(folded=1)
    assert not model[3].weight[:, 1].any()
    torch.testing.assert_close(model(images()), whole(images()))


def test_a_linear_layer_behind_a_flattening_reads_every_position_of_a_dead_channel():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, bias=False), norm(16), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(16 * 36, 10)).double().eval()
    model, groups, dead = silenced(model)
    whole = copy.deepcopy(model)
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks(folded=1)
    torch.testing.assert_close(model(images()), whole(images()))
    assert not model[4].weight.view(10, 16, 36)[:, DEAD].any()


def test_with_padding_the_inner_positions_come_nearer_than_without_the_fold():
    model, groups, dead = silenced(network(padding=1))
    whole, dropped = copy.deepcopy(model), copy.deepcopy(model)
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks(averaged=1)
    with torch.no_grad():
        dropped[1].weight[DEAD], dropped[1].bias[DEAD] = 0.0, 0.0
        expected = whole[:4](images())
        off = (model[:4](images()) - expected).square().mean()
        assert 0 < off < 0.5 * (dropped[:4](images()) - expected).square().mean()
        assert (model[:4](images()) - expected).mean().abs() < 1e-12


def test_where_there_is_no_place_for_it_it_is_lost_and_counted():
    model, groups, dead = silenced(network(bias=False))
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks(lost=1)


def test_the_network_equals_its_cut():
    model, groups, dead = silenced(network(padding=1))
    remove_leaks(Network.of(model), EXAMPLE, groups, dead)
    slim = slimnet.prune(model, EXAMPLE, ratio=3 / 16, criterion="l2", align=None, keep=["3"])
    assert slim.model[0].out_channels == 13 and slim.model[3].out_channels == 16
    torch.testing.assert_close(slim.model(images()), model(images()))


def test_nothing_dead_changes_nothing():
    model, groups, dead = silenced(network(), filters=[])
    before = copy.deepcopy(model.state_dict())
    assert not any(gone.any() for gone in dead.values())
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_atom_is_dead_where_every_layer_that_makes_it_is_silent():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3)
            self.head = nn.Conv2d(16, 2, 1)

        def forward(self, x):
            return self.head((self.a(x) + self.b(x)).relu())

    model = Sum().double()
    with torch.no_grad():
        model.a.weight[[2, 3]] = 0
        model.b.weight[[3, 5]] = 0
    (group,) = analyse(Network.of(model), capture_passes(Network.of(model), EXAMPLE), ()).groups
    (dead,) = dead_atoms([group], Network.of(model).tensors).values()
    assert np.flatnonzero(dead).tolist() == [3]


@pytest.mark.parametrize("gone", [[0, 20, 40, 7, 27, 47, 14, 34, 54], [6, 26, 46, 13, 33, 53]])
def test_other_columns_of_every_group_are_heard_and_zeroed(gone):
    """Filters of sets that leave together: the places 0, 7 and 14, and the places 6 and 13."""
    torch.manual_seed(0)
    model = Around().double().eval()
    for tensor in (model.n.weight.data, model.n.bias.data, model.n.running_mean):
        tensor.uniform_(0.5, 1.5)
    with torch.no_grad():
        model.a.weight[gone], model.a.bias[gone] = 0, 0
    groups = analyse(Network.of(model), capture_passes(Network.of(model), EXAMPLE), ()).groups
    dead = dead_atoms(groups, Network.of(model).tensors)
    assert sum(atoms.sum() for atoms in dead.values()) == 1
    whole = copy.deepcopy(model)
    assert remove_leaks(Network.of(model), EXAMPLE, groups, dead) == Leaks(folded=1)
    torch.testing.assert_close(model(images()), whole(images()))
    zeros = dense(model.b.weight, 3).flatten(1).eq(0).all(0).nonzero().flatten().tolist()
    assert zeros == sorted(3 * (channel % 20) + channel // 20 for channel in gone)
