"""A plan is plain data that any checkpoint of the same network can be cut by."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import MICRO, Net, bn, conv
from oracle import float64
from torch import nn

import slimnet
from slimnet.coupling.removal import Removal
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.outcome import GroupCut, Outcome
from slimnet.plan.plan import AttributeChange, Plan, Scale
from slimnet.plan.rebuild import rebuild
from slimnet.ranges import indices_in, ranges_of

IMAGE = (torch.randn(2, 3, 8, 8),)
WHOLE = Plan(
    removed={"a.weight": {0: (0, 1, 2, 9), 1: (4,)}, "a.bias": {0: (0, 1, 2, 9)}},
    changes=(AttributeChange("block", "heads", (1, 0), 8, 4),),
    remapped={"order": (0, 0, 1)},
    outcome=Outcome(
        groups=(GroupCut(("a", "c"), 16, 12, ("a mean changes",)),),
        untouched=(("b", "it is an output of the network"),),
        asked={"ratio": 0.25, "keep": ["stem"]},
        before={"macs": 10, "params": 4, "bytes": 16},
        after={"macs": 5, "params": 2, "bytes": 8},
        notes=("a note",),
    ),
)


def network(seed=0):
    torch.manual_seed(seed)
    return Net(
        lambda m, x: m.b(m.n(m.a(x))), {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4)}
    ).eval()


@pytest.mark.parametrize("plan", [WHOLE, Plan({})])
def test_a_plan_survives_json(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_in_json_the_outcome_stands_beside_what_leaves_as_it_always_did():
    """Files that were written before an outcome was a value of its own are read as they are."""
    written = json.loads((Path(__file__).parent / "golden" / "plan.json").read_text())
    data = WHOLE.to_json()
    assert not data.pop("outputs")  # which came later
    assert json.dumps(data) == json.dumps(written)
    assert Plan.from_json(written) == WHOLE and WHOLE.groups is WHOLE.outcome.groups


def test_nothing_is_cut_by_the_outcome():
    model, example = network(), (torch.randn(1, 3, 8, 8),)
    plan = slimnet.prune(model, example, ratio=0.5).plan
    slim, same = (
        Network.of(rebuild(Network.of(model), each)).tensors
        for each in (plan, replace(plan, outcome=Outcome()))
    )
    assert slim.keys() == same.keys() and all(torch.equal(slim[n], same[n]) for n in slim)


@pytest.mark.parametrize("name", ["plain", "shuffle_attribute", "pixel_shuffle", "group_norm"])
def test_the_plan_of_a_real_cut_survives_json(name):
    model, example = float64(MICRO[name].make, MICRO[name].example, seed=0)
    plan = slimnet.prune(model, example, ratio=0.5, align=None).plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_indices_are_written_as_runs_that_a_person_can_read():
    assert WHOLE.to_json()["removed"]["a.weight"] == {"0": [[0, 2], [9, 9]], "1": [[4, 4]]}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_inverse_of_indices(chosen):
    indices = sorted(chosen)
    runs = ranges_of(indices)
    assert indices_in(runs) == tuple(indices)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(runs))


def broken(**changes):
    return {**WHOLE.to_json(), **changes}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"removed": {}},
        [],
        broken(removed=[1]),
        broken(removed={"a.weight": {"first": [[0, 1]]}}),
        broken(removed={"a.weight": {"0": [[0, 1, 2]]}}),
        broken(removed={"a.weight": {"0": ["ab", "cd"]}}),
        broken(changes=[{"module": "a"}]),
        broken(changes=[{"module": "a", "attribute": "h", "path": [], "old": 1, "new": 1, "x": 1}]),
        broken(groups=[{"layers": ["a"]}]),
        broken(untouched=[["a"]]),
    ],
)
def test_what_is_not_a_plan_is_refused(data):
    with pytest.raises(InputError, match="this is not a plan of slimnet"):
        Plan.from_json(data)


def test_another_checkpoint_is_cut_by_the_same_indices():
    plan = slimnet.prune(network(), IMAGE, ratio=0.4, criterion="random", align=None).plan
    other = network(seed=1)
    slim = rebuild(Network.of(other), Plan.from_json(json.loads(json.dumps(plan.to_json()))))
    gone = plan.removed["a.weight"][0]
    kept = [k for k in range(16) if k not in gone]
    assert torch.equal(slim.a.weight, other.a.weight[kept])
    assert torch.equal(slim.n.running_var, other.n.running_var[kept])
    assert torch.equal(slim.b.weight, other.b.weight[:, kept])
    assert torch.equal(slim.b.bias, other.b.bias)


def test_pruning_another_checkpoint_the_same_way_gives_the_same_network():
    """Random scores depend on the seed and not on the weights: the plans are equal."""
    first, other = network(), network(seed=1)
    options = {"ratio": 0.4, "criterion": "random", "seed": 5, "align": None}
    plan = slimnet.prune(first, IMAGE, **options).plan
    direct = slimnet.prune(other, IMAGE, **options)
    assert direct.plan == plan
    state = rebuild(Network.of(other), plan).state_dict()
    assert all(torch.equal(t, state[name]) for name, t in direct.model.state_dict().items())


def test_a_plan_says_what_was_asked_and_what_came_out():
    plan = slimnet.prune(network(), IMAGE, ratio=0.4, keep=("b",), align=None).plan
    assert plan.asked["ratio"] == 0.4 and plan.asked["criterion"] == "l1"
    assert plan.asked["keep"] == ["b"] and plan.asked["scope"] == "local"
    (group,) = plan.groups
    assert (group.layers, group.before, group.after, group.approximate) == (("a",), 16, 9, ())
    assert plan.untouched == (("b", "it is an output of the network"),)
    assert plan.before["params"] > plan.after["params"] > 0


def test_the_plan_cuts_a_shared_tensor_under_each_of_its_names():
    model = network()
    model.again = model.a
    model.c = conv(3, 16)()
    model.c.weight = model.a.weight
    plan = slimnet.prune(model, IMAGE, ratio=0.5, align=None).plan
    assert plan.removed["c.weight"] == plan.removed["a.weight"]


@pytest.mark.parametrize(
    "part",
    [
        {"removed": {"a.weight": {"0": [[0, 10**10]]}}},
        {"removed": {f"a{n}.weight": {"0": [[0, 2**20]]} for n in range(40)}},
        {"scaled": {"a.weight": [[0, [[0, 10**10]], 2.0]]}},
        {"removed": {"a.weight": {"0": [[0.0, 1.5]]}}},
        {"removed": {'a" + b': {"0": [[0, 1]]}}},
        {"changes": [{"module": "a", "attribute": "h\n", "path": [], "old": 1, "new": 1}]},
        {"changes": [{"module": "a", "attribute": "h", "path": [], "old": 1, "new": "1"}]},
        {"blocks": [{"name": "a\x1b", "stubs": [], "zeroed": []}]},
        {"blocks": [{"name": "a", "stubs": [], "zeroed": ["'"]}]},
        {
            "blocks": [
                {
                    "name": "a",
                    "zeroed": [],
                    "stubs": [{"module": "a", "by": "input", "steps": ["\u202e"], "paired": False}],
                }
            ]
        },
        {"remapped": {"order": ["one"]}},
        {"asked": [1]},
        {"before": {"macs": "many", "params": 1, "bytes": 1}},
        {"after": {"macs": 1}},
        {"groups": [{"layers": ["a"], "before": "16", "after": 1, "approximate": []}]},
    ],
    ids=str,
)
def test_a_strangers_plan_is_bounded(part):
    with pytest.raises(InputError, match="this is not a plan of slimnet"):
        Plan.from_json({**WHOLE.to_json(), **part})


@pytest.mark.parametrize("attribute", ["forward", "training", "_modules", "name"])
def test_only_numbers_of_a_module_are_changed(attribute):
    model = network()
    vars(model.a)["forward"] = model.a.forward
    vars(model.a)["name"] = "first"
    plan = Plan({}, changes=(AttributeChange("a", attribute, (), 1, 2),))
    with pytest.raises((InputError, KeyError)):
        rebuild(Network.of(model), plan)


@pytest.mark.parametrize(
    "plan",
    [
        Plan({}, scaled={"a.weight": (Scale(7, (0,), 2.0),)}),
        Plan({}, scaled={"a.weight": (Scale(0, (0, 10**6), 2.0),)}),
        Plan({}, scaled={"c.weight": (Scale(0, (0,), 2.0),)}),
        Plan({}, remapped={"a.weight": (0, 1)}),
        Plan({}, remapped={"c.index": (0, 1)}),
        Plan({}, remapped={"n.num_batches_tracked": ()}),
    ],
    ids=repr,
)
def test_tables_that_do_not_fit_are_refused(plan):
    with pytest.raises(InputError, match=r"the plan (does not fit|renumbers)"):
        rebuild(Network.of(network()), plan)


GROUPED = Plan(
    removed={"a.weight": {0: (0, 3), 1: (1, 4)}, "a.bias": {0: (0, 3)}},
    grouped={"a.weight": 2},
)


def test_a_plan_whose_indices_count_across_groups_survives_json():
    assert Plan.from_json(json.loads(json.dumps(GROUPED.to_json()))) == GROUPED
    assert GROUPED.of("a.weight") == Removal({0: (0, 3), 1: (1, 4)}, 2)
    assert GROUPED.of("a.bias").groups == 1 and GROUPED.of("b").axes == {}


def test_a_plan_from_before_indices_counted_across_groups_opens():
    data = WHOLE.to_json()
    del data["grouped"]
    assert Plan.from_json(data) == WHOLE


@pytest.mark.parametrize("groups", [1, 0, -2, 2.0, True, "2", None, [2]])
def test_a_number_of_groups_that_is_none_is_refused(groups):
    data = {**GROUPED.to_json(), "grouped": {"a.weight": groups}}
    with pytest.raises(InputError, match="this is not a plan of slimnet"):
        Plan.from_json(data)


@pytest.mark.parametrize("grouped", [[], "a", {"a'b": 2}, {3: 2}])
def test_a_table_of_groups_that_is_none_is_refused(grouped):
    with pytest.raises(InputError):
        Plan.from_json({**GROUPED.to_json(), "grouped": grouped})


@pytest.mark.parametrize(
    "axes",
    [
        {1: (1, 2)},  # both of the first group
        {1: (1,)},
        {1: (1, 8)},
        {0: (0,), 1: (1, 4)},  # one of its rows, none of the other's
    ],
)
def test_groups_that_lose_unequal_numbers_are_refused(axes):
    model = nn.Sequential(nn.Conv2d(6, 4, 1, groups=2))
    with pytest.raises(
        InputError, match=r"the plan does not fit 0\.weight of shape \(4, 3, 1, 1\)"
    ):
        rebuild(Network.of(model), Plan({"0.weight": axes}, grouped={"0.weight": 2}))


def test_groups_that_a_layer_does_not_have_are_refused():
    model = nn.Sequential(nn.Conv2d(8, 8, 1, groups=4))
    plan = Plan({"0.weight": {1: (0, 2)}}, grouped={"0.weight": 2})
    with pytest.raises(InputError, match="the plan counts 2 groups of 0, which has 4"):
        rebuild(Network.of(model), plan)


def test_what_counts_across_groups_is_scaled_along_no_axis():
    model = nn.Sequential(nn.Conv2d(6, 4, 1, groups=2))
    scaled = {"0.weight": (Scale(1, (0,), 2.0),)}
    plan = Plan({"0.weight": {1: (0, 3)}}, grouped={"0.weight": 2}, scaled=scaled)
    with pytest.raises(InputError, match="the plan does not fit"):
        rebuild(Network.of(model), plan)
