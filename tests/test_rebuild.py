"""One loop cuts every tensor; the modules' own bookkeeping follows."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from micro import Net, bn, conv
from torch import nn

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.plan import AttributeChange, Plan
from slimnet.plan.rebuild import cut, rebuild, zero_removed

IMAGE = torch.randn(2, 3, 8, 8)
PLAN = Plan(
    removed={
        "a.weight": {0: (1, 5)},
        "a.bias": {0: (1, 5)},
        "n.weight": {0: (1, 5)},
        "n.bias": {0: (1, 5)},
        "n.running_mean": {0: (1, 5)},
        "n.running_var": {0: (1, 5)},
        "b.weight": {1: (1, 5)},
    }
)


def network():
    torch.manual_seed(0)
    parts = {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4)}
    return Net(lambda m, x: m.b(m.n(m.a(x))), parts).eval()


def test_every_tensor_is_indexed_by_what_survives():
    model = network()
    slim = rebuild(Network.of(model), PLAN)
    kept = [k for k in range(16) if k not in (1, 5)]
    assert torch.equal(slim.a.weight, model.a.weight[kept])
    assert torch.equal(slim.n.running_mean, model.n.running_mean[kept])
    assert torch.equal(slim.b.weight, model.b.weight[:, kept])
    assert torch.equal(slim.b.bias, model.b.bias)
    assert (slim.a.out_channels, slim.n.num_features, slim.b.in_channels) == (14, 14, 14)
    assert (slim.a.in_channels, slim.b.out_channels) == (3, 4)


def test_the_network_it_was_cut_from_stays_as_it_is():
    model = network()
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    slim = rebuild(Network.of(model), PLAN)
    with torch.no_grad():
        for tensor in slim.state_dict(keep_vars=True).values():
            tensor.zero_()
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0] and torch.equal(tensor, before[name][1]), name
    assert model.a.out_channels == 16


def test_an_empty_plan_is_a_copy():
    model = network()
    copied = rebuild(Network.of(model), Plan({}))
    assert torch.equal(copied(IMAGE), model(IMAGE))
    assert copied.a.weight.data_ptr() != model.a.weight.data_ptr()


def test_the_slim_network_owns_its_tensors_and_can_be_trained():
    slim = rebuild(Network.of(network()), PLAN).train()
    slim(IMAGE).sum().backward()
    assert all(p.grad is not None and p.is_leaf for p in slim.parameters())


def test_grad_flags_and_memory_format_and_dtype_are_kept():
    model = network().to(memory_format=torch.channels_last).to(torch.bfloat16)
    model.b.weight.requires_grad_(False)
    slim = rebuild(Network.of(model), PLAN)
    assert slim.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert slim.a.weight.dtype == torch.bfloat16
    assert not slim.b.weight.requires_grad and slim.a.weight.requires_grad


def test_gradients_are_not_carried_over():
    model = network().train()
    model(IMAGE).sum().backward()
    assert rebuild(Network.of(model), PLAN).a.weight.grad is None


# module, what is removed of it, and what its attributes say afterwards
BOOKS = {
    "Conv2d": (
        partial(nn.Conv2d, 8, 12, 3),
        {"weight": {0: (0,), 1: (2, 3)}, "bias": {0: (0,)}},
        {"out_channels": 11, "in_channels": 6, "groups": 1},
    ),
    "Conv1d": (
        partial(nn.Conv1d, 8, 12, 3),
        {"weight": {0: (0,), 1: (2, 3)}},
        {"out_channels": 11, "in_channels": 6},
    ),
    "grouped": (
        partial(nn.Conv2d, 8, 12, 3, groups=2),
        {"weight": {0: (0, 6), 1: (1,)}},
        {"out_channels": 10, "in_channels": 6, "groups": 2},
    ),
    "ConvTranspose2d": (
        partial(nn.ConvTranspose2d, 8, 12, 2),
        {"weight": {0: (0,), 1: (2, 3)}},
        {"in_channels": 7, "out_channels": 10},
    ),
    "Linear": (
        partial(nn.Linear, 8, 12),
        {"weight": {0: (0,), 1: (2, 3)}},
        {"out_features": 11, "in_features": 6},
    ),
    "BatchNorm2d": (
        partial(nn.BatchNorm2d, 8),
        {"weight": {0: (1,)}, "running_mean": {0: (1,)}},
        {"num_features": 7},
    ),
    "BatchNorm2d without statistics": (
        partial(nn.BatchNorm2d, 8, track_running_stats=False),
        {"weight": {0: (1,)}},
        {"num_features": 7},
    ),
    "LayerNorm": (partial(nn.LayerNorm, 8), {"weight": {0: (1,)}}, {"normalized_shape": (7,)}),
    "GroupNorm": (
        partial(nn.GroupNorm, 2, 8),
        {"weight": {0: (1, 5)}},
        {"num_channels": 6, "num_groups": 2},
    ),
    "Bilinear": (
        partial(nn.Bilinear, 4, 5, 8),
        {"weight": {0: (1,), 2: (0, 1)}},
        {"out_features": 7, "in1_features": 4, "in2_features": 3},
    ),
    "PReLU": (partial(nn.PReLU, 8), {"weight": {0: (1,)}}, {"num_parameters": 7}),
    "LSTM": (
        partial(nn.LSTM, 6, 8, proj_size=4),
        {
            "weight_ih_l0": {0: (1, 9, 17, 25), 1: (0,)},
            "weight_hh_l0": {0: (1, 9, 17, 25), 1: (2,)},
            "weight_hr_l0": {0: (2,), 1: (1,)},
        },
        {"input_size": 5, "hidden_size": 7, "proj_size": 3},
    ),
    "GRUCell": (
        partial(nn.GRUCell, 6, 8),
        {"weight_ih": {0: (1, 9, 17), 1: (0,)}, "weight_hh": {0: (1, 9, 17), 1: (1,)}},
        {"input_size": 5, "hidden_size": 7},
    ),
    "Embedding": (
        partial(nn.Embedding, 9, 8),
        {"weight": {1: (1,)}},
        {"embedding_dim": 7, "num_embeddings": 9},
    ),
}


@pytest.mark.parametrize(("make", "removed", "attributes"), BOOKS.values(), ids=BOOKS)
def test_a_modules_attributes_say_its_new_sizes(make, removed, attributes):
    model = nn.Sequential(make())
    slim = rebuild(Network.of(model), Plan({f"0.{name}": axes for name, axes in removed.items()}))[
        0
    ]
    assert {name: getattr(slim, name) for name in attributes} == attributes
    assert eval(repr(slim), {"__builtins__": {}, **vars(nn), "True": True, "False": False})


def test_changes_of_a_plan_are_made_on_the_slim_network_only():
    model = network()
    model.sizes = [3, (16, 16)]
    slim = rebuild(
        Network.of(model), Plan({}, changes=(AttributeChange("", "sizes", (1, 0), 16, 14),))
    )
    assert slim.sizes == [3, (14, 16)] and model.sizes == [3, (16, 16)]


def test_index_buffers_point_to_the_new_places():
    model = network()
    model.register_buffer("order", torch.tensor([3, 0, 2, 1]))
    plan = Plan({"order": {0: (1,)}}, remapped={"order": (0, 0, 1, 2)})
    assert rebuild(Network.of(model), plan).order.tolist() == [2, 1, 0]


def test_a_plan_for_another_network_is_refused():
    model = network()
    with pytest.raises(InputError) as refusal:
        rebuild(Network.of(model), Plan({"fc.weight": {0: (1,)}}))
    assert str(refusal.value) == "the plan cuts fc.weight, which this network does not have"
    for axes in ({0: (16,)}, {4: (0,)}):
        with pytest.raises(InputError) as refusal:
            rebuild(Network.of(model), Plan({"a.weight": axes}))
        assert str(refusal.value) == "the plan does not fit a.weight of shape (16, 3, 3, 3)"


def test_the_zeroed_tensor_is_the_cut_one_with_zeros_where_it_was_cut():
    tensor = torch.randn(6, 5)
    plan = Plan({"w": {0: (1, 4), 1: (0,)}})
    zeroed, small = zero_removed("w", tensor.clone(), plan), cut("w", tensor, plan)
    assert zeroed.shape == tensor.shape and small.shape == (4, 4)
    assert torch.equal(zeroed[[0, 2, 3, 5]][:, 1:], small)
    assert zeroed[[1, 4]].abs().max() == 0 and zeroed[:, 0].abs().max() == 0
    assert torch.equal(zero_removed("other", tensor.clone(), plan), tensor)
    assert cut("other", tensor, plan).data_ptr() != tensor.data_ptr()
