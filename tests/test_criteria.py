"""Scores: each criterion against its definition, written out as loops."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from micro import Net, bn, conv, weight
from torch import Tensor, nn

import slimnet
from slimnet.couple import couple
from slimnet.criteria import CRITERIA, Criterion, comparable, load_criteria, score
from slimnet.errors import PruneError, UnknownNameError
from slimnet.groups import find_groups
from slimnet.modules import named_tensors
from slimnet.trace import capture

IMAGE = (torch.randn(2, 3, 8, 8),)


def network(body=lambda m, x: m.b(m.n(m.a(x)).relu()), **parts):
    torch.manual_seed(0)
    model = Net(body, {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4), **parts}).eval()
    nn.init.normal_(model.n.weight)
    return model


def scored(model, criterion, seed=0):
    groups, _ = find_groups(model, couple([capture(model, IMAGE)]))
    return groups, score(groups, dict(named_tensors(model)), criterion, seed=seed)


def one_by_one(function, model) -> list[float]:
    return [function(model, channel) for channel in range(16)]


def sum_of_magnitudes(model, channel):
    return sum(abs(value) for value in model.a.weight[channel].flatten().tolist())


def root_of_squares(model, channel):
    return sum(value**2 for value in model.a.weight[channel].flatten().tolist()) ** 0.5


def gamma(model, channel):
    return abs(model.n.weight[channel].item())


REFERENCES = {"l1": sum_of_magnitudes, "l2": root_of_squares, "bn-scale": gamma}
WITHOUT = {"random"}


def test_every_criterion_has_a_reference():
    assert set(load_criteria()) == set(REFERENCES) | WITHOUT
    assert all(load_criteria()[name].source for name in load_criteria())


@pytest.mark.parametrize("criterion", REFERENCES)
def test_a_score_is_what_its_definition_says(criterion):
    model = network()
    (group,), scores = scored(model, criterion)
    assert group.layers == ("a",)
    expected = one_by_one(REFERENCES[criterion], model)
    np.testing.assert_allclose(scores[group.number], expected, rtol=1e-5)


def test_random_scores_depend_on_the_seed_only():
    model = network()
    torch.manual_seed(1)
    first = scored(model, "random", seed=3)[1][0]
    torch.manual_seed(2)
    again, other = scored(model, "random", seed=3)[1][0], scored(model, "random", seed=4)[1][0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert ((first >= 0) & (first < 1)).all()


def test_scores_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    scored(network_without_seeding(), "random")
    assert torch.equal(before, torch.get_rng_state())


def network_without_seeding():
    state = torch.get_rng_state()
    model = network()
    torch.set_rng_state(state)
    return model


def test_an_atom_of_coupled_layers_scores_the_sum_over_them():
    model = network(lambda m, x: m.b(m.a(x) + m.c(m.a(x))), c=conv(16, 16))
    (group,), scores = scored(model, "l1")
    expected = [
        sum_of_magnitudes(model, channel) + model.c.weight[channel].abs().sum().item()
        for channel in range(16)
    ]
    np.testing.assert_allclose(scores[group.number], expected, rtol=1e-5)


def test_an_atom_of_several_channels_scores_their_sum():
    model = network(lambda m, x: m.b(m.g(m.a(x))), g=conv(16, 16, groups=2))
    groups, scores = scored(model, "l1")
    (group,) = (g for g in groups if g.layers == ("a",))
    expected = np.reshape(one_by_one(sum_of_magnitudes, model), (2, 8)).sum(0)
    np.testing.assert_allclose(scores[group.number], expected, rtol=1e-5)


def test_filters_of_a_transposed_convolution_are_on_its_second_axis():
    up = partial(nn.ConvTranspose2d, 16, 12, 2, stride=2)
    model = network(lambda m, x: m.b(m.up(m.a(x))), up=up, b=conv(12, 4))
    groups, scores = scored(model, "l1")
    (group,) = (g for g in groups if g.layers == ("up",))
    expected = [model.up.weight[:, k].abs().sum().item() for k in range(12)]
    np.testing.assert_allclose(scores[group.number], expected, rtol=1e-5)


def test_channels_made_by_raw_parameters_alone_are_scored_too():
    model = network(
        lambda m, x: m.b(m.p.expand(2, -1, 8, 8)) + m.c(x), p=weight(1, 16, 1, 1), c=conv(3, 4)
    )
    groups, scores = scored(model, "l1")
    (group,) = (g for g in groups if any(slot.name == "p" for slot in g.slots))
    assert (scores[group.number] > 0).all()


def test_groups_that_a_criterion_cannot_judge_have_no_scores():
    model = network(lambda m, x: m.b(m.c(m.n(m.a(x)))), c=conv(16, 16))
    groups, scores = scored(model, "bn-scale")
    judged = [g.layers for g in groups if g.number in scores]
    assert judged == [("a",)] and len(groups) == 2
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, criterion="bn-scale", align=None)
    assert pruned.model.c.out_channels == 16 and pruned.model.a.out_channels == 8
    assert pruned.plan.notes == (
        "1 groups were left alone: bn-scale has nothing to read there (c, …)",
    )


def test_a_criterion_with_nothing_to_read_at_all_is_refused():
    model = network(lambda m, x: m.b(m.a(x)))
    with pytest.raises(PruneError) as refusal:
        scored(model, "bn-scale")
    assert str(refusal.value) == (
        "criterion bn-scale reads the scale of every channel, and this network has none; choose "
        "another one: l1, l2, random"
    )


def test_an_unknown_criterion_lists_the_known_ones():
    with pytest.raises(UnknownNameError) as refusal:
        scored(network(), "l3")
    assert str(refusal.value) == (
        "unknown criterion 'l3': the known ones are bn-scale, l1, l2, random"
    )


def test_comparable_scores_have_mean_one_unless_they_compare_as_they_are():
    values = np.array([1.0, 2.0, 6.0])
    np.testing.assert_allclose(comparable(values, "l1"), values / 3)
    np.testing.assert_array_equal(comparable(values, "bn-scale"), values)
    np.testing.assert_array_equal(comparable(np.zeros(3), "l1"), np.zeros(3))


def test_a_criterion_of_ones_own_is_used(monkeypatch):
    def last_first(rows: Tensor, generator: torch.Generator) -> Tensor:
        return -torch.arange(rows.shape[0])

    load_criteria()
    monkeypatch.setitem(CRITERIA._entries, "mine", Criterion(last_first, ("out",), "here"))
    pruned = slimnet.prune(network(), IMAGE, ratio=0.25, criterion="mine", align=None)
    assert pruned.plan.removed["a.weight"] == {0: (12, 13, 14, 15)}
