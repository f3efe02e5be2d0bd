"""Scores: each criterion against its definition, written out as loops or differences."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from micro import Net, bn, conv, lin, weight
from shufflenet import Around, as_dense, dense, of_dense
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import slimnet
from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import find_groups
from slimnet.criteria import (
    ACROSS,
    CRITERIA,
    REDUCE,
    ChannelRows,
    Criterion,
    CriterionOptions,
    check_needs,
    load_criteria,
    normalized,
    score,
)
from slimnet.errors import InputError, PruneError, UnknownNameError
from slimnet.network import Network
from slimnet.samples import Samples
from slimnet.statistics.gather import gather
from slimnet.statistics.statistics import Statistics

IMAGE = (torch.randn(2, 3, 8, 8),)
RANDOM = torch.Generator().manual_seed(0)
SAMPLES = Samples(
    torch.randn(12, 3, 8, 8, generator=RANDOM), torch.randint(0, 4, (12,), generator=RANDOM)
)


def network(body=lambda m, x: m.b(m.n(m.a(x)).relu()).mean((2, 3)), **parts):
    torch.manual_seed(0)
    model = Net(body, {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4), **parts}).eval()
    nn.init.normal_(model.n.weight)
    return model


def untrained(model):
    return {name: tensor.flip(0) / 2 for name, tensor in Network.of(model).tensors.items()}


def scored(model, criterion, seed=0, **options):
    groups, _ = find_groups(Network.of(model), couple([capture(Network.of(model), IMAGE)]))
    needs = load_criteria()[criterion].needs
    statistics = gather(Network.of(model), groups, needs, samples=SAMPLES, init=untrained(model))
    tensors = Network.of(model).tensors
    return groups, score(groups, tensors, criterion, seed=seed, statistics=statistics, **options)


def one_by_one(function, model) -> list[float]:
    return [function(model, channel) for channel in range(16)]


def sum_of_magnitudes(model, channel):
    return sum(abs(value) for value in model.a.weight[channel].flatten().tolist())


def root_of_squares(model, channel):
    return sum(value**2 for value in model.a.weight[channel].flatten().tolist()) ** 0.5


def gamma(model, channel):
    return abs(model.n.weight[channel].item())


def distances(model, channel):
    filters = [model.a.weight[k].flatten().tolist() for k in range(16)]
    return sum(
        sum((a - b) ** 2 for a, b in zip(filters[channel], other, strict=True)) ** 0.5
        for other in filters
    )


def loss(model, samples):
    with torch.no_grad():
        return cross_entropy(model(samples.images.double()), samples.labels).item()


def derivative(model, change, samples=SAMPLES, step=1e-6):
    """Of the mean loss, by central differences of a change to the network's weights."""
    ends = []
    for sign in (1, -1):
        moved = deepcopy(model).double()
        with torch.no_grad():
            change(moved, sign * step)
        ends.append(loss(moved, samples))
    return (ends[0] - ends[1]) / (2 * step)


def squared_derivatives_by_a_gate(model, channel):
    """The gate stands where ``b`` reads the channel; mini-batches of 8 and of 4 images."""

    def gate(moved, step):
        moved.b.weight[:, channel] *= 1 + step

    batches = list(SAMPLES.batches(8))
    assert [len(batch) for batch in batches] == [8, 4]
    return sum(derivative(model, gate, batch) ** 2 for batch in batches) / 2


def derivatives_by_every_weight(model, channel):
    total = 0.0
    for place in np.ndindex(*model.a.weight.shape[1:]):

        def nudge(moved, step, place=(channel, *place)):
            moved.a.weight[place] += step

        total += abs(model.a.weight[(channel, *place)].item() * derivative(model, nudge))
    return total


def magnitudes_before(model, channel):
    return sum(abs(v) for v in untrained(model)["a.weight"][channel].flatten().tolist())


def growth(model, channel):
    return sum_of_magnitudes(model, channel) - magnitudes_before(model, channel)


def read_by_b(model):
    seen = []
    hook = model.b.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(SAMPLES.images)
    hook.remove()
    return seen[0]


def mean_of_what_is_read(model, channel):
    return read_by_b(model)[:, channel].abs().mean().item()


def share_that_is_not_zero(model, channel):
    read = read_by_b(model)[:, channel].flatten().tolist()
    return sum(value != 0 for value in read) / len(read)


REFERENCES = {
    "l1": sum_of_magnitudes,
    "l2": root_of_squares,
    "bn-scale": gamma,
    "fpgm": distances,
    "taylor": squared_derivatives_by_a_gate,
    "gradient": derivatives_by_every_weight,
    "magnitude-init": magnitudes_before,
    "magnitude-increase": growth,
    "mean-activation": mean_of_what_is_read,
    "apoz": share_that_is_not_zero,
}
WITHOUT = {"random"}
OF_WHOLE_GROUPS = {"obs", "thinet", "lasso"}  # greedy: tests/test_reconstruction.py


def test_every_criterion_has_a_reference():
    assert set(load_criteria()) == set(REFERENCES) | WITHOUT | OF_WHOLE_GROUPS
    assert all(load_criteria()[name].source for name in load_criteria())


@pytest.mark.parametrize("criterion", REFERENCES)
def test_a_score_is_what_its_definition_says(criterion):
    model = network()
    (group,), scores = scored(model, criterion)
    assert group.layers == ("a",)
    expected = one_by_one(REFERENCES[criterion], model)
    assert len(set(expected)) > 8
    np.testing.assert_allclose(scores[group.number], expected, rtol=1e-3, atol=1e-6)


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
    (group,) = (g for g in groups if any(axis.name == "p" for axis in g.axes))
    assert (scores[group.number] > 0).all()


def test_groups_that_a_criterion_cannot_judge_have_no_scores():
    model = network(lambda m, x: m.b(m.c(m.n(m.a(x)))), c=conv(16, 16))
    groups, scores = scored(model, "bn-scale")
    judged = [g.layers for g in groups if g.number in scores]
    assert judged == [("a",)] and len(groups) == 2
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, criterion="bn-scale", align=None)
    assert pruned.model.c.out_channels == 16 and pruned.model.a.out_channels == 8
    assert pruned.plan.notes == (
        "1 group was left alone: bn-scale has nothing to read there (c, …)",
    )


def test_a_criterion_with_nothing_to_read_at_all_is_refused():
    model = network(lambda m, x: m.b(m.a(x)))
    with pytest.raises(PruneError) as refusal:
        scored(model, "bn-scale")
    assert str(refusal.value) == (
        "criterion bn-scale reads the scale of every channel, and this network has none; choose "
        "another one: fpgm, l1, l2, random"
    )


def test_an_unknown_criterion_lists_the_known_ones():
    with pytest.raises(UnknownNameError) as refusal:
        scored(network(), "l3")
    assert str(refusal.value) == (
        f"unknown criterion 'l3': the known ones are {', '.join(load_criteria())}"
    )


@pytest.mark.parametrize("criterion", list(load_criteria()))
def test_every_criterion_prunes_a_coupled_network(criterion):
    model = network(
        lambda m, x: m.head((m.n(m.a(x)).relu() + m.c(m.a(x)).relu()).mean((2, 3))),
        c=conv(16, 16),
        head=lin(16, 4),
    )
    pruned = slimnet.prune(
        *(model, IMAGE),
        ratio=0.5,
        criterion=criterion,
        scope="global",
        align=None,
        data=SAMPLES,
        init=untrained(model),
        verify=False,
    )
    assert (pruned.plan.after or {})["params"] < (pruned.plan.before or {})["params"]
    assert pruned.model(*IMAGE).shape == (2, 4)


def coupled():
    return network(lambda m, x: m.b(m.a(x) + m.c(m.a(x))), c=conv(16, 16))


@pytest.mark.parametrize(
    ("reduce", "together"),
    [
        ("sum", lambda a, c: a + c),
        ("mean", lambda a, c: (a + c) / 2),
        ("max", max),
        ("prod", lambda a, c: a * c),
        ("first", lambda a, c: a),
    ],
)
def test_coupled_layers_meet_as_was_asked(reduce, together):
    model = coupled()
    (group,), scores = scored(model, "l1", reduce=reduce)
    expected = [
        together(sum_of_magnitudes(model, k), model.c.weight[k].abs().sum().item())
        for k in range(16)
    ]
    np.testing.assert_allclose(scores[group.number], expected, rtol=1e-5)


def test_a_criterion_may_reduce_in_its_own_way():
    model = network(
        lambda m, x: (m.b(h := m.a(x).relu()) + m.c(h.abs() + 1)).mean((2, 3)), c=conv(16, 4)
    )
    (group,), shares = scored(model, "apoz")
    _, first = scored(model, "apoz", reduce="first")
    np.testing.assert_allclose(shares[group.number], (first[group.number] + 1) / 2)


def test_a_share_stays_one_where_a_channel_is_read_at_many_places():
    model = network(lambda m, x: m.head(m.n(m.a(x)).relu().flatten(1)), head=lin(16 * 64, 4))
    (group,), shares = scored(model, "apoz")
    with torch.no_grad():
        read = model.n(model.a(SAMPLES.images)).relu()
    expected = (read != 0).double().mean((0, 2, 3))
    np.testing.assert_allclose(shares[group.number], expected.numpy())


@pytest.mark.parametrize(
    ("across", "divisor"),
    [("mean", 3), ("max", 6), ("sum", 9), ("l2", 41**0.5), ("none", 1)],
)
def test_scores_of_different_groups_are_made_comparable(across, divisor):
    values = np.array([1.0, -2.0, 6.0])
    np.testing.assert_allclose(normalized(values, "random", across), values / divisor)
    np.testing.assert_array_equal(normalized(np.zeros(3), "random", across), np.zeros(3))


def test_comparable_scores_have_mean_one_unless_they_compare_as_they_are():
    values = np.array([1.0, 2.0, 6.0])
    np.testing.assert_allclose(normalized(values, "l1"), values / 3)
    np.testing.assert_array_equal(normalized(values, "bn-scale"), values)


def test_what_makes_groups_comparable_decides_a_global_cut():
    model = network(lambda m, x: m.b(m.c(m.a(x))), c=conv(16, 16))
    with torch.no_grad():
        model.c.weight *= 100
    cut = partial(slimnet.prune, model, IMAGE, ratio=0.4, scope="global", align=None)
    fair, raw = cut(across="max", reduce="mean"), cut(across="none")
    assert raw.model.c.out_channels == 16 and raw.model.a.out_channels < 6
    assert fair.model.c.out_channels < 16
    assert (fair.plan.asked or {})["across"] == "max"
    assert (fair.plan.asked or {})["reduce"] == "mean"


@pytest.mark.parametrize("option", ["across", "reduce"])
def test_an_unknown_way_lists_the_known_ones(option):
    known = ", ".join(ACROSS if option == "across" else REDUCE)
    with pytest.raises(InputError, match=f"unknown {option} 'median': the known ones are {known}"):
        CriterionOptions(**{option: "median"})


MISSING = {
    "taylor": "criterion taylor reads gradients: give images with labels "
    "(--data digits|npz:FILE|…)",
    "apoz": "criterion apoz reads activations: give images (--data digits|npz:FILE|…)",
    "magnitude-init": "criterion magnitude-init reads the weights at initialisation: give them "
    "(--init FILE)",
}


@pytest.mark.parametrize("criterion", MISSING)
def test_what_a_criterion_lacks_is_named(criterion):
    model = network()
    groups, _ = find_groups(Network.of(model), couple([capture(Network.of(model), IMAGE)]))
    for ask in (
        lambda: check_needs(criterion, data=False, init=False),
        lambda: score(groups, Network.of(model).tensors, criterion),
        lambda: slimnet.prune(model, IMAGE, ratio=0.5, criterion=criterion),
    ):
        with pytest.raises(InputError) as refusal:
            ask()
        assert str(refusal.value) == MISSING[criterion]
    check_needs(criterion, data=True, init=True)


def test_layers_of_which_nothing_was_gathered_are_not_read():
    model = network(lambda m, x: m.b(m.c(m.a(x))), c=conv(16, 16))
    groups, _ = find_groups(Network.of(model), couple([capture(Network.of(model), IMAGE)]))
    statistics = Statistics(initial={"c.weight": model.c.weight})
    scores = score(groups, Network.of(model).tensors, "magnitude-init", statistics=statistics)
    assert [g.layers for g in groups if g.number in scores] == [("c",)]


def test_a_criterion_of_ones_own_is_used(monkeypatch):
    def last_first(rows: ChannelRows) -> Tensor:
        return -torch.arange(len(rows.weight))

    load_criteria()
    monkeypatch.setitem(CRITERIA._entries, "mine", Criterion(last_first, ("out",), "here"))
    pruned = slimnet.prune(network(), IMAGE, ratio=0.25, criterion="mine", align=None)
    assert pruned.plan.removed["a.weight"] == {0: (12, 13, 14, 15)}


def test_what_judges_a_group_as_a_whole_is_used_and_not_reduced(monkeypatch):
    class Middle:
        """The atoms in the middle of a group first: no formula for one layer says so."""

        roles, source, across, needs = ("out",), "here", "none", ()

        def scores(self, group, tensors, statistics, generator):
            return np.abs(np.arange(group.size) - group.size / 2)

    load_criteria()
    monkeypatch.setitem(CRITERIA._entries, "middle", Middle())
    pruned = slimnet.prune(network(), IMAGE, ratio=0.25, criterion="middle", align=None)
    assert pruned.plan.removed["a.weight"] == {0: (6, 7, 8, 9)}
    with pytest.raises(InputError, match="middle judges a group as a whole"):
        slimnet.prune(network(), IMAGE, ratio=0.25, criterion="middle", reduce="max")


@pytest.mark.parametrize("criterion", sorted(set(load_criteria()) - {"obs"}))
def test_columns_counted_across_groups_score_as_those_of_the_block_diagonal_weight(criterion):
    """But for the surgeon, who solves for columns that a grouped convolution does not have."""
    torch.manual_seed(0)
    model = Around().eval()
    groups, _ = find_groups(Network.of(model), couple([capture(Network.of(model), IMAGE)]))
    group = next(g for g in groups if any(axis.groups == 3 for axis in g.axes))
    init = untrained(model)
    whole = {**init, "b.weight": dense(init["b.weight"], 3)}
    found = []
    for network, part, start in (
        (model, group, init),
        (as_dense(model), of_dense(group), whole),
    ):
        needs = load_criteria()[criterion].needs
        statistics = gather(Network.of(network), [part], needs, samples=SAMPLES, init=start)
        tensors = Network.of(network).tensors
        found.append(score([part], tensors, criterion, statistics=statistics)[part.number])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
