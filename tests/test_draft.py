"""Plans in rounds: the same budget, one plan, one certificate, scores read anew."""

from __future__ import annotations

import json

import pytest
import torch
from micro import Net, bn, conv

import slimnet
from slimnet import cli
from slimnet.errors import InputError, PruneError
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.plan.compose import compose
from slimnet.plan.plan import Plan
from slimnet.samples import Samples

IMAGE = (torch.randn(2, 3, 8, 8),)
DIGITS = (torch.randn(1, 1, 8, 8),)


def chain():
    """Three layers of sixteen channels, one after the other."""
    torch.manual_seed(0)
    parts = {"a": conv(3, 16), "n": bn(16), "b": conv(16, 16), "c": conv(16, 16), "d": conv(16, 4)}
    return Net(lambda m, x: m.d(m.c(m.b(m.n(m.a(x)).relu()).relu()).relu()), parts).eval()


def resnet():
    torch.manual_seed(0)
    return MODELS["digits_resnet"].make().eval()


def test_one_step_is_the_one_shot_plan():
    one = slimnet.prune(chain(), IMAGE, ratio=0.5, steps=1).plan
    assert one == slimnet.prune(chain(), IMAGE, ratio=0.5).plan
    assert not any("rounds" in note for note in one.notes)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"macs": 0.4}, {"bytes": 300_000}])
def test_several_rounds_end_at_the_same_budget_with_one_certificate(budget, scope):
    options = {**budget, "scope": scope, "align": None, "min_channels": 2}
    once = slimnet.prune(resnet(), DIGITS, **options, verify=False).plan
    many = slimnet.prune(resnet(), DIGITS, **options, steps=4)
    kind = "macs" if "macs" in budget else "bytes"
    if "ratio" in budget:
        widths = [sum(cut.after for cut in plan.groups) for plan in (once, many.plan)]
        assert widths[0] == widths[1]
    else:
        assert many.plan.after[kind] == pytest.approx(once.after[kind], rel=0.01)
    assert many.certificate.exact
    assert many.plan.before == once.before
    assert len(many.plan.groups) == len(once.groups)
    assert "planned in 4 rounds; each read its scores from the network as already cut" in (
        many.plan.notes
    )


@pytest.mark.parametrize("criterion", ["l1", "fpgm", "taylor", "mean-activation"])
def test_two_rounds_equal_pruning_the_slim_network_again(criterion):
    data = Samples(torch.randn(8, 3, 8, 8), torch.randint(4, (8,)))
    torch.manual_seed(0)
    dense = Net(
        lambda m, x: m.d(m.b(m.n(m.a(x)).relu()).relu()).mean((2, 3)),
        {"a": conv(3, 16), "n": bn(16), "b": conv(16, 16), "d": conv(16, 4)},
    ).eval()
    settings = {"align": None, "criterion": criterion, "data": data, "verify": False}
    at_once = slimnet.prune(dense, IMAGE, ratio=0.5, steps=2, **settings)
    first = slimnet.prune(dense, IMAGE, ratio=1 - 0.5**0.5, **settings)
    assert first.plan.groups[0].after == 11
    second = slimnet.prune(first.model, IMAGE, ratio=3 / 11, **settings)
    assert (
        at_once.plan.removed == compose(first.plan, second.plan, Network.of(dense).shapes).removed
    )


def test_what_a_round_removes_changes_what_the_next_one_ranks():
    """Filters of b that live on inputs which go in the first round are worth nothing after it."""
    model = chain()
    with torch.no_grad():
        model.a.weight[:4] *= 1e-3
        model.b.weight.zero_()
        model.b.weight[:8, :4] = 10.0
        model.b.weight[8:, 4:] = 1.0
    once = slimnet.prune(model, IMAGE, ratio=0.5, align=None, verify=False).plan
    many = slimnet.prune(model, IMAGE, ratio=0.5, align=None, verify=False, steps=2).plan
    assert once.removed["b.weight"][0] == tuple(range(8, 16))
    assert set(many.removed["b.weight"][0]) & set(range(8))


def test_rounds_go_on_where_the_initial_weights_are_read():
    model, init = chain(), dict(chain().named_parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    plan = slimnet.prune(
        model, IMAGE, ratio=0.5, criterion="magnitude-increase", init=init, steps=3, align=None
    ).plan
    assert [cut.after for cut in plan.groups] == [8, 8, 8]


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="steps must be at least 1, and 0 is not"):
        slimnet.prune(chain(), IMAGE, ratio=0.5, steps=0)


def test_a_network_that_cannot_be_cut_may_be_asked_for_all_of_it():
    model = Net(lambda m, x: m.a(x), {"a": conv(3, 16)}).eval()
    for budget in ({"bytes": 10_000}, {"macs": 1.0}, {"ratio": 0.0}):
        assert not slimnet.prune(model, IMAGE, **budget).plan.removed
    with pytest.raises(PruneError, match="nothing can be pruned: a "):
        slimnet.prune(model, IMAGE, bytes=100)


def test_the_plan_says_of_every_group_what_was_asked_and_why_it_differs():
    plan = slimnet.prune(
        resnet(),
        DIGITS,
        ratio=0.45,
        align=16,
        layer_ratio={"layer1.0.conv1": 0.5},
        keep=["layer2.0.conv1"],
    ).plan
    told = {cut.layers[0]: (cut.after, round(cut.asked, 2), cut.why) for cut in plan.groups}
    assert told == {
        "conv1": (32, 0.45, "a multiple of 16"),
        "layer1.0.conv1": (32, 0.45, "a ratio of its own"),
        "layer2.0.conv1": (128, 0.45, "kept by name"),
        "layer2.0.conv2": (64, 0.45, "a multiple of 16"),
    }
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))).groups == plan.groups


def test_groups_without_a_score_say_so():
    parts = {"a": conv(3, 16), "n": bn(16), "b": conv(16, 16), "d": conv(16, 4)}
    model = Net(lambda m, x: m.d(m.b(m.n(m.a(x)).relu()).relu()), parts).eval()
    plan = slimnet.prune(model, IMAGE, ratio=0.5, criterion="bn-scale").plan
    assert [cut.why for cut in plan.groups] == ["", "the criterion has nothing to read there"]
    assert plan.notes == ("1 group was left alone: bn-scale has nothing to read there (b, …)",)


def test_the_command_line_takes_bytes_and_steps(tmp_path, capsys):
    torch.save(resnet().state_dict(), tmp_path / "dense.pt")
    options = ["--bytes", "300KB", "--steps", "2", "--scope", "isomorphic", "--align", "off"]
    with pytest.raises(SystemExit) as end:
        cli.main(["prune", str(tmp_path / "dense.pt"), *options, "-o", str(tmp_path / "slim.pt")])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "asked for: at most 300,000 bytes; achieved: 29" in said
    assert slimnet.load(tmp_path / "slim.pt") is not None


def test_a_size_that_is_none_is_refused_in_one_sentence(tmp_path, capsys):
    torch.save(resnet().state_dict(), tmp_path / "dense.pt")
    with pytest.raises(SystemExit) as end:
        cli.main(["prune", str(tmp_path / "dense.pt"), "--bytes", "lots"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "slimnet: --bytes 'lots' is no number of bytes: 5MB, 4.5MiB, 500KB, 1GB or 5000000\n"
    )
