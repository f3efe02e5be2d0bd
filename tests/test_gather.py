"""What criteria need beside the weights: against hooks and one backward pass; nothing changes."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from micro import Net, bn, conv, frozen, lin, seq, up, weight
from shufflenet import Around, as_dense, of_dense
from torch import nn
from torch.nn.functional import conv2d, cross_entropy, linear
from torch.nn.utils import parametrizations

from slimnet.capture.trace import capture
from slimnet.coupling.couple import couple
from slimnet.coupling.groups import find_groups
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.program.exported import record_program
from slimnet.program.program import Program
from slimnet.samples import Samples
from slimnet.statistics import batches, gradients
from slimnet.statistics.gather import gather
from slimnet.statistics.statistics import Statistics

RANDOM = torch.Generator().manual_seed(0)
IMAGES = torch.randn(10, 3, 8, 8, generator=RANDOM)
SAMPLES = Samples(IMAGES, torch.randint(0, 4, (10,), generator=RANDOM))
IMAGE = (IMAGES[:2],)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches of 4, 4 and 2: the last one counts for less."""
    monkeypatch.setattr(batches, "BATCH", 4)
    monkeypatch.setattr(gradients, "GATED", 4)


def network(body=lambda m, x: m.b(m.n(m.a(x)).relu()).mean((2, 3)), **parts):
    torch.manual_seed(0)
    parts = {"a": conv(3, 16), "n": bn(16), "b": conv(16, 4), **parts}
    return Net(body, parts).eval()


def groups_of(model):
    return find_groups(Network.of(model), couple([capture(Network.of(model), IMAGE)]))[0]


def gathered(model, *needs, samples=SAMPLES, **given):
    return gather(Network.of(model), groups_of(model), needs, samples=samples, **given)


ALL = ("gradients", "gates", "activations", "initial")


def test_only_what_is_needed_and_given_is_gathered():
    model = network()
    init = Network.of(model).tensors
    everything = gathered(model, *ALL, init=init)
    assert all(map(everything.has, ALL))
    for found in (
        gathered(model, init=init),
        gathered(model, *ALL, samples=None),
    ):
        assert not any(map(found.has, (*ALL, "inputs")))
    assert not any(vars(Statistics()).values())


# ---------------------------------------------------------------------------------------- gradients


def test_gradients_are_those_of_the_mean_loss_over_all_images():
    model = network()
    found = gathered(model, "gradients").gradients
    reference = deepcopy(model)
    cross_entropy(reference(SAMPLES.images), SAMPLES.labels).backward()
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_frozen_shared_and_unused_parameters():
    model = network(
        lambda m, x: m.b(m.c(m.a(x))).mean((2, 3)),
        a=frozen(conv(3, 16)),
        c=conv(16, 16),
        unused=conv(16, 16),
    )
    model.again = model.c
    found = gathered(model, "gradients").gradients
    assert found["a.weight"].abs().sum() > 0
    assert found.keys() == {f"{layer}.{leaf}" for layer in "abc" for leaf in ("weight", "bias")}


def derivative_by_gates(model, samples):
    """A gate is a parameter in a hook: the mean over mini-batches of its squared derivative."""
    squares = []
    for batch in samples.batches(4):
        gate = torch.ones(16, 1, 1, requires_grad=True)
        hook = model.b.register_forward_pre_hook(lambda _, x, gate=gate: (x[0] * gate,))
        loss = cross_entropy(model(batch.images), batch.labels)
        hook.remove()
        squares.append(torch.autograd.grad(loss, gate)[0].flatten() ** 2)
    return sum(squares).double() / len(squares)


def test_gates_are_squared_for_each_mini_batch():
    model = network()
    found = gathered(model, "gates").gates
    assert found.keys() == {"b.weight"}
    torch.testing.assert_close(found["b.weight"][:, 0], derivative_by_gates(model, SAMPLES))


def test_a_gate_of_a_normalised_weight_is_on_what_it_makes():
    parts = {"b": partial(lambda: parametrizations.weight_norm(nn.Conv2d(16, 4, 3)))}
    model = network(**parts)
    found = gathered(model, "gates").gates["b.parametrizations.weight.original1"]
    torch.testing.assert_close(found[:, 0], derivative_by_gates(model, SAMPLES))


class Moody(nn.Module):
    """Counts its passes, keeps what it saw, and has a norm with statistics."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 4)
        self.passes, self.seen = 0, []

    def forward(self, x):
        self.passes += 1
        self.seen.append(len(x))
        return self.b(self.n(self.a(x)).relu_().mean((2, 3)))


@pytest.mark.parametrize("need", ["gradients", "gates", "activations"])
def test_the_model_stays_as_it_was(need):
    model = Moody().train()
    model.a.weight.requires_grad_(False)
    model.b.bias.grad = torch.full((4,), 7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = groups_of(model)
    random = torch.get_rng_state()
    gather(Network.of(model), groups, [need], samples=SAMPLES)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert list(grads) == ["b.bias"] and (grads["b.bias"] == 7).all()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["a.weight"]
    assert model.training and model.n.training and model.passes == 0 and model.seen == []
    assert torch.equal(random, torch.get_rng_state())


def test_passes_are_small_and_told():
    sizes, told = [], []
    model = network(lambda m, x: [sizes.append(len(x)), m.b(m.a(x)).mean((2, 3))][1])
    groups = groups_of(model)
    sizes.clear()
    needs = ["gradients", "activations"]
    gather(
        Network.of(model),
        groups,
        needs,
        samples=SAMPLES,
        watch=lambda text, part: told.append((text, part)),
    )
    assert sizes == [4, 4, 2] * 2
    shares = [0.0, 0.4, 0.8]
    assert told == [(f"{need} of 10 images", share) for need in needs for share in shares]


def test_large_images_come_in_smaller_batches(monkeypatch):
    sizes = []
    model = network(lambda m, x: [sizes.append(len(x)), m.b(m.a(x)).mean((2, 3))][1])
    groups = groups_of(model)
    for numbers, expected in ((3 * 8 * 8 * 3, [3, 3, 2, 2]), (1, [1] * 10)):
        sizes.clear()
        monkeypatch.setattr(batches, "NUMBERS", numbers)
        gather(Network.of(model), groups, ["gradients"], samples=SAMPLES)
        assert sizes == expected


def test_images_take_the_precision_of_the_network():
    model = network().double()
    (groups, _) = find_groups(
        Network.of(model), couple([capture(Network.of(model), (IMAGES[:2].double(),))])
    )
    found = gather(Network.of(model), groups, ["gradients"], samples=SAMPLES)
    assert found.gradients["a.weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("model", "samples", "sentence"),
    [
        (network(), Samples(IMAGES), "gradients need labels"),
        (network(lambda m, x: m.b(m.a(x))), SAMPLES, r"one score per class \[N, classes\]"),
        (network(lambda m, x: {"out": m.b(m.a(x))}), SAMPLES, r"one score per class"),
        (network(b=conv(16, 1)), SAMPLES, "zero for a network of one class"),
        (network(), Samples(IMAGES, SAMPLES.labels + 1), "outside the network's 4 classes, 0 to 3"),
        (network(), Samples(IMAGES[:, :1], SAMPLES.labels), "does not run on the .* 1x8x8: "),
        (
            network(lambda m, x: m.b(m.a(x)).mean((2, 3)).detach()),
            SAMPLES,
            "the network's output has no gradient: ",
        ),
        (
            network(lambda m, x: m.b((m.a(x) * 0).sqrt()).mean((2, 3))),
            SAMPLES,
            "the gradient of a.weight holds NaN or Inf",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_and_networks_without_gradients_are_refused(model, samples, sentence):
    with pytest.raises(InputError, match=sentence):
        gather(Network.of(model), groups_of(model), ["gradients"], samples=samples)


# -------------------------------------------------------------------------------------- activations


def statistics(x, axis=1):
    """Mean of |x| and share of zeros of each channel, on another way."""
    rest = [d for d in range(x.dim()) if d != axis]
    return torch.stack([x.abs().double().mean(rest), (x == 0).double().mean(rest)], 1)


def halves(x):
    """What both groups of a grouped convolution read at the same place of its weight."""
    return torch.cat(x.relu().chunk(2, 1))


def pooled(m, x):
    return m.a(x).relu().mean((2, 3))


def as_words(m, x):
    return m.a(x).relu().flatten(2).transpose(1, 2)


CONSUMERS = {
    "convolution": (
        lambda m, x: m.b(m.a(x).relu()),
        {},
        "b.weight",
        lambda h: statistics(h.relu()),
    ),
    "raw convolution": (
        lambda m, x: conv2d(m.a(x).relu(), m.w),
        {"w": weight(4, 16, 1, 1)},
        "w",
        lambda h: statistics(h.relu()),
    ),
    "unbatched": (
        lambda m, x: torch.stack([m.b(image) for image in m.a(x).relu()]),
        {},
        "b.weight",
        lambda h: statistics(h.relu()),
    ),
    "grouped": (
        lambda m, x: m.b(m.g(m.a(x).relu())),
        {"g": conv(16, 16, groups=2)},
        "g.weight",
        lambda h: statistics(halves(h)),
    ),
    "transposed": (
        lambda m, x: m.b(m.g(m.a(x).relu())),
        {"g": up(16, 16)},
        "g.weight",
        lambda h: statistics(h.relu()),
    ),
    "linear": (
        lambda m, x: m.l(pooled(m, x)),
        {"l": lin(16, 4)},
        "l.weight",
        lambda h: statistics(h.relu().mean((2, 3))),
    ),
    "linear over words": (
        lambda m, x: m.l(as_words(m, x)),
        {"l": lin(16, 4, bias=False)},
        "l.weight",
        lambda h: statistics(h.relu()),
    ),
    "linear over flattened maps": (
        lambda m, x: m.l(m.a(x).relu().flatten(1)),
        {"l": lin(16 * 64, 4)},
        "l.weight",
        lambda h: statistics(h.relu().flatten(1)),
    ),
    "raw linear": (
        lambda m, x: linear(pooled(m, x), m.w),
        {"w": weight(4, 16)},
        "w",
        lambda h: statistics(h.relu().mean((2, 3))),
    ),
    "weight on the left": (
        lambda m, x: (m.w @ pooled(m, x).T).T,
        {"w": weight(4, 16)},
        "w",
        lambda h: statistics(h.relu().mean((2, 3))),
    ),
    "weight used twice": (
        lambda m, x: m.b(m.a(x).relu()) + m.b(m.a(x).relu() * 3),
        {},
        "b.weight",
        lambda h: statistics(torch.cat([h.relu(), h.relu() * 3])),
    ),
    "normalised weight": (
        lambda m, x: m.g(m.a(x).relu()),
        {"g": partial(lambda: parametrizations.weight_norm(nn.Conv2d(16, 4, 3)))},
        "g.parametrizations.weight.original1",
        lambda h: statistics(h.relu()),
    ),
}


@pytest.mark.parametrize("name", CONSUMERS)
def test_what_a_layer_is_given(name):
    body, parts, parameter, expected = CONSUMERS[name]
    model = network(body, **parts)
    found = gathered(model, "activations", samples=Samples(IMAGES)).activations
    with torch.no_grad():
        torch.testing.assert_close(
            found[parameter], expected(model.a(IMAGES)), rtol=1e-5, atol=1e-6
        )


def test_a_weight_that_is_read_along_its_other_axis_is_not_mistaken():
    model = network(lambda m, x: m.l(pooled(m, x) @ m.w), w=weight(16, 16), l=lin(16, 4))
    assert gathered(model, "activations").activations.keys() == {"l.weight"}


def test_attention_shows_what_its_projections_are_given():
    model = network(
        lambda m, x: m.l(m.t(as_words(m, x)).mean(1)),
        t=partial(nn.TransformerEncoderLayer, 16, 2, 24, batch_first=True),
        l=lin(16, 4),
    ).eval()
    found = gathered(model, "activations").activations
    names = ("self_attn.in_proj_weight", "linear1.weight", "linear2.weight")
    assert {f"t.{name}" for name in names} <= found.keys()
    with torch.no_grad():
        words = as_words(model, IMAGES)
    torch.testing.assert_close(
        found["t.self_attn.in_proj_weight"], statistics(words, 2), rtol=1e-5, atol=1e-6
    )


def test_an_exported_program_is_seen_like_its_modules():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)
    model = nn.Sequential(*layers).eval()
    program = Program(record_program(Network.of(model), IMAGE), Network.of(model).tensors)
    found = gathered(program, "gradients", "gates", "activations")
    expected = gathered(model, "gradients", "gates", "activations")
    for need in ("gradients", "gates", "activations"):
        torch.testing.assert_close(getattr(found, need), getattr(expected, need))


def test_nothing_that_was_seen_is_kept():
    """A statistic of two numbers for a channel, whatever the number of images."""
    model = network(b=seq(conv(16, 4)))
    found = gathered(model, "activations").activations
    assert {name: tuple(t.shape) for name, t in found.items()} == {"b.0.weight": (16, 2)}


# ---------------------------------------------------------------------------------- initial weights


def test_initial_weights_are_known_by_any_of_their_names():
    model = network(lambda m, x: m.b(m.a(x)))
    model.second = model.a
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    del state["a.weight"], state["a.bias"]
    with pytest.raises(InputError, match=r"lack a\.weight: give those of this network"):
        gathered(model, "initial", init=state)
    state["a.weight"], state["a.bias"] = state["second.weight"], state["second.bias"]
    found = gathered(model, "initial", init=state).initial
    torch.testing.assert_close(found["a.weight"], model.a.weight.detach() + 1)
    assert "second.weight" not in found


def test_initial_weights_of_another_network_are_refused():
    model = network()
    state = {**model.state_dict(), "b.weight": torch.zeros(4, 8, 3, 3)}
    with pytest.raises(InputError, match=r"b\.weight is 4x8x3x3 there and 4x16x3x3 here"):
        gathered(model, "initial", init=state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_single_precision(kind):
    """A sum of 640 halves of 200 overflows float16, and gradients of 1e-8 vanish in it."""
    model = network()
    with torch.no_grad():
        model.a.weight *= 1000
        model.b.weight *= 1e-3
    groups, halves = groups_of(model), deepcopy(model).to(kind)
    whole, half = (gather(Network.of(m), groups, ALL, samples=SAMPLES) for m in (model, halves))
    for need in ("gradients", "gates", "activations"):
        for name, known in getattr(half, need).items():
            assert known.dtype in (torch.float32, torch.float64)
            assert known.isfinite().all() and known.any()
            torch.testing.assert_close(
                known.double(), getattr(whole, need)[name].double(), rtol=0.1, atol=0.05
            )


@pytest.mark.parametrize("need", ["activations", "gates"])
def test_columns_counted_across_groups_are_those_of_the_block_diagonal_weight(need):
    torch.manual_seed(0)
    model = Around().eval()
    groups = groups_of(model)
    alike = [of_dense(group) for group in groups]
    found = getattr(gather(Network.of(model), groups, (need,), samples=SAMPLES), need)
    expected = getattr(gather(Network.of(as_dense(model)), alike, (need,), samples=SAMPLES), need)
    assert len(found["b.weight"]) == 60
    torch.testing.assert_close(found["b.weight"], expected["b.weight"])
