"""ShuffleNet v1 at its real widths: whatever is asked, slim equals the zeroed original."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from oracle import float64, outputs, randomise, relative_error, zeroed
from shufflenet import WIDTHS, ShuffleNet

import slimnet
from slimnet.capture.trace import capture
from slimnet.costs.cost import cost
from slimnet.coupling.couple import couple
from slimnet.criteria import load_criteria
from slimnet.errors import InputError
from slimnet.export import export_onnx, export_pt2
from slimnet.network import Network
from slimnet.plan.plan import Plan, agrees, surviving
from slimnet.plan.rebuild import rebuild
from slimnet.program.pt2 import read_pt2
from slimnet.proving import prove
from slimnet.samples import Samples

IMAGE = (torch.randn(2, 3, 16, 16),)


def network(groups: int, seed: int = 0, **options) -> ShuffleNet:
    torch.manual_seed(seed)
    model = ShuffleNet(groups, **options).eval()
    randomise(model)
    return model


def equal(found: torch.nn.Module, expected: torch.nn.Module, tolerance: float = 1e-5) -> bool:
    return relative_error(outputs(found, IMAGE), outputs(expected, IMAGE)) < tolerance


@pytest.mark.parametrize("align", ["auto", None])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("groups", WIDTHS)
def test_slim_is_the_zeroed_original(groups, ratio, align):
    make = partial(ShuffleNet, groups)
    model, example = float64(make, lambda: IMAGE, seed=0)
    pruned = slimnet.prune(model, example, ratio=ratio, align=align, best_effort=True)
    reference = zeroed(make, model, pruned.plan.removed, pruned.plan.grouped)
    assert relative_error(outputs(pruned.model, example), outputs(reference, example)) < 1e-9
    assert pruned.certificate.exact and pruned.certificate.error < 1e-9
    assert {f"units.{unit}.expand.weight" for unit in (0, 1)} <= pruned.plan.grouped.keys()
    assert set(pruned.plan.grouped.values()) == {groups}
    inner = [unit.squeeze.out_channels for unit in pruned.model.units]
    assert all(n < unit.squeeze.out_channels for n, unit in zip(inner, model.units, strict=True))


@pytest.mark.parametrize("groups", WIDTHS)
def test_two_rounds_are_one_plan_that_is_proven_again_and_saved(groups, tmp_path):
    model = network(groups)
    options = {"align": None, "best_effort": True}
    first = slimnet.prune(model, IMAGE, ratio=0.3, **options)
    second = slimnet.prune(first, ratio=0.4, **options)
    plan, _ = second.whole()
    plan = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert equal(rebuild(Network.of(model), plan), second.model)
    certificate = prove(Network.of(model), Network.of(second.model), plan, IMAGE)
    assert certificate.error < 1e-9 and not certificate.changed
    file = slimnet.save(second, tmp_path / "slim.pt")
    for into in (None, ShuffleNet(groups)):
        assert equal(slimnet.load(file, into=into), second.model)
    assert slimnet.verify(file, against=model).error < 1e-9


def test_what_was_loaded_is_cut_again():
    model = network(3)
    options = {"ratio": 0.3, "align": None, "best_effort": True}
    first = slimnet.prune(model, IMAGE, **options)
    third = slimnet.prune(slimnet.prune(first, **options), **options)
    plan, certificate = third.whole()
    assert equal(rebuild(Network.of(model), plan), third.model) and certificate.error < 1e-9


def test_the_plan_cuts_another_checkpoint_of_the_same_network():
    plan = slimnet.prune(network(3), IMAGE, ratio=0.5).plan
    other = network(3, seed=1)
    assert (
        prove(Network.of(other), Network.of(rebuild(Network.of(other), plan)), plan, IMAGE).error
        < 1e-9
    )


def test_a_plan_for_other_groups_is_refused():
    plan = slimnet.prune(network(3), IMAGE, ratio=0.5).plan
    with pytest.raises(InputError, match="the plan counts 9 groups of units"):
        rebuild(
            Network.of(network(3)),
            replace(plan, grouped={**plan.grouped, "units.0.expand.weight": 9}),
        )
    with pytest.raises(InputError, match="the plan does not fit"):
        rebuild(Network.of(network(3)), replace(plan, grouped={}))


@pytest.mark.parametrize("groups", WIDTHS)
def test_the_budget_is_met_by_what_the_network_then_costs(groups):
    model = network(groups)
    pruned = slimnet.prune(model, IMAGE, macs=0.5, best_effort=True)
    assert cost(pruned.model, IMAGE).to_json() == pruned.plan.after
    assert 0.45 < pruned.plan.after["macs"] / pruned.plan.before["macs"] <= 0.5


@pytest.mark.parametrize("criterion", load_criteria())
def test_every_criterion_chooses(criterion):
    model = network(3)
    data = Samples(torch.randn(12, 3, 16, 16), torch.arange(12) % 5)
    init = network(3, seed=1).state_dict()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, criterion=criterion, data=data, init=init)
    assert pruned.certificate.error < 1e-9 and pruned.plan.grouped


def test_repair_brings_the_outputs_nearer():
    model = network(3)
    images = torch.randn(64, 3, 16, 16)
    done = slimnet.prune(model, IMAGE, macs=0.7, repair=True, data=images).repair
    assert done.solved and done.after < done.before
    solved = [layer for layer in done.layers if layer.layer.endswith("expand.weight")]
    assert len(solved) == 4 and all(layer.after <= layer.before for layer in solved)


def test_out_of_an_exported_program_and_into_onnx(tmp_path):
    model = network(4)
    export_pt2(model, IMAGE, tmp_path / "dense.pt2")
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, best_effort=True)
    again = slimnet.prune(
        read_pt2(tmp_path / "dense.pt2").program, IMAGE, ratio=0.5, best_effort=True
    )
    assert again.plan.grouped.keys() == pruned.plan.grouped.keys()
    assert equal(again.model, pruned.model)
    export_onnx(pruned.model, IMAGE, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx")
    found = session.run(None, {session.get_inputs()[0].name: IMAGE[0].numpy()})[0]
    np.testing.assert_allclose(found, pruned.model(*IMAGE).detach().numpy(), rtol=1e-3, atol=1e-3)


def test_planned_in_steps_each_scored_on_what_is_left():
    model = network(3)
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, steps=3)
    assert pruned.certificate.error < 1e-9 and pruned.plan.grouped


def test_each_group_alone():
    curves = slimnet.sensitivity(network(3), IMAGE, points=2).curves
    widths = {curve.layers[0]: [point.channels for point in curve.points] for curve in curves}
    assert widths["units.1.squeeze"] in ([45, 18], [42, 18], [45, 15], [42, 15])


def test_a_plan_that_counts_across_groups_of_another_layer_proves_nothing():
    model = network(3)
    pruned = slimnet.prune(model, IMAGE, ratio=0.5)
    wrong = replace(pruned.plan, grouped={**pruned.plan.grouped, "head.weight": 3})
    with pytest.raises(InputError, match=r"the plan does not fit head\.weight"):
        slimnet.verify(replace(pruned, plan=wrong), against=model)
    told = {name: wrong.of(name) for name in wrong.grouped}
    coupling = couple([capture(Network.of(model), IMAGE)], removals=told)
    assert coupling.apart == pruned.plan.grouped and not agrees(coupling, wrong)
    with pytest.raises(InputError, match=r"counts input channels of head\.weight"):
        surviving(coupling, wrong)
