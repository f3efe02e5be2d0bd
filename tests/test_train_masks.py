"""Masks of single weights: who stays, and at what the others are held."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from slimnet.errors import InputError
from slimnet.train.callback import Moment
from slimnet.train.masks import HOLDS, MASKS, Held, masks_by

INITIAL = {"weight": torch.tensor([1.0, -2.0, 3.0, -4.0])}
FINAL = {"weight": torch.tensor([-5.0, 1.0, 3.5, -2.0])}

STAYS = {  # by hand: which two of the four
    "large-final": [1, 0, 1, 0],
    "small-final": [0, 1, 0, 1],
    "large-init": [0, 0, 1, 1],
    "small-init": [1, 1, 0, 0],
    "magnitude-increase": [1, 0, 1, 0],  # 4, -1, 0.5, -2
    "movement": [1, 1, 0, 0],  # 6, 3, 0.5, 2
}


@pytest.mark.parametrize("criterion", STAYS)
def test_the_least_go(criterion):
    masks = masks_by(criterion, 0.5, FINAL, INITIAL)
    assert masks["weight"].tolist() == STAYS[criterion]


@pytest.mark.parametrize("criterion", ["large-init-large-final", "small-init-small-final"])
def test_two_magnitudes_are_compared_on_one_scale(criterion):
    final, initial = (x["weight"].numpy() for x in (FINAL, INITIAL))
    both = np.abs(final) * initial.std() / final.std(), np.abs(initial)
    score = np.minimum(*both) if criterion.startswith("large") else -np.maximum(*both)
    wanted = np.where(score >= np.sort(score)[2], 1, 0)
    assert masks_by(criterion, 0.5, FINAL, INITIAL)["weight"].tolist() == wanted.tolist()


def test_one_threshold_for_all_or_one_for_each_layer():
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    assert torch.cat([*masks_by("large-final", 0.5, weights).values()]).tolist() == [0, 0, 1, 1]
    each = masks_by("large-final", 0.5, weights, layerwise=True)
    assert torch.cat([*each.values()]).tolist() == [0, 1, 0, 1]


def test_a_random_mask_follows_its_seed():
    weights = {"weight": torch.ones(1000)}
    masks = [masks_by("random", 0.3, weights, seed=seed)["weight"] for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert [int(mask.sum()) for mask in masks] == [700] * 3


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40),
    st.floats(0, 0.99),
    st.sampled_from(sorted(MASKS)),
)
def test_exactly_the_share_goes_also_among_equals(values, rate, criterion):
    weights = {"weight": torch.tensor(values)}
    mask = masks_by(criterion, rate, weights, weights)["weight"]
    assert int(mask.eq(0).sum()) == round(rate * len(values))
    assert set(mask.tolist()) <= {0.0, 1.0}


def test_a_criterion_that_reads_the_first_weights_needs_them():
    with pytest.raises(InputError, match="movement reads the weights before training"):
        masks_by("movement", 0.5, FINAL)
    assert masks_by("large-final", 0.5, FINAL)


def test_what_goes_is_held_at_zero_or_where_it_was():
    initial, final = torch.tensor([1.0, -2.0]), torch.tensor([2.0, -1.0])
    held = {name: hold(initial, final).tolist() for name, hold in ((n, HOLDS[n]) for n in HOLDS)}
    assert held == {"zero": [0, 0], "initial": [1, -2], "toward-zero": [1, 0]}


def test_it_is_held_at_the_start_and_after_every_step():
    model = nn.Linear(2, 1, bias=False)
    mask, values = torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 0.25]])
    held = Held({"weight": mask}, {"weight": values})
    moment = Moment(model, torch.optim.SGD(model.parameters()), 0, 0)
    for event in (held.on_start, held.on_step_end):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[7.0, 7.0]]))
        event(moment)
        assert model.weight.tolist() == [[7.0, 0.25]]
