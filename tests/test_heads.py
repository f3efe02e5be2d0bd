"""Repair of narrower heads: logits and values as near to the original's as their width allows."""

from __future__ import annotations

import micro_attention  # noqa: F401  (fills the table)
import pytest
import torch
from micro import MICRO

import slimnet
from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.reconstruction.consumers import consumers_of
from slimnet.repairs import repair
from slimnet.repairs.heads import Mixings, head_mixings
from slimnet.samples import Samples


def made(name, **options):
    """A network, its cut, and inputs: some for a repair, others to measure on."""
    micro = MICRO[name]
    torch.manual_seed(0)
    model, example = micro.make().eval(), micro.example()
    cut = slimnet.prune(model, example, align=None, **options)
    data, fresh = torch.randn(2, 128, *example[0].shape[1:])
    return model, cut, data, fresh


def change(model, other, x):
    with torch.no_grad():
        return float((model(x) - other(x)).square().mean() / model(x).var())


@pytest.mark.parametrize(
    ("name", "times"), [("sdpa", 5), ("mha_causal", 3), ("grouped_query", 3), ("encoder_layer", 1)]
)
def test_outputs_come_nearer_than_by_the_channels_that_are_left(name, times, monkeypatch):
    model, cut, data, fresh = made(name, ratio=0.5)
    networks = Network.of(model), Network.of(cut.model)
    mixed, done = repair(*networks, cut.plan, data, refine=False)
    monkeypatch.setattr("slimnet.repairs.layers.head_mixings", lambda *_: Mixings())
    chosen, _ = repair(*networks, cut.plan, data, refine=False)
    assert times * change(model, mixed, fresh) < change(model, chosen, fresh)
    assert done.solved and change(model, mixed, fresh) < change(model, cut.model, fresh)


def test_where_inputs_do_not_err_the_start_is_what_is_wanted():
    model, cut, data, _ = made("sdpa", ratio=0.5)
    _, done = repair(Network.of(model), Network.of(cut.model), cut.plan, data)
    before = {layer.layer: layer.before for layer in done.layers}
    assert max(before[name] for name in ("q.weight", "k.weight", "v.weight")) < 1e-9
    assert before["b.weight"] < 0.1  # whose columns are mixed, too


@pytest.mark.parametrize(
    ("options", "heads"), [({"ratio": 0.5}, 4), ({"ratio": 0.5, "heads": True}, 0)]
)
def test_heads_that_leave_or_stay_whole_are_not_mixed(options, heads):
    model, cut, data, _ = made("sdpa", **options)
    network = Network.of(model)
    trace = capture(network, (data,))
    mixings = head_mixings(network, trace, consumers_of(trace), cut.plan, [Samples(data)])
    found = {name: len(rows) for name, rows in (mixings.outputs | mixings.columns).items()}
    assert found == (
        dict.fromkeys(("k.weight", "q.weight", "v.weight", "b.weight"), heads) if heads else {}
    )
