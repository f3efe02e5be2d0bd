"""Every construct ends exact, approximate with its reason, or with the pin named; never wrong."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import micro_attention  # noqa: F401  (adds its rows)
import pytest
import torch
from micro import MICRO, Micro
from oracle import clone, float64, outputs, relative_error, zeroed
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import slimnet

PLAIN = (bool, int, float, str, type(None))
# Reads a layer in training mode only, which one recorded call in eval mode cannot show.
TRAINS_OTHERWISE = {"train_only_head"}


@dataclass(frozen=True)
class Cut:
    """One micro network before and after pruning."""

    name: str
    micro: Micro
    original: nn.Module
    example: tuple
    pruned: Any
    changed: dict[str, tuple]  # what pruning changed on the user's own model and example


@pytest.fixture(scope="module", params=list(MICRO))
def cut(request):
    micro = MICRO[request.param]
    model, example = float64(micro.make, micro.example, seed=0)
    outputs(model, example)  # a network that keeps its activations keeps them with their graph
    before = snapshot(model, example)
    try:
        pruned = slimnet.prune(model, example, ratio=0.5, align=None, heads=micro.heads)
    except slimnet.PruneError as refusal:  # nothing at all can go: the layers say why
        assert "nothing can be pruned" in str(refusal)
        pruned = slimnet.prune(model, example, ratio=0.0, align=None)
    changed = differences(before, snapshot(model, example))
    return Cut(request.param, micro, model, example, pruned, changed)


def test_outcome_is_the_expected_one(cut):
    found = [expected for expected in cut.micro.outcomes if reached(cut, expected)]
    assert found, (
        f"expected {cut.micro.expect}, got {cut.pruned.certificate}\n{cut.pruned.inspection}"
    )


def test_slim_equals_the_original_with_removed_elements_zeroed(cut):
    certificate, plan = cut.pruned.certificate, cut.pruned.plan
    found = outputs(cut.pruned.model, cut.example)
    assert all(tensor.isfinite().all() for tensor in found)
    assert certificate.error <= certificate.tolerance
    if certificate.exact:
        reference = zeroed(cut.micro.make, cut.original, plan.removed, plan.grouped)
        assert relative_error(found, outputs(reference, cut.example)) < 1e-9


def test_slim_is_smaller_by_what_the_plan_says(cut):
    after = cut.pruned.model.state_dict()
    for name, tensor in cut.original.state_dict().items():
        plan, removed = cut.pruned.plan, cut.pruned.plan.removed.get(name, {})
        gone = {d: len(indices) for d, indices in removed.items()}
        if name in plan.grouped:
            gone[1] //= plan.grouped[name]
        expected = [size - gone.get(axis, 0) for axis, size in enumerate(tensor.shape)]
        assert list(after[name].shape) == expected, name


WHOLE_HEADS = [
    name
    for name, micro in MICRO.items()
    if micro.heads and not {"pinned", "or"} & set(re.split(r"[ :]", micro.expect))
]
HEAD = 8  # channels, in all of them


@pytest.mark.parametrize("name", WHOLE_HEADS)
def test_whole_heads_leave_and_those_that_stay_keep_their_width(name):
    micro = MICRO[name]
    model, example = float64(micro.make, micro.example, seed=0)
    plan = slimnet.prune(model, example, ratio=0.5, align=None, heads=True).plan
    assert not plan.scaled
    changed = {change.attribute: (change.old, change.new) for change in plan.changes}
    assert {changed.get("heads"), changed.get("num_heads")} == {None, (4, 2)}
    assert not {"head_dim", "width"} & changed.keys()
    rows = {
        weight: Counter(index // HEAD for index in axes[0])
        for weight, axes in plan.removed.items()
        if weight.endswith(PROJECTIONS) and 0 in axes
    }
    assert rows
    for weight, gone in rows.items():
        assert set(gone.values()) == {HEAD}, weight


PROJECTIONS = ("q.weight", "k.weight", "v.weight", "qkv.weight", "in_proj_weight")


def test_the_users_model_and_example_are_unchanged(cut):
    assert not cut.changed


def test_slim_is_of_the_users_class_and_still_trains(cut):
    model = cut.pruned.model
    assert type(model) is type(cut.original) and model is not cut.original
    assert trainable(model) == trainable(cut.original)
    model.train()
    if cut.name not in TRAINS_OTHERWISE:
        sum(output.sum() for output in outputs(model, cut.example)).backward()
        assert any(parameter.grad is not None for parameter in model.parameters())


def test_a_wrong_cut_shows():
    micro = MICRO["plain"]
    model, example = float64(micro.make, micro.example, seed=0)
    right, wrong = (
        zeroed(micro.make, model, {"a.weight": {0: (channel,)}, "a.bias": {0: (channel,)}})
        for channel in (3, 4)
    )
    assert relative_error(outputs(wrong, example), outputs(right, example)) > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_users_model_is_kept(training):
    micro = MICRO["batch_norm"]
    model, example = float64(micro.make, micro.example, seed=0)
    model.train(training)
    before = snapshot(model, example)
    slimnet.prune(model, example, ratio=0.5, align=None)
    assert not differences(before, snapshot(model, example))


def reached(cut: Cut, expected: str) -> bool:
    """Whether the cut ended as ``expected``: "exact", "approximate" or "pinned:TEXT"."""
    certificate, smaller = cut.pruned.certificate, layer_is_smaller(cut)
    if expected == "exact":
        return smaller and certificate.exact
    if expected == "approximate":
        reasons = [group["reasons"] for group in certificate.approximate]
        return smaller and bool(reasons) and all(reasons)
    text = expected.removeprefix("pinned:")
    return not smaller and text in str(cut.pruned.inspection)


def layer_is_smaller(cut: Cut) -> bool:
    layer, after = cut.micro.layer, cut.pruned.model.state_dict()
    own = {
        name: tensor
        for name, tensor in cut.original.state_dict().items()
        if name == layer or name.startswith(f"{layer}.")
    }
    assert own, f"no tensor of {layer}"
    return any(after[name].numel() < tensor.numel() for name, tensor in own.items())


def trainable(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def snapshot(model: nn.Module, example: tuple) -> dict[str, Any]:
    """Tensors by value, plain attributes, and which attributes and hooks there are."""
    seen: dict[str, Any] = {f"state {key}": t.clone() for key, t in model.state_dict().items()}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            seen[f"attribute {prefix}.{key}"] = frozen_value(value)
    leaves = [leaf for leaf in tree_leaves(clone(example)) if isinstance(leaf, Tensor)]
    return seen | {f"example {index}": leaf for index, leaf in enumerate(leaves)}


def frozen_value(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, list | tuple) and all(isinstance(item, PLAIN) for item in value):
        return [(type(item), item) for item in value]
    if isinstance(value, dict):
        return list(value)
    return id(value)


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple]:
    return {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if not equal(before.get(key), after.get(key))
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other
