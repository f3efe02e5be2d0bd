"""Repair: layers reproduce the original from what is left, without labels."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import slimnet
from slimnet.cli import main
from slimnet.errors import InputError, SlimnetError
from slimnet.models import MODELS
from slimnet.models.resnet import BasicBlock
from slimnet.network import Network
from slimnet.repairs import reestimated, repair
from slimnet.repairs.layers import LayerRepair, LayerwiseRepair
from slimnet.tasks.data import load_data

IMAGES = torch.randn(96, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stem and two blocks around a stream; ``kind`` of convolution inside."""

    def __init__(self, kind="plain", norm=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(self._block(kind, norm) for _ in range(2))
        self.head = nn.Linear(16, 10)

    def _block(self, kind, norm):
        inner = {
            "plain": [nn.Conv2d(16, 24, 3, padding=1, bias=not norm)],
            "depthwise": [
                nn.Conv2d(16, 24, 1),
                nn.ReLU(),
                nn.Conv2d(24, 24, 3, padding=1, groups=24),
            ],
            "grouped": [nn.Conv2d(16, 24, 3, padding=1, groups=2)],
            "transposed": [nn.ConvTranspose2d(16, 24, 3, padding=1)],
        }[kind]
        norms = [nn.BatchNorm2d(24)] if norm else []
        last = [nn.Conv2d(24, 16, 3, padding=1, bias=not norm)]
        return nn.Sequential(
            *inner, *norms, nn.ReLU(), *last, *([nn.BatchNorm2d(16)] if norm else [])
        )

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))


def trained(kind="plain", norm=True):
    """A network whose channels are alike, as trained ones' are, with statistics that fit."""
    torch.manual_seed(0)
    model = Residual(kind, norm)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.shape[0] >= 16:
                rows = module.weight.flatten(1)
                mixed = torch.randn(len(rows), 6) @ torch.randn(6, rows.shape[1])
                module.weight.copy_((0.3 * rows + 0.05 * mixed).view_as(module.weight))
    return reestimated(Network.of(model.eval()), IMAGES, 32).model.eval()


def cut(model, **options):
    return slimnet.prune(model, (IMAGES[:1],), ratio=0.3, align=None, **options)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", ["plain", "depthwise", "grouped", "transposed"])
def test_outputs_come_nearer_to_the_originals(kind, norm):
    model = trained(kind, norm)
    pruned = cut(model)
    repaired, done = repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES)
    assert done.after < 0.5 * done.before
    assert all(layer.after <= layer.before * 1.001 for layer in done.layers)
    fresh = torch.randn(64, 3, 12, 12)
    with torch.no_grad():
        answers, raw, now = (net(fresh) for net in (model, pruned.model, repaired))
    assert (now - answers).square().mean() < 0.5 * (raw - answers).square().mean()


@pytest.mark.parametrize("kind", ["plain", "depthwise", "grouped", "transposed"])
def test_layers_refined_with_those_before_come_nearer_than_each_alone(kind):
    model = trained(kind)
    pruned = cut(model)
    alone, by_layer = repair(
        Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES, refine=False
    )
    together, by_block = repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES)
    assert not any(layer.refined for layer in by_layer.layers)
    assert any(layer.refined for layer in by_block.layers)
    fresh = torch.randn(64, 3, 12, 12)
    with torch.no_grad():
        answers, apart, now = (net(fresh) for net in (model, alone, together))
    assert (now - answers).square().mean() < (apart - answers).square().mean()


def test_a_chain_is_refined_in_segments_that_overlap():
    """What a later segment is given must be what the changed layers say."""
    torch.manual_seed(0)
    layers = [m for _ in range(4) for m in (nn.LazyConv2d(16, 3), nn.ReLU(inplace=True))]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    model(IMAGES)
    pruned = cut(model)
    _, alone = repair(
        Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES, refine=False
    )
    _, together = repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES)
    assert sum(layer.refined for layer in together.layers) >= 2
    assert together.after < alone.after


class Stage(nn.Module):
    """Blocks that are modules of their own: one that leaves is its shortcut, addition included."""

    def __init__(self, blocks=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*(BasicBlock(16, 16, 1, None) for _ in range(blocks)))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


@pytest.mark.parametrize("options", [{}, {"ratio": 0.3, "align": None}])
@pytest.mark.parametrize("make", [Residual, Stage])
def test_what_follows_a_dropped_block_makes_up_for_it(make, options, tmp_path):
    """The original is the network that was given, not the one without the block."""
    torch.manual_seed(0)
    model = reestimated(Network.of(make().eval()), IMAGES, 32).model.eval()
    options = {"drop_blocks": ["blocks.0"], "criterion": "l1", **options}
    dropped = slimnet.prune(model, (IMAGES[:1],), **options)
    repaired = slimnet.prune(model, (IMAGES[:1],), repair=True, data=IMAGES, **options)
    assert repaired.repair.after < 0.5 * repaired.repair.before
    fresh = torch.randn(64, 3, 12, 12)
    with torch.no_grad():
        answers, raw, now = (net(fresh) for net in (model, dropped.model, repaired.model))
    assert (now - answers).square().mean() < 0.5 * (raw - answers).square().mean()
    later = slimnet.repair(slimnet.save(dropped, tmp_path / "slim.pt"), model, IMAGES)
    assert later.repair == repaired.repair
    for one, other in zip(later.model.parameters(), repaired.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Linearly(nn.Module):
    """Branches without a nonlinearity: what one adds, the next one could add too."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.first = nn.Conv2d(8, 8, 1)
        self.read, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        x = x + self.first(x)
        return x + self.norm(self.last(self.read(x)))


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_a_layer_makes_up_for_what_the_stream_lacks_that_it_is_added_to(norm, refine):
    """Through the norm between them, whatever that multiplies with."""
    torch.manual_seed(0)
    model = Linearly(norm)
    if norm:
        nn.init.uniform_(model.norm.weight, 0.2, 3.0)
    model = reestimated(Network.of(model.eval()), IMAGES, 32).model.eval()
    cut = slimnet.prune(model, (IMAGES[:1],), drop_blocks=["first"])
    _, done = repair(Network.of(model), Network.of(cut.model), cut.plan, IMAGES, refine=refine)
    assert done.before > 0.05
    assert done.after < 1e-2 * done.before


@pytest.mark.parametrize("almost", [0.0, 1e-12])
def test_what_a_norm_multiplies_with_nothing_makes_up_for_nothing(almost):
    torch.manual_seed(0)
    model = reestimated(Network.of(Linearly(True).eval()), IMAGES, 32).model.eval()
    with torch.no_grad():
        model.norm.weight[3] = almost
    cut = slimnet.prune(model, (IMAGES[:1],), drop_blocks=["first"])
    repaired, done = repair(Network.of(model), Network.of(cut.model), cut.plan, IMAGES)
    assert done.solved and done.after < 0.5 * done.before
    assert repaired.last.weight.abs().max() < 100


def test_channels_that_are_copies_cost_nothing():
    """What can be reproduced exactly is: the sum of two equal channels' weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    with torch.no_grad():
        model[0].weight[8:] = model[0].weight[:8]
        model[0].bias[8:] = model[0].bias[:8]
    pruned = slimnet.prune(
        model, (IMAGES[:1],), ratio=0.5, align=None, keep=["2"], repair=True, data=IMAGES
    )
    assert pruned.model[0].out_channels == 8
    assert pruned.repair.after < 1e-3
    assert pruned.repair.before > 0.05


def test_nothing_changes_where_nothing_was_cut():
    model = trained()
    pruned = slimnet.prune(model, (IMAGES[:1],), ratio=0.0)
    repaired, done = repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES)
    assert done.before == done.after == 0.0
    for before, after in zip(pruned.model.parameters(), repaired.parameters(), strict=True):
        assert torch.equal(before, after)


def test_neither_network_is_changed():
    model = trained()
    pruned = cut(model)
    before = [
        {name: t.clone() for name, t in net.state_dict().items()} for net in (model, pruned.model)
    ]
    repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES)
    for net, state in zip((model, pruned.model), before, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())


def test_the_same_seed_gives_the_same_weights():
    model = trained()
    pruned = cut(model)
    one, other = (
        repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES, seed=3)[0]
        for _ in range(2)
    )
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_statistics_are_those_of_what_is_read():
    model = trained()
    with torch.no_grad():
        model.stem.weight *= 2
    again = reestimated(Network.of(model), IMAGES, 32).model
    read = []
    again.blocks[0][1].register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with torch.no_grad():
        again(IMAGES)
    norm = again.blocks[0][1]
    torch.testing.assert_close(norm.running_mean, read[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert not again.training
    assert norm.momentum == 0.1


def test_a_repaired_network_chooses_by_harm_and_is_proven_before_its_weights_change(tmp_path):
    model = trained()
    pruned = slimnet.prune(model, (IMAGES[:1],), macs=0.6, align=None, repair=True, data=IMAGES)
    assert pruned.plan.asked["criterion"] == "obs"
    assert pruned.plan.asked["scope"] == "harm"
    assert pruned.certificate.error < 1e-9
    path = slimnet.save(pruned, tmp_path / "slim.pt")
    assert slimnet.verify(path, model).error < 1e-9  # of the structure
    with torch.no_grad():
        torch.testing.assert_close(slimnet.load(path, model)(IMAGES), pruned.model(IMAGES))


def test_repairing_later_is_the_same_as_at_once(tmp_path):
    model = trained()
    options = {"macs": 0.6, "align": None, "criterion": "obs", "scope": "harm", "data": IMAGES}
    at_once = slimnet.prune(model, (IMAGES[:1],), repair=True, **options)
    path = slimnet.save(slimnet.prune(model, (IMAGES[:1],), **options), tmp_path / "slim.pt")
    later = slimnet.repair(path, model, IMAGES)
    assert not any(
        x.refined for x in slimnet.repair(path, model, IMAGES, refine=False).repair.layers
    )
    assert later.repair.after == pytest.approx(at_once.repair.after)
    assert later.artifact.trained


COLOUR = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_what_prune_returned_is_repaired_saved_verified_and_repaired_again(tmp_path):
    model, options = trained(), {"macs": 0.6, "align": None, "criterion": "obs", "scope": "harm"}
    at_once = slimnet.prune(model, (IMAGES[:1],), repair=True, data=IMAGES, **options)
    repaired = slimnet.repair(
        slimnet.prune(model, (IMAGES[:1],), data=IMAGES, **options), model, IMAGES
    )
    assert same_weights(repaired.model, at_once.model) and repaired.repair == at_once.repair
    assert slimnet.verify(repaired, model).error < 1e-9
    path = slimnet.save(repaired, tmp_path / "repaired.pt")
    assert slimnet.verify(path, model).error < 1e-9
    assert same_weights(slimnet.load(path, model), repaired.model)
    again = slimnet.repair(repaired, model, IMAGES)
    from_file = slimnet.repair(path, model, IMAGES)
    assert again.repair == from_file.repair and again.repair.before == repaired.repair.after
    assert slimnet.verify(from_file, model).error < 1e-9
    path = slimnet.save(from_file, tmp_path / "again.pt")
    assert same_weights(slimnet.load(path, model), again.model)
    assert slimnet.repair(from_file, model, IMAGES).repair.before == again.repair.after


def test_rounds_are_repaired_against_what_was_cut():
    model, example = trained(), (IMAGES[:1],)
    first = slimnet.repair(slimnet.prune(model, example, ratio=0.3, align=None), model, IMAGES)
    second = slimnet.prune(first.model, example, ratio=0.3, align=None)
    repaired = slimnet.repair(second, first.model, IMAGES)
    assert repaired.repair.after < 0.5 * repaired.repair.before
    assert slimnet.verify(repaired, first.model).error < 1e-9
    with pytest.raises(InputError, match=r"not cut from this Sequential: .*no such tensor"):
        slimnet.repair(first, plain(), IMAGES)


def test_a_repaired_file_keeps_its_architecture(tmp_path):
    model, images = MODELS["digits_vgg"].make(), torch.randn(24, 1, 8, 8)
    pruned = slimnet.prune(model.eval(), (images[:1],), ratio=0.3)
    path = slimnet.save(pruned, tmp_path / "slim.pt", "slimnet:digits_vgg")
    repaired = slimnet.repair(path, model, images)
    loaded = slimnet.load(slimnet.save(repaired, tmp_path / "repaired.pt"))
    assert type(loaded) is type(model) and same_weights(loaded, repaired.model)


def says(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code


def test_the_command_line_repairs_as_python_does(tmp_path, capsys):
    """At once, later, and after a second cut; also a program."""
    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    dense, slim, repaired, at_once, less = (tmp_path / f"{n}.pt" for n in "abcde")
    torch.save(model.state_dict(), dense)
    data, cut = ("--data", "digits", "--samples", 64), ("--ratio", 0.3, "--criterion", "l1")
    assert says("prune", dense, *cut, "--scope", "local", "-o", slim) == 0
    assert says("repair", slim, "--against", dense, *data, "-o", repaired) == 0
    assert says("prune", dense, *cut, "--scope", "local", "--repair", *data, "-o", at_once) == 0
    images = load_data("digits").samples(64)
    in_python = slimnet.prune(
        model, (images.images[:1],), ratio=0.3, criterion="l1", repair=True, data=images
    )
    for path in (repaired, at_once):
        assert same_weights(slimnet.load(path), in_python.model)
    assert says("prune", repaired, *cut, "-o", less) == 0
    assert says("repair", less, "--against", dense, *data, "-o", repaired) == 0
    assert says("verify", repaired, "--against", dense) == 0
    assert says("repair", repaired, "--against", dense, *data, "-o", tmp_path / "f.pt2") == 0
    assert says("verify", tmp_path / "f.pt2", "--against", dense) == 0


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (np.zeros((9, 8, 8, 1), np.uint8), "all 9 calibration images are the same"),
        (np.zeros((1, 8, 8, 1), np.uint8), "at least 2 images"),
        (COLOUR, "does not run on the calibration images of 3x8x8"),
    ],
)
def test_the_command_line_refuses_images_that_say_nothing(pixels, why, tmp_path, capsys):
    dense, data = tmp_path / "dense.pt", tmp_path / "data.npz"
    torch.save(MODELS["digits_vgg"].make().state_dict(), dense)
    labels = np.arange(len(pixels))
    np.savez(data, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    slim = tmp_path / "slim.pt"
    assert (
        says("prune", dense, "--ratio", 0.3, "--repair", "--data", f"npz:{data}", "-o", slim) == 2
    )
    said = capsys.readouterr().err
    assert why in " ".join(said.split()) and "Traceback" not in said
    assert not slim.exists()


@pytest.mark.parametrize("criterion", ["obs", "l1"])
def test_images_that_do_not_fit_are_refused(criterion):
    images = torch.randn(4, 5, 12, 12)
    with pytest.raises(InputError, match="Residual does not run on the calibration images of 5x12"):
        cut(trained(), repair=True, data=images, criterion=criterion)


def plain(last=None):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(*layers, *([] if last is None else [Last(last)])).eval()


class Last(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, y):
        return self.answer(y)


NETWORK = plain()
BROKEN = IMAGES.clone()
BROKEN[5, 2, 3, 3] = torch.nan
ODD = {
    "1e18": (IMAGES * 1e18, "too large to be squared and summed: normalise"),
    "1e30": (IMAGES * 1e30, "too large to be squared and summed: normalise"),
    "3e38": (IMAGES.sign() * 3e38, "NaN or infinite outputs on the calibration images|too large"),
    "1e-30": (
        IMAGES * 1e-30,
        "the same outputs for all 6 images that are held back|none whose answers vary",
    ),
    "a NaN": (BROKEN, "1 of the 96 calibration images hold NaN or infinite numbers"),
    "alike": (IMAGES[:1].repeat(9, 1, 1, 1), "all 9 calibration images are the same"),
    "zeros": (torch.zeros(9, 3, 12, 12), "all 9 calibration images are the same"),
    "one": (IMAGES[:1], "at least 2 images"),
    "none": (IMAGES[:0], "give floating point images"),
    "uint8": (IMAGES.to(torch.uint8), "uint8 .* give floating point images .* normalised"),
    "channels": (IMAGES[:, :2], "Sequential does not run on the calibration images of"),
    "size": (IMAGES[:, :, :3, :3], "Sequential does not run on the calibration images of"),
    "a list": ([1, 2], "holds a list: give images as a tensor"),
}


@pytest.mark.parametrize("criterion", ["obs", "l1"])
@pytest.mark.parametrize("name", ODD)
def test_images_that_say_nothing_are_refused_in_a_sentence(name, criterion):
    images, why = ODD[name]
    with pytest.raises(SlimnetError, match=why) as refused:
        slimnet.prune(
            NETWORK, (IMAGES[:1],), ratio=0.5, criterion=criterion, repair=True, data=images
        )
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=why):
        slimnet.repair(slimnet.prune(NETWORK, (IMAGES[:1],), ratio=0.5), NETWORK, images)


@pytest.mark.parametrize("criterion", ["thinet", "lasso", "mean-activation", "taylor"])
@pytest.mark.parametrize("name", sorted(set(ODD) - {"one", "a list"}))
def test_criteria_end_on_any_images(name, criterion):
    """In a cut, or in a sentence: never in a loop that sums what is no number."""
    images, _ = ODD[name]
    labels = torch.arange(len(images)) % 4
    try:
        data = slimnet.Samples(images, labels)
        slimnet.prune(NETWORK, (IMAGES[:1],), ratio=0.5, criterion=criterion, data=data)
    except SlimnetError as error:
        assert "\n" not in str(error)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("kind", [torch.float64, *HALVES])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.float16])
def test_a_network_of_any_precision_is_repaired_as_well(kind, given):
    """It stays in its own; what is solved is solved in double precision."""
    whole = slimnet.prune(plain(), (IMAGES[:1],), ratio=0.5, repair=True, data=IMAGES)
    example = (IMAGES[:1].to(kind),)
    pruned = slimnet.prune(plain().to(kind), example, ratio=0.5, repair=True, data=IMAGES.to(given))
    assert {t.dtype for t in pruned.model.parameters()} == {kind}
    assert pruned.plan.removed == whole.plan.removed
    assert pruned.repair.solved
    near = 1e-2 if kind == torch.float64 else 0.1
    assert pruned.repair.after == pytest.approx(whole.repair.after, rel=near)


def test_a_network_of_two_precisions_keeps_both():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3).half(), nn.Conv2d(16, 16, 1)
            self.norm, self.c = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            x = self.a(x.to(self.a.weight.dtype)).relu().float()
            return self.c(self.norm(self.b(x)).relu()).mean((2, 3))

    torch.manual_seed(0)
    model = Mixed().eval()
    kinds = [t.dtype for t in model.parameters()]
    pruned = slimnet.prune(model, (IMAGES[:1],), ratio=0.5, repair=True, data=IMAGES)
    assert [t.dtype for t in pruned.model.parameters()] == kinds
    assert pruned.repair.after < 0.5 * pruned.repair.before


def test_what_overflows_after_the_cut_is_mended_or_refused():
    """float16 ends at 65504: two large parts cancel, and the cut takes one of them away."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight[:8] = torch.eye(6)[0]
        model[0].bias[:8] = 5.0
        model[0].weight[4:8] /= 2
        model[0].bias[4:8] /= 2
        model[0].weight[8:] += 3.0
        model[2].weight[:, :4], model[2].weight[:, 4:8] = 1e4, -2e4
    model, images = model.eval().half(), torch.randn(96, 6)
    example = (images[:1].half(),)
    options = {"ratio": 0.25, "align": None, "criterion": "l1"}
    cut = slimnet.prune(model, example, **options)
    assert cut.plan.removed["0.weight"][0] == (4, 5, 6, 7)
    assert not cut.model(images.half()).isfinite().all()
    repaired = slimnet.repair(cut, model, images)
    assert repaired.repair.before == float("inf") and repaired.repair.solved
    assert json.loads(json.dumps(repaired.repair.to_json(), allow_nan=False))["before"] is None
    assert repaired.model(images.half()).isfinite().all()


def test_code_that_casts_to_half_is_named():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain().half()

        def forward(self, x):
            return self.net(x.half())

    for criterion in ("obs", "l1"):
        with pytest.raises(InputError, match=r"in single precision.*weight\.dtype"):
            slimnet.prune(
                Casting(), (IMAGES[:1],), ratio=0.5, repair=True, data=IMAGES, criterion=criterion
            )


OUTPUTS = {
    "[N]": lambda y: y[:, 0],
    "[N·K]": torch.flatten,
    "scalar": lambda y: y.mean(),
    "class": lambda y: y.argmax(1),
    "dict": lambda y: {"scores": y, "best": y.argmax(1)},
    "several": lambda y: (y, [y.sum(1), torch.ones(3, 2)]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_whatever_a_network_answers_is_compared(name):
    model = plain(OUTPUTS[name])
    pruned = slimnet.prune(model, (IMAGES[:1],), ratio=0.5, repair=True, data=IMAGES)
    assert pruned.repair.after < (0.7 * pruned.repair.before or 1e-9)


@pytest.mark.parametrize("count", [2, 3, 17, 66])
def test_batch_norms_of_vectors_meet_no_single_image(count, monkeypatch):
    """In training mode, or without running statistics, they cannot run on one."""
    monkeypatch.setattr(
        sys.modules[LayerRepair.__module__.rpartition(".")[0]], "batch_of", lambda x: 4
    )
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(16, 3)).eval()
    images = torch.randn(count, 6)
    pruned = slimnet.prune(model, (images[:1],), ratio=0.5, repair=True, data=images)
    assert pruned.repair.after <= pruned.repair.before


def test_one_image_is_too_few():
    with pytest.raises(InputError, match="at least 2 images"):
        cut(trained(), repair=True, data=IMAGES[:1])


def test_repair_without_images_says_what_to_give():
    with pytest.raises(InputError, match="--data"):
        cut(trained(), repair=True)


def test_what_measures_worse_than_the_cut_is_not_kept(monkeypatch):
    def spoiled(self, generator, watch):
        with torch.no_grad():
            for tensor in self._tensors.values():
                tensor.mul_(10)
        return []

    model = trained()
    pruned = slimnet.prune(model, (IMAGES[:1],), ratio=0.1, align=None)
    monkeypatch.setattr(LayerwiseRepair, "run", spoiled)
    repaired, done = repair(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGES)
    assert not done.solved
    assert done.after <= done.before
    for before, after in zip(pruned.model.parameters(), repaired.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(("criterion", "scope"), [("obs", "harm"), ("l1", "local")])
def test_the_budget_is_spent_by_harm_where_the_criterion_measures_one(criterion, scope):
    pruned = slimnet.prune(
        trained(), (IMAGES[:1],), macs=0.6, criterion=criterion, repair=True, data=IMAGES
    )
    assert pruned.plan.asked["scope"] == scope
