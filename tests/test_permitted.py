"""The operators that a program may hold: held to the rules, and to what breaks memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimnet.operator import OPERATORS, Double
from slimnet.program.permitted import EXCEPT, PERMITTED, refusal, trouble

aten = torch.ops.aten
INSIDE = {
    *("_batch_norm_no_update", "_batch_norm_with_update", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_functional", "cudnn_batch_norm", "miopen_batch_norm"),
    *("_reshape_alias", "as_strided_", "empty_strided", "new_empty_strided"),
    *("_pack_padded_sequence", "_pad_packed_sequence", "_fused_moving_avg_obs_fq_helper"),
    *("_fake_quantize_learnable_per_channel_affine", "_fake_quantize_learnable_per_tensor_affine"),
    *("_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", "convolution_overrideable"),
    *("glu_jvp", "lift", "_unsafe_index", "_unsafe_index_put", "_index_put_impl_"),
    *("index_reduce", "index_reduce_", "mode", "normal", "exponential_", "cauchy_"),
    *("log_normal_", "geometric_", "random_"),
}
"""Operators with a rule that no program may hold: a pass meets them, an export does not."""


def overloads(packet):
    found = getattr(aten, packet, None)
    return [getattr(found, name) for name in found.overloads()] if found else []


def test_every_operator_with_a_rule_is_permitted_or_its_reason_stands_in_its_record():
    ruled = {name.split(".")[1] for name in OPERATORS if "." in name}
    refused = {
        packet for packet in ruled if overloads(packet) and all(map(refusal, overloads(packet)))
    }
    assert refused >= INSIDE & ruled
    silent = {
        packet
        for packet in refused
        for name in OPERATORS
        if name.split(".")[1:2] == [packet] and not isinstance(OPERATORS[name].permitted, str)
    }
    assert silent == set()


def test_what_is_permitted_exists():
    assert [name for name in PERMITTED if not overloads(name)] == []
    for name in EXCEPT:
        packet, overload = name.split(".")
        assert refusal(getattr(getattr(aten, packet), overload)) == EXCEPT[name]


def test_what_may_hold_whatever_lay_in_memory_is_known():
    undefined = {name for name in OPERATORS if OPERATORS[name].double is Double.ZEROS}
    assert {"aten.empty.memory_format", "aten.empty_like.default"} <= undefined
    assert {"aten.new_empty.default", "aten.new_empty_strided.default"} <= undefined


@pytest.mark.parametrize(
    "op",
    [
        aten._reshape_alias.default,
        aten._reshape_alias_copy.default,
        aten.as_strided.default,
        aten.as_strided_copy.default,
        aten.as_strided_scatter.default,
        aten.max_pool2d_with_indices_backward.default,
        aten.set_.source_Tensor,
        aten.resize_.default,
        aten._resize_output.default,
        aten.from_file.default,
        aten._unsafe_index.Tensor,
        aten._unsafe_index_put.default,
        aten._unsafe_masked_index.default,
        aten.empty_strided.default,
        aten.empty_permuted.default,
        aten._empty_affine_quantized.default,
        aten._foreach_add.Scalar,
        aten._fused_sgd_.default,
        aten._make_per_tensor_quantized_tensor.default,
        aten.embedding_dense_backward.default,
        aten.view.dtype,
        aten.add.out,
        aten.zeros.out,
        aten.repeat_interleave.Tensor,
    ],
    ids=str,
)
def test_what_trusts_its_arguments_is_refused(op):
    assert refusal(op)


@pytest.mark.parametrize(
    "op",
    [
        *(aten.conv2d.default, aten.batch_norm.default, aten.relu_.default, aten.add_.Tensor),
        *(aten.linear.default, aten.scaled_dot_product_attention.default, aten.gelu.default),
        *(aten.index.Tensor, aten.dropout_.default, aten.index_put_.default, aten.topk.default),
    ],
    ids=str,
)
def test_what_networks_are_made_of_is_permitted(op):
    assert refusal(op) is None


C = 4
X = torch.randn(2, C, 6, 6)
V = torch.rand(C)
S, H = torch.randn(2, 5, 3), torch.randn(1, 2, 4)
LSTM = [weight.detach() for weight in torch.nn.LSTM(3, 4).parameters()]
GRU = [weight.detach() for weight in torch.nn.GRU(3, 4, bias=False).parameters()]


def test_a_slice_may_end_anywhere_and_a_value_be_any():
    assert trouble(aten.slice.Tensor, (X, 0, 0, 2**63 - 1), {}) is None
    assert trouble(aten.full.default, ([2], 2**40), {}) is None
    assert trouble(aten.sum.dim_IntList, (X, [1]), {}) is None
    assert trouble(aten.conv2d.default, (X, X, None, [1, 1]), {"padding": [2**20, 0]})


@pytest.mark.parametrize(
    ("op", "good", "bad"),
    [
        (
            aten._native_batch_norm_legit_no_training.default,
            (X, V, V, V, V, 0.1, 1e-5),
            (X, V, V, V, V[:0], 0.1, 1e-5),
        ),
        (aten.native_batch_norm.default, (X, V, V, V, V, False), (X, V[:1], V, V, V, False)),
        (aten._weight_norm.default, (X, X[:, :1, :1, :1], 0), (X, V, 0)),
        (aten._weight_norm_interface.default, (X, X[:, :1, :1, :1].contiguous()), (X, V)),
        (
            aten._upsample_bilinear2d_aa.default,
            (X, [12, 12], False, 2.0, 2.0),
            (X, [12, 12], False, 2.0, 1.0),
        ),
        (
            aten.col2im.default,
            (X.view(2, 36, 4), [6, 6], [3, 3], [1, 1], [0, 0], [3, 3]),
            (X.view(2, 36, 4), [6, 6], [3, 3], [1, 1], [0, 2**31], [1, 1]),
        ),
        (aten.roll.default, (X, [1], [1]), (X, [2**40], [1])),
        (aten.roll.default, (X, [1], [1]), (X, [1], [torch.tensor(7)])),
        (aten._weight_norm.default, (X, X[:, :1, :1, :1], 0), (X, X[:, :1, :1, :1], V)),
        (
            aten._weight_norm_interface.default,
            (X, X[:, :1, :1, :1].contiguous()),
            (X, V[:1].view(1, 1, 1, 1).expand(2, 1, 1, 1)),
        ),
        (
            aten.scaled_dot_product_attention.default,
            (X, X, X),
            (X, X[:, :, :1], X),
        ),
        (
            aten.lstm.input,
            (S, [H, H], LSTM, True, 1, 0.0, False, False, True),
            (S, [H, H], LSTM, True, 1, 0.0, False, True, True),
        ),
        (
            aten.gru.input,
            (S, H, GRU, False, 1, 0.0, False, False, True),
            (S, H, [GRU[0], GRU[1][:1]], False, 1, 0.0, False, False, True),
        ),
        (aten.upsample_nearest2d.default, (X, [12, 12], None, None), (X, [12, 12], -1.0, 2.0)),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_what_a_kernel_does_not_look_at_is_looked_at_first(op, good, bad):
    assert trouble(op, good, {}) is None
    assert trouble(op, bad, {})
    names = [argument.name for argument in op._schema.arguments[1:]]
    for args, wrong in ((good, False), (bad, True)):  # the same by name
        assert bool(trouble(op, args[:1], dict(zip(names, args[1:], strict=False)))) == wrong


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}])
def test_what_recurrent_layers_are_called_with_passes(kind, options):
    layer, seen = kind(3, 4, batch_first=True, **options).eval(), []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op._schema.name in ("aten::lstm", "aten::gru", "aten::rnn_tanh"):
                seen.append(trouble(op, args, kwargs or {}))
            return op(*args, **(kwargs or {}))

    with torch.inference_mode(), Seen():
        layer(S.clone())
    assert seen == [None]


def test_a_projection_passes():
    layer = nn.LSTM(3, 8, proj_size=4, bidirectional=True, num_layers=2)
    weights, states = [w.detach() for w in layer.parameters()], (4, 5)
    call = (S, [torch.zeros(*states, 4), torch.zeros(*states, 8)], weights)
    assert trouble(aten.lstm.input, (*call, True, 2, 0.0, False, True, False), {}) is None
