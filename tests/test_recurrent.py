"""Recurrent layers: the same units leave every gate, layer and direction, and all else follows."""

from __future__ import annotations

import copy
from functools import partial

import onnx
import pytest
import torch
from micro import MICRO, Net, lin
from oracle import float64
from torch import nn

import slimnet
from slimnet.costs.cost import cost
from slimnet.network import Network

STEPS = (torch.randn(2, 6, 8),)
KINDS = {"LSTM": (nn.LSTM, 4), "GRU": (nn.GRU, 3), "RNN": (nn.RNN, 1)}


def network(kind: type[nn.Module], width: int = 32, **options) -> Net:
    """A recurrent layer between two linears, which reads whole sequences."""
    layer = partial(kind, 16, 32, batch_first=True, **options)
    torch.manual_seed(0)
    parts = {"a": lin(8, 16), "r": layer, "b": lin(width, 5)}
    return Net(lambda m, x: m.b(m.r(m.a(x).relu())[0]), parts).eval()


def halved(model: nn.Module, example: tuple = STEPS) -> slimnet.Pruned:
    return slimnet.prune(model, example, ratio=0.5, align=None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_units_leave_every_gate_layer_and_direction(kind):
    make, gates = KINDS[kind]
    removed = halved(network(make, 64, num_layers=2, bidirectional=True)).plan.removed
    units = removed["r.weight_hh_l0"][1]
    assert len(units) == 16
    every_gate = tuple(gate * 32 + unit for gate in range(gates) for unit in units)
    for place in ("l0", "l0_reverse", "l1", "l1_reverse"):
        assert removed[f"r.weight_ih_{place}"][0] == every_gate
        assert removed[f"r.weight_hh_{place}"] == {0: every_gate, 1: units}
        assert removed[f"r.bias_ih_{place}"] == removed[f"r.bias_hh_{place}"] == {0: every_gate}
    both_ways = (*units, *(32 + unit for unit in units))
    assert removed["r.weight_ih_l1"][1] == removed["b.weight"][1] == both_ways
    assert removed["r.weight_ih_l0"][1] == removed["a.bias"][0]


def test_a_projection_and_its_units_leave_apart():
    pruned = halved(network(nn.LSTM, 24, num_layers=2, proj_size=24))
    removed, layer = pruned.plan.removed, pruned.model.r
    assert removed["r.weight_hr_l0"] == {
        0: removed["r.weight_hh_l1"][1],
        1: tuple(unit for unit in removed["r.weight_ih_l0"][0] if unit < 32),
    }
    assert (layer.input_size, layer.hidden_size, layer.proj_size) == (8, 16, 12)
    assert [tuple(weight.shape) for weight in layer.all_weights[1]] == [
        *((64, 12), (64, 12), (64,), (64,), (12, 16))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_reported_are_units_and_not_the_rows_of_the_gates(kind):
    inspection = slimnet.inspect(network(KINDS[kind][0], 64, bidirectional=True), STEPS)
    (layer,) = (row for row in inspection.layers if row.name == "r")
    assert (layer.kind, layer.channels, layer.prunable) == (kind, 32, 32)
    (group,) = (group for group in inspection.groups if group.layers == ("r",))
    assert (group.width, group.size, group.channels_per_atom) == (32, 32, 1)


def test_units_are_rounded_to_what_runtimes_like():
    slim = slimnet.prune(network(nn.LSTM), STEPS, ratio=0.4).model
    assert slim.r.hidden_size == 20  # of 32: a multiple of 4


def test_each_step_costs_every_weight_once():
    model = network(nn.LSTM, 64, num_layers=2, bidirectional=True)
    weights = sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    assert cost(model, STEPS).macs == 2 * 6 * weights
    pruned = halved(model)
    assert pruned.plan.after["macs"] == cost(pruned.model, STEPS).macs


def test_packed_sequences_cost_their_own_steps_only():
    micro = MICRO["lstm_packed"]
    model, example = float64(micro.make, micro.example, seed=0)
    layers = 2 * 7 * 8 * 12 + (3 + 7) * (12 + 16) * 64 + 2 * 7 * 16 * 5
    assert cost(model, example).macs == layers


@pytest.mark.parametrize("kind", KINDS)
def test_the_slim_network_is_an_ordinary_module(kind):
    slim = halved(network(KINDS[kind][0], 64, bidirectional=True)).model
    before = slim(*STEPS)
    twin = copy.deepcopy(slim)
    twin.load_state_dict(slim.state_dict())
    assert torch.equal(twin(*STEPS), before)
    assert all(ours is theirs for ours, theirs in zip(own(slim), slim.r._flat_weights, strict=True))
    assert slim.double()(STEPS[0].double()).dtype == torch.float64


def own(model: nn.Module) -> list[nn.Parameter]:
    return [model.r._parameters[name] for name in model.r._flat_weights_names]


def test_the_slim_network_learns_and_the_original_stays():
    model = network(nn.GRU)
    kept = copy.deepcopy(model.state_dict())
    slim = halved(model).model.train()
    optimiser = torch.optim.SGD(slim.parameters(), 0.1)
    losses = []
    for _ in range(5):
        loss = slim(*STEPS).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_it_back_with_and_without_its_class(kind, tmp_path):
    model = network(KINDS[kind][0], 64, num_layers=2, bidirectional=True)
    pruned = halved(model)
    slimnet.save(pruned, tmp_path / "slim.pt")
    expected = pruned.model(*STEPS)
    assert torch.equal(slimnet.load(tmp_path / "slim.pt")(*STEPS), expected)
    filled = slimnet.load(tmp_path / "slim.pt", into=model)
    assert torch.equal(filled(*STEPS), expected) and filled.r.hidden_size == 16
    assert slimnet.verify(pruned, model).exact


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_onnx_file_holds_one_slim_recurrent_operator_per_layer(kind, tmp_path):
    slim = halved(network(KINDS[kind][0], 64, num_layers=2, bidirectional=True)).model
    record = slimnet.export_onnx(slim, STEPS, tmp_path / "slim.onnx")
    assert record.dynamic_batch and record.parity.error < 1e-5
    nodes = [n for n in onnx.load(tmp_path / "slim.onnx").graph.node if n.op_type == kind]
    sizes = [a.i for node in nodes for a in node.attribute if a.name == "hidden_size"]
    assert sizes == [16, 16]


def test_an_initial_state_of_fixed_length_keeps_the_units_and_the_rest_goes():
    model = network(nn.GRU)
    model.body = lambda m, x: m.b(m.r(m.a(x).relu(), torch.zeros(1, 2, 32))[0])
    pruned = halved(model)
    assert (pruned.model.r.input_size, pruned.model.r.hidden_size) == (8, 32)
    (layer,) = (row for row in pruned.inspection.layers if row.name == "r")
    assert layer.prunable == 0
    assert layer.reasons[0].startswith("aten.gru starts from a state of fixed length (")


def test_steps_stay_though_a_layer_makes_them():
    model = network(nn.LSTM)
    model.steps = nn.Linear(6, 24)
    model.body = lambda m, x: m.b(m.r(m.steps(m.a(x).mT).mT)[0])
    pruned = halved(model)
    (layer,) = (row for row in pruned.inspection.layers if row.name == "steps")
    assert layer.prunable == 0 and layer.reasons[0].startswith("aten.lstm steps along it (")
    assert pruned.model.r.hidden_size == 16


def test_weights_that_are_buffers_keep_what_they_would_not_leave_zero():
    model = network(nn.LSTM)
    weight = model.r.weight_hh_l0.detach()
    del model.r.weight_hh_l0
    model.r.register_buffer("weight_hh_l0", weight)
    model.r._init_flat_weights()
    (layer,) = (row for row in slimnet.inspect(model, STEPS).layers if row.name == "r")
    assert layer.prunable == 0
    assert layer.reasons[0].startswith("aten.lstm sums over slots that are not zero when removed")


def test_a_program_without_its_class_is_cut_by_units_too(tmp_path):
    slimnet.save(halved(network(nn.LSTM, 24, proj_size=24)), tmp_path / "slim.pt")
    again = halved(slimnet.load(tmp_path / "slim.pt"))
    assert again.certificate.exact
    rows = {(row.name, row.channels, row.prunable) for row in again.inspection.layers}
    assert {("r", 16, 16), ("r", 12, 12)} <= rows
    shapes = {name: tuple(tensor.shape) for name, tensor in Network.of(again.model).tensors.items()}
    assert shapes["r.weight_hh_l0"] == (32, 6)
