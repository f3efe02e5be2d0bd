"""The whole way, as a user walks it: what comes back, what is refused, what a person reads.

``SLIMNET_GOLDEN=1 pytest tests/test_prune.py -k golden`` writes the golden files anew.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from micro import MICRO, Net, bn, conv, lin
from torch import nn

import slimnet
from slimnet.criteria import load_criteria
from slimnet.errors import CaptureError, InputError, PruneError, UnknownNameError
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.program.pt2 import read_pt2
from slimnet.proving import prove

IMAGE = (torch.randn(2, 3, 8, 8),)
GOLDEN = Path(__file__).with_name("golden")


def network(body=lambda m, x: m.b(m.n(m.a(x)).relu()), **parts):
    torch.manual_seed(0)
    return Net(body, {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4), **parts})


def state(model):
    held = {
        name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()
    }
    return held, [(name, module.training) for name, module in model.named_modules()]


def assert_untouched(model, before):
    held, modes = state(model)
    assert modes == before[1] and held.keys() == before[0].keys()
    for name, (identity, value) in before[0].items():
        assert held[name][0] == identity and torch.equal(held[name][1], value), name


# ---------------------------------------------------------------------------------- what comes back


def test_a_slim_network_of_the_users_class_with_its_plan_and_certificate():
    model = network()
    before = state(model)
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    assert type(pruned.model) is Net and pruned.model is not model
    assert pruned.model.a.out_channels == pruned.model.n.num_features == 8
    assert pruned.certificate.exact and pruned.certificate.error < 1e-9
    assert pruned.plan.after["params"] == sum(p.numel() for p in pruned.model.parameters())
    assert_untouched(model, before)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"ratio": 0.5, "scope": "global"},
        {"macs": 0.5, "criterion": "bn-scale"},
        {"params": 0.7, "criterion": "random", "seed": 3},
        {"ratio": 0.9, "min_channels": 4, "best_effort": True},
    ],
)
def test_the_users_model_is_never_changed(options):
    model = network().train()
    before = state(model)
    slimnet.prune(model, IMAGE, **options)
    assert_untouched(model, before)


def test_a_failed_prune_changes_nothing_either():
    model = network().train()
    before = state(model)
    with pytest.raises(PruneError):
        slimnet.prune(model, IMAGE, ratio=0.99)
    assert_untouched(model, before)


def test_inspect_changes_nothing():
    model = network().train()
    before = state(model)
    inspection = slimnet.inspect(model, IMAGE)
    assert [layer.name for layer in inspection.layers] == ["a", "b"]
    assert_untouched(model, before)


def test_the_lowest_scores_go():
    model = network()
    with torch.no_grad():
        model.a.weight[[2, 7, 11]] *= 1e-3
    plan = slimnet.prune(model, IMAGE, ratio=3 / 16, align=None).plan
    assert plan.removed["a.weight"] == {0: (2, 7, 11)}


def test_the_same_seed_gives_the_same_cut():
    options = {"ratio": 0.5, "criterion": "random", "align": None}
    first, again, other = (
        slimnet.prune(network(), IMAGE, seed=seed, **options) for seed in (1, 1, 2)
    )
    assert first.plan == again.plan and first.certificate == again.certificate
    assert first.plan.removed != other.plan.removed
    pairs = zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_the_global_generator_is_left_alone():
    model = network(head=lin(4, 2))  # an unused layer: the training pass is looked at, too
    before = torch.get_rng_state()
    slimnet.prune(model, IMAGE, ratio=0.5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_slim_network_can_be_pruned_again():
    once = slimnet.prune(network(), IMAGE, ratio=0.5, align=None).model
    twice = slimnet.prune(once, IMAGE, ratio=0.5, align=None, min_channels=4)
    assert twice.model.a.out_channels == 4


def test_a_cut_can_be_proven_again_and_by_its_structure_once_it_is_trained():
    model = network().eval()
    pruned = slimnet.prune(model, IMAGE, ratio=0.5, verify=False)
    slim = pruned.model
    certificate = prove(Network.of(model), Network.of(slim), pruned.plan, IMAGE)
    assert [check.weights for check in certificate.checks] == ["real", "random"]
    with torch.no_grad():
        slim.a.weight += 1.0
    with pytest.raises(slimnet.CertificateError, match="with real weights"):
        prove(Network.of(model), Network.of(slim), pruned.plan, IMAGE)
    certificate = prove(Network.of(model), Network.of(slim), pruned.plan, IMAGE, trained=True)
    assert [check.weights for check in certificate.checks] == ["random"]
    slim.b.stride = (2, 2)
    with pytest.raises(slimnet.CertificateError, match="with random weights"):
        prove(Network.of(model), Network.of(slim), pruned.plan, IMAGE, trained=True)


def test_a_ratio_of_nothing_is_a_certified_copy():
    model = network().eval()
    pruned = slimnet.prune(model, IMAGE, ratio=0.0)
    assert not pruned.plan.removed and pruned.certificate.error == 0
    assert torch.equal(pruned.model(*IMAGE), model(*IMAGE))


def test_what_the_options_name_is_kept_or_cut_by_its_own_ratio():
    model = network(lambda m, x: m.b(m.d(m.c(m.a(x)))), c=conv(16, 16), d=conv(16, 16))
    pruned = slimnet.prune(
        model, IMAGE, ratio=0.5, keep=["a"], layer_ratio={"d": 0.25}, align=None
    ).model
    assert (pruned.a.out_channels, pruned.c.out_channels, pruned.d.out_channels) == (16, 8, 12)


def test_without_verify_there_is_no_certificate():
    pruned = slimnet.prune(network(), IMAGE, ratio=0.5, verify=False)
    assert pruned.certificate is None and "not verified" in str(pruned)


def test_what_is_printed_of_a_cut():
    text = str(slimnet.prune(network(), IMAGE, ratio=0.5, align=None))
    assert text.startswith("macs 129,024 → 64,512 (50.0%), params 1,060 → 532 (50.2%); slim = ")


# -------------------------------------------------------------------------------- what is refused

FFT = partial(network, lambda m, x: m.b(torch.fft.fft(m.a(x)).real))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {},
            InputError,
            "give exactly one budget: a ratio of channels, of macs or of params, bytes, "
            "or a latency",
        ),
        (
            {"ratio": 0.5, "macs": 0.5},
            InputError,
            "give exactly one budget: a ratio of channels, of macs or of params, bytes, "
            "or a latency",
        ),
        ({"ratio": 1.0}, InputError, "ratio must lie in [0, 1), and 1.0 does not"),
        (
            {"ratio": 0.5, "criterion": "l3"},
            UnknownNameError,
            f"unknown criterion 'l3': the known ones are {', '.join(sorted(load_criteria()))}",
        ),
        (
            {"ratio": 0.99},
            PruneError,
            "a ratio of 0.99 would leave a (16 channels) with none; lower it, or set a minimum "
            "width (--min-channels)",
        ),
        (
            {"ratio": 0.5, "keep": ["stem"]},
            InputError,
            "no layer is called 'stem'; layers are called a, b, …",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(options, error, text):
    with pytest.raises(error) as refusal:
        slimnet.prune(network(), IMAGE, **options)
    assert str(refusal.value) == text


def test_a_network_without_anything_to_prune_says_which_layer_stands_and_why():
    with pytest.raises(PruneError) as refusal:
        slimnet.prune(FFT(), IMAGE, ratio=0.5)
    line = FFT.args[0].__code__.co_firstlineno
    assert str(refusal.value) == (
        "nothing can be pruned: a (16 channels) stays because aten._fft_r2c has no rule "
        f"(test_prune.py:{line}, in the model (<lambda>)); slimnet inspect shows all layers"
    )


def test_a_literal_is_refused_with_the_way_out_which_is_one(tmp_path):
    model = Net(lambda m, x: m.b(m.a(x).view(-1, 16, 8, 8)), {"a": conv(3, 16), "b": conv(16, 4)})
    image = (torch.randn(2, 3, 8, 8),)
    with pytest.raises(PruneError) as refusal:
        slimnet.prune(model.eval(), image, ratio=0.5)
    assert str(refusal.value).endswith(
        "; slimnet inspect shows all layers; write that size so that it follows the tensor "
        "(x.shape, an attribute), or export the network with torch.export, save it as .pt2 and "
        "prune that: there sizes follow"
    )
    torch.export.save(torch.export.export(model, image, strict=False), tmp_path / "net.pt2")
    slim = slimnet.prune(read_pt2(tmp_path / "net.pt2").program, image, ratio=0.5, align=None).model
    assert dict(slim.named_parameters())["a.weight"].shape[0] == 8


def test_lenet_loses_channels_where_its_narrow_layers_may():
    def lenet(m, x):
        y = F.max_pool2d(m.a(x).relu(), 2)
        return m.b(F.max_pool2d(m.c(y).relu(), 2).flatten(1))

    parts = {"a": conv(1, 6, 5), "c": conv(6, 16, 5), "b": lin(16 * 4, 10)}
    model, example = Net(lenet, parts).eval(), (torch.randn(1, 1, 8, 8),)
    plain = slimnet.prune(model, example, ratio=0.5, align=None).model
    assert (plain.a.out_channels, plain.c.out_channels) == (6, 8)
    pruned = slimnet.prune(model, example, ratio=0.5, align=None, min_channels=1)
    assert (pruned.model.a.out_channels, pruned.model.c.out_channels) == (3, 8)
    assert pruned.certificate.exact
    narrow = Net(lambda m, x: m.b(m.a(x)), {"a": conv(1, 6), "b": conv(6, 4)}).eval()
    with pytest.raises(PruneError, match=r"a \(6 channels\) .* \(--min-channels 1\)"):
        slimnet.prune(narrow, example, ratio=0.5)


def test_the_printed_reason_is_a_line_of_its_own():
    line = FFT.args[0].__code__.co_firstlineno
    assert str(slimnet.inspect(FFT(), IMAGE)).split("\n")[:2] == [
        "a (Conv2d, 16 channels): 0 prunable",
        f"    because: aten._fft_r2c has no rule (test_prune.py:{line}, in the model (<lambda>))",
    ]


def test_strict_refuses_an_operator_without_a_rule():
    model = network(lambda m, x: m.b(m.c(torch.fft.fft(m.a(x)).real)), c=conv(16, 16))
    assert slimnet.prune(model, IMAGE, ratio=0.5, align=None).model.c.out_channels == 8
    line = model.body.__code__.co_firstlineno
    with pytest.raises(PruneError) as refusal:
        slimnet.prune(model, IMAGE, ratio=0.5, strict=True)
    assert str(refusal.value) == (
        f"aten._fft_r2c.default has no rule (test_prune.py:{line}, in the model (<lambda>)); "
        "register one with @slimnet.rule (README, “Add an operator”), or prune without strict"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused_before_any_cut(value):
    model = network()
    with torch.no_grad():
        model.n.weight[3] = value
    with pytest.raises(InputError) as refusal:
        slimnet.prune(model, IMAGE, ratio=0.5)
    assert str(refusal.value) == (
        "n.weight holds NaN or infinite numbers: the network is broken before any cut; take an "
        "earlier checkpoint"
    )


def test_a_mask_of_minus_infinity_is_no_broken_weight():
    model = network(lambda m, x: m.b((m.a(x) + m.mask).softmax(3)))
    model.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))
    assert slimnet.prune(model, IMAGE, ratio=0.5, align=None).model.a.out_channels == 8


@pytest.mark.parametrize("example", [IMAGE[0], [IMAGE[0]], None])
@pytest.mark.parametrize("call", [slimnet.inspect, partial(slimnet.prune, ratio=0.5)])
def test_an_example_that_is_no_tuple_is_refused(call, example):
    with pytest.raises(InputError, match="example must be a tuple of the positional inputs"):
        call(network(), example)


def test_an_input_of_another_shape_is_refused_with_the_shape():
    with pytest.raises(CaptureError, match=r"Net does not run on an input of shape \(1, 8, 4, 4\)"):
        slimnet.prune(network(), (torch.randn(1, 8, 4, 4),), ratio=0.5)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(InputError) as refusal:
        slimnet.inspect(nn.ReLU(), IMAGE)
    assert str(refusal.value) == "ReLU has no parameters: there is nothing to prune"


def test_refusals_are_one_family():
    for error in (InputError, PruneError, CaptureError, UnknownNameError, slimnet.CertificateError):
        assert issubclass(error, slimnet.SlimnetError)
    assert issubclass(InputError, ValueError) and issubclass(CaptureError, InputError)


# ----------------------------------------------------------------------- what only training reads


def test_a_head_that_only_training_reads_is_cut_with_the_rest():
    torch.manual_seed(0)
    with torch.no_grad():
        model = torchvision.models.googlenet(
            weights=None, num_classes=10, aux_logits=True, init_weights=False
        )
    image = (torch.randn(1, 3, 64, 64),)
    pruned = slimnet.prune(model, image, ratio=0.5, align=None, verify=False)
    slim = pruned.model.train()
    assert slim.inception4a.branch1.conv.out_channels < model.inception4a.branch1.conv.out_channels
    first = slim.aux1.conv.conv.in_channels
    assert first < model.aux1.conv.conv.in_channels
    answer = slim(torch.randn(2, 3, 64, 64))
    (answer.logits.sum() + answer.aux_logits1.sum() + answer.aux_logits2.sum()).backward()
    assert slim.aux1.conv.conv.weight.grad is not None


def test_a_layer_that_nothing_reads_is_said_to_be_untouched():
    model = network(head=lin(4, 9))
    pruned = slimnet.prune(model, IMAGE, ratio=0.5)
    assert torch.equal(pruned.model.head.weight, model.head.weight)
    assert dict(pruned.plan.untouched)["head"] == (
        "it was never used while the example ran through the network"
    )


# ------------------------------------------------------------------------------ what a person reads

SHOWN = {
    "digits_vgg": (MODELS["digits_vgg"].make, (torch.zeros(1, 1, 8, 8),)),
    "resnet20": (MODELS["resnet20"].make, (torch.zeros(1, 3, 32, 32),)),
    "shuffle": (MICRO["shuffle_attribute"].make, MICRO["shuffle_attribute"].example()),
    "grouped": (MICRO["shuffle_then_grouped"].make, MICRO["shuffle_then_grouped"].example()),
    "depthwise": (MICRO["depthwise"].make, MICRO["depthwise"].example()),
    "group_norm": (MICRO["group_norm"].make, MICRO["group_norm"].example()),
}


@pytest.mark.parametrize("name", SHOWN)
def test_golden_inspection(name):
    make, example = SHOWN[name]
    printed = str(slimnet.inspect(make(), example)) + "\n"
    found = re.sub(r"\.py:\d+", ".py:LINE", printed)  # a line moves without meaning anything
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("SLIMNET_GOLDEN"):
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_asking_for_heads_where_there_are_none_is_said():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    example = (torch.randn(1, 3, 8, 8),)
    asked = slimnet.prune(model, example, ratio=0.5, heads=True)
    assert any("no attention was found" in note for note in asked.plan.notes)
    assert not slimnet.prune(model, example, ratio=0.5).plan.notes


# ------------------------------------------------------------------- budgets that cannot be met

TOO_MUCH = {
    "macs": ({"macs": 0.001}, r"0\.1% of the MACs left\) cannot be met, the nearest is 6\.2%: "),
    "params": ({"params": 1e-9}, "1e-07% of the parameters left"),
    "bytes": ({"bytes": 10}, r"at most 10 bytes\) cannot be met, the nearest is \d+: "),
    "guard": ({"ratio": 0.5, "min_channels": 99}, r"50% .*0\.0%: .*a \(at least 16 channels\)"),
    "guarded cost": ({"macs": 0.5, "min_channels": 99}, "every group keeps at least 99 channels"),
    "name": ({"ratio": 0.5, "keep": ["*"]}, r"the nearest is 0\.0%: .*a \(kept by name\)"),
    "named cost": ({"macs": 0.5, "layer_ratio": {"a": 0.0}}, "names prescribe the width of 1 of 1"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_a_budget_that_cannot_be_met_is_refused_unless_the_nearest_will_do(case):
    budget, why = TOO_MUCH[case]
    with pytest.raises(PruneError, match=why) as refusal:
        slimnet.prune(network(), IMAGE, **budget)
    assert "--best-effort" in str(refusal.value) and "\n" not in str(refusal.value)
    pruned = slimnet.prune(network(), IMAGE, **budget, best_effort=True)
    assert pruned.certificate is not None and pruned.plan.asked["best_effort"]


@pytest.mark.parametrize("align", ["auto", 16, None])
@pytest.mark.parametrize("scope", ["local", "global", "harm"])
def test_bytes_are_those_that_are_there_afterwards_and_never_more(scope, align):
    model = MODELS["digits_resnet"].make().eval()
    example = (torch.zeros(1, *MODELS["digits_resnet"].input_shape),)
    dense = stored(model)
    for share in (0.9, 0.4, 0.1, 0.02, 0.004):
        asked = dense * share
        options = {"scope": scope, "align": align, "verify": False}
        slim = slimnet.prune(model, example, bytes=asked, **options)
        assert stored(slim.model) == slim.plan.after["bytes"] <= asked


def stored(model):
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def test_a_share_that_dropped_blocks_leave_is_one_of_the_original():
    model = MODELS["digits_resnet"].make().eval()
    example = (torch.zeros(1, *MODELS["digits_resnet"].input_shape),)
    with pytest.raises(PruneError, match=r"0\.001% of the MACs left\) cannot be met"):
        slimnet.prune(model, example, macs=1e-5, drop_blocks=1, verify=False)
    pruned = slimnet.prune(model, example, macs=0.3, drop_blocks=1, verify=False)
    assert pruned.plan.after["macs"] <= 0.3 * pruned.plan.before["macs"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda m, x: m.b(m.a(x) / m.c(x)), "aten.div gives no number"),
        (lambda m, x: m.b((m.a(x) * m.s).log()), "aten.log gives no number"),
        (lambda m, x: m.b(m.a(x) * m.c(x)), ""),
        (lambda m, x: m.b(m.a(x) / x.norm()), ""),
    ],
)
def test_what_the_original_with_zeros_is_not_stands_in_the_notes(body, text):
    parts = {"c": conv(3, 16), "s": nn.Parameter(torch.ones(16, 1, 1))}
    model = network(body, **parts).eval()
    image = (torch.rand(2, 3, 8, 8) + 0.1,)
    with torch.no_grad():
        for name in "ac":
            getattr(model, name).weight.abs_()
            getattr(model, name).bias.abs_()
    plan = slimnet.prune(model, image, ratio=0.5, align=None, verify=False).plan
    notes = [note for note in plan.notes if "counts it as 0" in note]
    assert len(notes) == bool(text) and all(text in note for note in notes)
    assert all(re.search(r"\(test_prune.py:\d+, .*such as 0/0: in the proof", n) for n in notes)
    kept = slimnet.prune(model, image, ratio=0.0, align=None, verify=False).plan
    assert not kept.notes


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.b(F.dropout(m.a(x), 0.5)),
        lambda m, x: m.b(F.dropout2d(m.a(x), 0.5)),
        lambda m, x: m.b(F.alpha_dropout(m.a(x), 0.5, training=True)),
        lambda m, x: m.b(F.feature_alpha_dropout(m.a(x), 0.5, training=True)),
        lambda m, x: m.b(F.gumbel_softmax(m.a(x), dim=-1)),
        lambda m, x: (lambda y: m.b(y + torch.randn_like(y)))(m.a(x)),
        lambda m, x: (lambda y: m.b(y + torch.randn(y.shape)))(m.a(x)),
        lambda m, x: (lambda y: m.b(y + torch.normal(0.0, 1.0, y.shape)))(m.a(x)),
        lambda m, x: (lambda y: m.b(torch.normal(y, 0.1)))(m.a(x)),
        lambda m, x: (lambda y: m.b(y * torch.empty(len(y), 1, 1, 1).bernoulli_(0.8)))(m.a(x)),
    ],
)
def test_random_numbers_that_are_always_drawn_lose_channels_with_the_rest(body):
    pruned = slimnet.prune(network(body).eval(), IMAGE, ratio=0.5, align=None)
    assert pruned.model.a.out_channels == 8 and pruned.certificate.exact
