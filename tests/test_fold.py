"""A number that the code computes from a length is folded into weights: the cut stays exact."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from micro import MICRO, Net, lin
from micro_attention import SCALARS, merge_heads, split_heads
from oracle import float64, outputs, relative_error, zeroed
from torch import Tensor, nn

import slimnet
from slimnet.capture.trace import capture
from slimnet.errors import CertificateError
from slimnet.files.access import load, save, verify
from slimnet.network import Network
from slimnet.plan.compose import compose
from slimnet.plan.fold import depends_on_lengths, folds
from slimnet.plan.plan import Plan
from slimnet.proving import prove

FOLDED = (
    *("sdpa", "sdpa_mask_float", "grouped_query", "vision_fused", "mha", "mha_no_weights"),
    *("scale_root_of_shape_times_query", "scale_root_of_shape_under_scores", "attention_einsum"),
    *("encoder_layer", "query_norm_rms", "vit", "pooled_by_conv"),
    *(f"scale_{name}" for name in SCALARS),
)


def pruned(name: str, **options):
    micro = MICRO[name]
    model, example = float64(micro.make, micro.example, seed=0)
    return model, example, slimnet.prune(model, example, ratio=0.5, align=None, **options)


@pytest.mark.parametrize("name", FOLDED)
def test_half_the_width_of_heads_multiplies_by_the_root_of_a_half(name):
    _, _, result = pruned(name)
    factors = [scale.factor for scales in result.plan.scaled.values() for scale in scales]
    assert factors and all(math.isclose(factor, 0.5**0.5) for factor in factors)


@pytest.mark.parametrize("name", ["sdpa", "vision_fused"])
def test_whole_heads_need_no_fold(name):
    assert not pruned(name, heads=True)[2].plan.scaled


def test_the_slim_weights_are_the_survivors_times_the_factor():
    model, _, result = pruned("sdpa")
    kept = sorted(set(range(32)) - set(result.plan.removed["q.weight"][0]))
    torch.testing.assert_close(result.model.q.weight, model.q.weight[kept] * 0.5**0.5)
    torch.testing.assert_close(result.model.q.bias, model.q.bias[kept] * 0.5**0.5)
    assert {name.partition(".")[0] for name in result.plan.scaled} == {"q"}


def test_of_one_layer_for_all_three_only_the_queries_are_multiplied():
    model, _, result = pruned("vision_fused")
    (weight,) = result.plan.scaled["qkv.weight"]
    assert (weight.axis, weight.indices) == (0, tuple(range(32)))
    kept = [i for i in range(96) if i not in result.plan.removed["qkv.weight"][0]]
    expected = model.qkv.weight[kept].clone()
    expected[[i < 32 for i in kept]] *= 0.5**0.5
    torch.testing.assert_close(result.model.qkv.weight, expected)


def test_each_root_is_folded_once_where_there_are_two():
    factors = [
        scale.factor
        for scales in pruned("scale_fourth_root_on_both")[2].plan.scaled.values()
        for scale in scales
    ]
    assert factors and all(math.isclose(factor, 0.5**0.25) for factor in factors)


def test_a_pass_that_uses_the_same_numbers_has_nothing_to_fold():
    micro = MICRO["sdpa"]
    model, example = float64(micro.make, micro.example, seed=0)
    trace = capture(Network.of(model), example)
    found = folds(trace, capture(Network.of(model), example))
    assert depends_on_lengths(trace) and not found.scales and not found.tensors
    assert not depends_on_lengths(capture(Network.of(nn.Linear(8, 4).double()), example))


@pytest.mark.parametrize("name", ["query_rectified", "query_norm_without_weights"])
def test_what_cannot_be_folded_stays_with_the_reason(name):
    model, _, result = pruned(name)
    assert result.model.q.weight.shape == model.q.weight.shape
    reasons = [why for layer, why in result.plan.untouched if layer == "q"]
    assert "divides by the root of its length, and no weight can make up for it" in reasons[0]


def test_the_reference_is_the_original_and_not_the_folded_one():
    model, example, result = pruned("sdpa")
    reference = zeroed(MICRO["sdpa"].make, model, result.plan.removed)
    assert relative_error(outputs(result.model, example), outputs(reference, example)) < 1e-12
    without = replace(result.plan, scaled={})
    assert without != result.plan
    with torch.no_grad():
        for name, scales in result.plan.scaled.items():
            result.model.get_parameter(name).div_(scales[0].factor)
    assert relative_error(outputs(result.model, example), outputs(reference, example)) > 1e-4
    with pytest.raises(
        CertificateError, match=r"with real weights they differ at .*scaled_dot_product_attention"
    ):
        prove(Network.of(model), Network.of(result.model), without, example)


def test_single_precision_rounds_the_fold_and_the_proof_does_not_mind():
    torch.manual_seed(0)
    micro = MICRO["vision_fused"]
    model, example = micro.make().eval(), micro.example()
    assert slimnet.prune(model, example, ratio=0.5, align=None).certificate.error < 1e-12


@pytest.mark.parametrize("name", ["sdpa", "vision_fused", "vit"])
def test_a_plan_with_folds_survives_json(name):
    plan = pruned(name)[2].plan
    assert plan.scaled and Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_of_before_there_were_folds_is_still_read():
    data = pruned("sdpa")[2].plan.to_json()
    del data["scaled"]
    assert Plan.from_json(data).scaled == {}


class Attention(nn.Module):
    """A stream, heads whose width the shape gives, and a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv = nn.Linear(8, 48), nn.Linear(48, 192)
        self.o, self.b = nn.Linear(64, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        q, k, v = (split_heads(part, 4) for part in self.qkv(y).chunk(3, -1))
        return self.b(y + self.o(merge_heads(F.scaled_dot_product_attention(q, k, v))))


EXAMPLE = (torch.randn(2, 7, 8, generator=torch.manual_seed(1)),)


def attention() -> Attention:
    torch.manual_seed(0)
    return Attention().eval()


def test_two_cuts_in_a_row_are_one_cut_of_the_dense_network():
    dense = attention()
    first = slimnet.prune(dense, EXAMPLE, ratio=0.25, align=None)
    second = slimnet.prune(first.model, EXAMPLE, ratio=0.5, align=None, criterion="random")
    both = compose(first.plan, second.plan, Network.of(dense).shapes)
    total = math.prod(scale.factor for scale in both.scaled["qkv.weight"])
    assert math.isclose(total, (6 / 16) ** 0.5)
    assert prove(Network.of(dense), Network.of(second.model), both, EXAMPLE).exact


def test_a_saved_network_with_folds_is_proven_from_its_file(tmp_path):
    dense = attention()
    path = save(slimnet.prune(dense, EXAMPLE, ratio=0.5, align=None), tmp_path / "slim.pt")
    assert verify(path, dense).exact
    slim = load(path, into=attention())
    assert torch.equal(slim(*EXAMPLE), load(path)(*EXAMPLE))


def test_of_a_trained_network_with_folds_the_structure_is_proven(tmp_path):
    dense = attention()
    result = slimnet.prune(dense, EXAMPLE, ratio=0.5, align=None)
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    path = save(result, tmp_path / "slim.pt", trained=True)
    assert [check.weights for check in verify(path, dense).checks] == ["random"]
    with pytest.raises(CertificateError):
        verify(save(result, tmp_path / "claims.pt"), dense)


def test_a_cut_of_whole_heads_is_proven_from_its_file(tmp_path):
    dense = attention()
    result = slimnet.prune(dense, EXAMPLE, ratio=0.5, align=None, heads=True)
    assert verify(save(result, tmp_path / "slim.pt"), dense).exact


def test_an_attention_without_a_scale_of_its_own_is_folded_or_stays():
    def body(m: Net, x: Tensor) -> Tensor:
        return m.b(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x), scale=m.scale))

    parts = {name: lin(8, 32) for name in "qkv"} | {"b": lin(32, 5)}
    for scale, folded in ((None, True), (0.3, False)):
        model = Net(body, parts | {"scale": scale}).eval()
        result = slimnet.prune(model, EXAMPLE, ratio=0.5, align=None)
        assert bool(result.plan.scaled) == folded and result.model.q.out_features == 16


def test_a_module_that_runs_twice_is_multiplied_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.inner, self.b = (
                nn.Linear(8, 32),
                Net(self.attend, SHARED),
                nn.Linear(32, 5),
            )

        @staticmethod
        def attend(m: Net, x: Tensor) -> Tensor:
            q, k, v = (split_heads(layer(x), 4) for layer in (m.q, m.k, m.v))
            return m.o(merge_heads(F.scaled_dot_product_attention(q, k, v)))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.inner(self.inner(self.a(x))))

    torch.manual_seed(0)
    result = slimnet.prune(Twice().eval(), EXAMPLE, ratio=0.5, align=None)
    assert result.certificate.exact
    assert {name: len(scales) for name, scales in result.plan.scaled.items()} == {
        "inner.q.weight": 1,
        "inner.q.bias": 1,
    }
    for scales in result.plan.scaled.values():
        assert math.isclose(scales[0].factor, 0.5**0.5)


SHARED = {name: lin(32, 32) for name in "qkvo"}


def test_a_number_that_multiplies_twice_is_folded_twice():
    def body(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split_heads(layer(x), 4) for layer in (m.q, m.k, m.v))
        for _ in range(2):
            q = q * q.shape[-1] ** -0.25
        return m.b(merge_heads((q @ k.mT).softmax(-1) @ v))

    torch.manual_seed(0)
    parts = {name: lin(8, 32) for name in "qkv"} | {"b": lin(32, 5)}
    result = slimnet.prune(Net(body, parts).eval(), EXAMPLE, ratio=0.5, align=None)
    assert result.model.q.out_features == 16 and result.certificate.exact
    factors = [scale.factor for scale in result.plan.scaled["q.weight"]]
    assert len(factors) == 2 and math.isclose(math.prod(factors), 0.5**0.5)


def test_a_cut_that_is_folded_and_cut_again_is_folded_by_both():
    """Each cut multiplies by its own ratio: two in a row are the ratio of both."""
    dense = attention()
    first = slimnet.prune(dense, EXAMPLE, ratio=0.25, align=None)
    again = slimnet.prune(first.model, EXAMPLE, ratio=0.5, align=None)
    kept = [i for i in range(64) if i not in first.plan.removed["qkv.weight"][0]]
    kept = [i for n, i in enumerate(kept) if n not in again.plan.removed["qkv.weight"][0]]
    expected = dense.qkv.bias.detach()[kept] * (len(kept) / 64) ** 0.5
    torch.testing.assert_close(again.model.qkv.bias[: len(kept)], expected)
    assert again.certificate.exact


@pytest.mark.parametrize(
    "number",
    [
        lambda d: torch.sqrt(torch.tensor(d, dtype=torch.float)),
        lambda d: torch.tensor(math.sqrt(d)),
        lambda d: torch.tensor(d) ** 0.5,
        lambda d: torch.sqrt(torch.FloatTensor([d])),
        lambda d: torch.full((1,), d * 1.0).sqrt(),
    ],
)
def test_numbers_in_tensors_of_single_precision_are_proven(number):
    def body(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split_heads(layer(x), 4) for layer in (m.q, m.k, m.v))
        return m.b(merge_heads((q @ k.mT / number(q.size(-1))).softmax(-1) @ v))

    parts = {name: lin(8, 32) for name in "qkv"} | {"b": lin(32, 5)}
    result = slimnet.prune(Net(body, parts).eval(), EXAMPLE, ratio=0.5, align=None)
    assert result.model.q.out_features == 16 and result.certificate.exact
    (scale,) = result.plan.scaled["q.bias"]
    assert math.isclose(scale.factor, 0.5**0.5, rel_tol=1e-6)


def test_a_number_that_an_input_or_a_weight_decides_is_not_folded():
    def body(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split_heads(layer(x), 4) for layer in (m.q, m.k, m.v))
        return m.b(merge_heads((q @ k.mT * m.s / x.abs().mean()).softmax(-1) @ v))

    parts = {name: lin(8, 32) for name in "qkv"} | {"b": lin(32, 5)}
    model = Net(body, parts | {"s": partial(lambda: nn.Parameter(torch.tensor(0.3)))}).eval()
    result = slimnet.prune(model, EXAMPLE, ratio=0.5, align=None)
    assert result.model.q.out_features == 16 and not result.plan.scaled


def test_a_number_that_is_drawn_is_not_folded():
    def body(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split_heads(layer(x), 4) for layer in (m.q, m.k, m.v))
        return m.b(merge_heads((q @ k.mT * torch.rand(())).softmax(-1) @ v))

    parts = {name: lin(8, 32) for name in "qkv"} | {"b": lin(32, 5)}
    model, example = Net(body, parts).eval(), (torch.randn(2, 6, 8),)
    result = slimnet.prune(model, example, ratio=0.5, align=None)
    assert result.model.q.out_features == 16 and not result.plan.scaled
