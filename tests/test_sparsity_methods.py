"""Each method of training sparse is held to its published rule, and to what it leaves behind."""

import copy
import io

import pytest
import torch
from shufflenet import Around, as_dense, dense, of_dense
from torch import nn
from torch.nn.utils import prune as torch_prune

import slimnet
from slimnet.criteria import load_criteria
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.sparsity import SPARSIFIERS
from slimnet.sparsity.sparseness import Share, sparseness
from slimnet.tasks.data import load_data
from slimnet.train import Callback, Schedule, Snapshot, train
from slimnet.train.callback import Moment

METHODS = SPARSIFIERS
EXAMPLE = (torch.zeros(1, 1, 8, 8),)
WIDE = (EXAMPLE[0].double(),)
WHOLE = Schedule(epochs=1, lr=0.1, batch=64, momentum=0.9, weight_decay=1e-2)  # one single step


class Residual(nn.Module):
    def __init__(self, width=16, blocks=2, dropout=0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(blocks)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(self.dropout(x.mean((2, 3))))


def residual(seed=0, **options):
    torch.manual_seed(seed)
    return Residual(**options)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=64, test=50)


def run(model, data, schedule, *callbacks, **options):
    return train(model, data, schedule, seed=1, device="cpu", callbacks=callbacks, **options)


def gradients(model, data):
    """Of the loss of all training images at once, in training mode."""
    model = copy.deepcopy(model).train()
    images = data.normalize(data.x_train).to(next(model.parameters()).dtype)
    nn.functional.cross_entropy(model(images), data.y_train).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_slimming_steps_by_the_gradient_plus_the_sign_of_the_scale(data):
    model = residual().double()
    scales = dict(model.named_parameters())["blocks.0.1.weight"]
    with torch.no_grad():
        scales[:3] = torch.tensor([-0.5, 0.0, 2.0])
    before, gradient = scales.detach().clone(), gradients(model, data)["blocks.0.1.weight"]
    run(model, data, WHOLE, METHODS["slimming"].make(model, EXAMPLE, 0.3))
    assert before[1] == 0
    expected = before - 0.1 * (gradient + 0.3 * before.sign() + 1e-2 * before)
    torch.testing.assert_close(scales.detach(), expected)


def test_slimming_leaves_everything_but_scales_to_the_loss(data):
    one, two = residual(), residual()
    run(one, data, WHOLE)
    run(two, data, WHOLE, METHODS["slimming"].make(two, EXAMPLE, 0.3))
    pairs = zip(one.named_parameters(), two.parameters(), strict=True)
    moved = {name for (name, a), b in pairs if not torch.equal(a, b)}
    assert moved == {"stem.1.weight", *(f"blocks.{b}.{n}.weight" for b in (0, 1) for n in (1, 4))}


class Watch(Callback):
    """Keeps what a function gives at each event."""

    def __init__(self, look, *events):
        self.seen = []
        for event in events:
            setattr(self, event, lambda moment: self.seen.append(look(moment)))


def filters_of(moment):
    return {n: p.detach().clone() for n, p in moment.model.named_parameters() if p.dim() == 4}


def test_soft_filters_zeroes_the_smallest_of_every_convolution_after_each_epoch(data):
    model = chain()
    before, after = (Watch(filters_of, "on_epoch_end") for _ in range(2))
    method = METHODS["soft-filters"].make(model, EXAMPLE, 0.3)
    run(model, data, Schedule(epochs=3, lr=0.1), before, method, after)
    for was, now in zip(before.seen, after.seen, strict=True):
        for name, zeroed in (("0.weight", 4), ("3.weight", 3)):  # int(16 · 0.3), int(12 · 0.3)
            norms = [sum(w * w for w in row.flatten().tolist()) ** 0.5 for row in was[name]]
            smallest = sorted(range(len(norms)), key=norms.__getitem__)[:zeroed]
            expected = was[name].clone()
            expected[smallest] = 0
            assert torch.equal(now[name], expected)


def test_filters_that_were_zeroed_grow_again(data):
    model = chain()
    method = METHODS["soft-filters"].make(model, EXAMPLE, 0.5)
    watch = Watch(lambda m: filters_of(m)["0.weight"].flatten(1).any(1), "on_epoch_end")
    steps = Watch(lambda m: filters_of(m)["0.weight"].flatten(1).any(1), "on_step_end")
    run(model, data, Schedule(epochs=2, lr=0.1), method, watch, steps)
    assert watch.seen[0].sum() == watch.seen[1].sum() == 8
    assert steps.seen[1].all()


def test_the_filters_that_make_the_output_stay(data):
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 10, 1)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    run(model, data, WHOLE, METHODS["soft-filters"].make(model, EXAMPLE, 0.5))
    assert model[2].weight.flatten(1).any(1).all()
    assert model[0].weight.flatten(1).any(1).sum() == 8


@pytest.mark.parametrize("make", [chain, residual])
def test_what_soft_filters_leaves_equals_its_cut(make, data):
    model = make()
    run(model, data, Schedule(epochs=2), METHODS["soft-filters"].make(model, EXAMPLE, 0.5))
    found = sparseness(Network.of(model), EXAMPLE)
    assert 0.4 < found.filters.some / found.filters.all <= 0.5
    stream = ["stem.0"] if make is residual else []  # its makers chose filters of their own
    slim = slimnet.prune(model, EXAMPLE, ratio=0.5, criterion="l2", align=None, keep=stream)
    assert sum(p.numel() for p in slim.model.parameters()) < 0.7 * found.weights.all
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected, got = model.double()(images.double()), slim.model.double()(images.double())
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def apg(gradient_at, start, rates, momentum, strength):
    """Accelerated proximal gradient as the textbook has it: x by the prox at y, y beyond x."""
    x = y = start
    for rate in rates:
        z = y - rate * gradient_at(y)
        new = max(abs(z) - rate * strength, 0.0) * (1 if z > 0 else -1)
        x, y = new, new + momentum * (new - x)
        yield y


def test_block_scales_step_as_accelerated_proximal_gradient(data):
    model = residual().double()
    method = METHODS["block-scales"].make(model, WIDE, 0.4)
    seen = Watch(
        lambda m: (method.scales.detach().clone(), method.scales.grad.clone()), "on_step_end"
    )
    after = Watch(lambda m: method.scales.detach().clone(), "on_step_end")
    schedule = Schedule(epochs=8, lr=0.1, batch=32)
    run(model, data, schedule, seen, method, after)
    assert len(seen.seen) == 16 and (seen.seen[0][0] == 1).all()
    rates = [schedule.lr_at(step // 2) for step in range(16)]
    for block in range(2):
        given = iter(grads[block].item() for _, grads in seen.seen)
        expected = apg(lambda y, given=given: next(given), 1.0, rates, 0.9, 0.4)
        got = [scales[block].item() for scales in after.seen]
        assert got == pytest.approx(list(expected), abs=1e-12)


def test_the_gradient_of_a_scale_is_that_of_the_branch_times_it(data):
    model = residual().double().eval()
    method = METHODS["block-scales"].make(model, WIDE, 0.1)
    hooked = copy.deepcopy(model).train()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    hooked.blocks[1].register_forward_hook(lambda module, args, out: out * scale)
    images = data.normalize(data.x_train).double()
    nn.functional.cross_entropy(hooked(images), data.y_train).backward()
    first = Watch(lambda m: method.scales.grad.clone(), "on_step_end")
    run(model, data, WHOLE, first, method)
    torch.testing.assert_close(first.seen[0][1], scale.grad)


def outputs(moment):
    with torch.no_grad():
        return moment.model.eval()(torch.ones(2, 1, 8, 8))


def test_scales_are_folded_to_the_bit_and_leave_a_plain_network(data):
    model = residual()
    names = list(model.state_dict())
    method = METHODS["block-scales"].make(model, EXAMPLE, 0.2)
    scaled = Watch(outputs, "on_end")
    run(model, data, Schedule(epochs=2, batch=32), scaled, method)
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in residual().named_parameters()
    ]
    assert type(model.blocks[0][4]) is nn.BatchNorm2d
    assert (method.scales != 1).all()
    with torch.no_grad():
        assert torch.equal(model(torch.ones(2, 1, 8, 8)), scaled.seen[0])


def test_a_block_of_scale_zero_adds_exactly_nothing(data):
    model = residual()
    method = METHODS["block-scales"].make(model, EXAMPLE, 5.0)
    run(model, data, Schedule(epochs=4, batch=32), method)
    assert (method.scales == 0).all()
    assert sparseness(Network.of(model), EXAMPLE).blocks == Share(2, 2)
    images = torch.randn(3, 1, 8, 8)
    short = slimnet.prune(model, EXAMPLE, drop_blocks=2).model
    with torch.no_grad():
        torch.testing.assert_close(short(images), model(images))
        alone = model.head(model.stem(images).relu().relu().mean((2, 3)))
        assert torch.equal(model(images), alone)


def test_group_lasso_adds_the_gradient_of_its_penalty(data):
    one = chain().double()
    two = copy.deepcopy(one)
    method = METHODS["group-lasso"].make(two, WIDE, 0.7)
    plain, pulled = (
        Watch(lambda m: [p.grad.clone() for p in m.model.parameters()], "on_gradients")
        for _ in range(2)
    )
    run(one, data, WHOLE, plain)
    start = chain().double()
    run(two, data, WHOLE, method, pulled)
    conv, norm, second, head = start[0], start[1], start[3], start[7]
    first = [conv.weight, conv.bias[:, None], norm.weight[:, None], norm.bias[:, None]]
    groups = (
        [*first, second.weight.transpose(0, 1)],
        [second.weight, second.bias[:, None], head.weight.T],
    )
    norms = [torch.cat([part.flatten(1) for part in group], 1).norm(dim=1) for group in groups]
    penalty = 0.7 * (norms[0].sum() + norms[1].sum())
    wanted = torch.autograd.grad(penalty, list(start.parameters()), allow_unused=True)
    for with_it, without, gradient in zip(pulled.seen[0], plain.seen[0], wanted, strict=True):
        expected = torch.zeros_like(without) if gradient is None else gradient
        torch.testing.assert_close(with_it - without, expected)


def test_group_lasso_takes_an_atom_of_zeros_as_it_is(data):
    model = chain()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias, model[1].weight, model[1].bias):
            tensor[5] = 0
        model[3].weight[:, 5] = 0
    run(model, data, WHOLE, METHODS["group-lasso"].make(model, EXAMPLE, 0.1))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not model[0].weight[5].any()


def test_unstructured_takes_the_smallest_weights_of_all_and_holds_them(data):
    model, reference = residual(), residual()
    layers = [m for m in reference.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    pairs = [(layer, "weight") for layer in layers]
    torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=0.8)
    masks = [layer.weight_mask.bool() for layer in layers]
    run(model, data, Schedule(epochs=3), METHODS["unstructured"].make(model, EXAMPLE, 0.8))
    trained = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for weight, mask, layer in zip(trained, masks, layers, strict=True):
        assert not weight[~mask].any()
        assert (weight[mask] != layer.weight_orig[mask]).any()
    left = sparseness(Network.of(model), EXAMPLE).weights
    assert left == Share(sum(int((~mask).sum()) for mask in masks), sum(m.numel() for m in masks))


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_training_taken_up_ends_as_if_never_stopped(method, data):
    schedule = Schedule(epochs=4, lr=0.05, batch=24)
    file = io.BytesIO()

    def callbacks(model):
        row = None if method is None else METHODS[method]
        return [] if row is None else [row.make(model, EXAMPLE, row.default)]

    def keep(snapshot):
        if len(snapshot.losses) == 2:
            torch.save(snapshot.to_payload(), file)
            raise Killed

    unbroken, broken, resumed = (residual(dropout=0.3) for _ in range(3))
    whole = run(unbroken, data, schedule, *callbacks(unbroken))
    with pytest.raises(Killed):
        run(broken, data, schedule, *callbacks(broken), keep=keep)
    file.seek(0)
    snapshot = Snapshot.from_payload(torch.load(file, weights_only=True))
    torch.rand(5)
    rest = run(resumed, data, schedule, *callbacks(resumed), resume=snapshot)
    assert (rest.losses, rest.accuracy) == (whole.losses, whole.accuracy)
    states = zip(unbroken.state_dict().items(), resumed.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 10))


@pytest.mark.parametrize(
    ("method", "model", "sentence"),
    [
        ("slimming", flat(), "the scales of batch norms, .* choose another method: block-scales"),
        ("block-scales", chain(), "residual branches, and this network has none"),
        ("soft-filters", flat(), "convolutions whose filters can leave"),
        ("group-lasso", flat(), "channels that can leave"),
        ("unstructured", nn.Sequential(nn.BatchNorm2d(1)), "weights of convolutions and linear"),
    ],
)
def test_a_method_without_anything_to_work_on_says_so(method, model, sentence):
    with pytest.raises(InputError, match=f"{method} works on .*{sentence}"):
        METHODS[method].make(model, EXAMPLE, 0.5)


def test_every_method_has_a_number_a_paper_and_a_known_criterion():
    known = load_criteria()
    for name in METHODS:
        row = METHODS[name]
        assert row.amount(name, None, None) == row.default
        assert any(year in row.source for year in ("2015", "2016", "2017", "2018"))
        option, value = [*row.cut.split(), "", ""][:2]
        assert option in ("", "--drop-blocks") or value in known


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        ("slimming", (0.0, None), "the strength of slimming must be greater than 0, and 0 does"),
        ("slimming", (float("nan"), None), "must be greater than 0, and nan"),
        ("slimming", (None, 0.5), "slimming has no rate: its amount is given by --strength"),
        ("soft-filters", (0.1, None), "soft-filters has no strength: .* --rate"),
        ("unstructured", (None, 1.0), "the rate of unstructured must lie between 0 and 1, and 1"),
    ],
)
def test_an_amount_that_cannot_be_used_is_refused(method, given, sentence):
    with pytest.raises(InputError, match=sentence):
        METHODS[method].amount(method, *given)


def test_group_lasso_knows_other_columns_of_every_group():
    """The norms and their sub-gradient are those of the block-diagonal weight."""
    torch.manual_seed(0)
    model = Around().double()
    example = (torch.zeros(1, 3, 8, 8, dtype=torch.float64),)
    method = METHODS["group-lasso"].make(model, example, 0.7)
    whole = as_dense(model).double()
    other = type(method)([of_dense(group) for group in method.groups], 0.7)
    seen = []
    for network, lasso in ((model, method), (whole, other)):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        moment = Moment(network, None, 0, 0)
        lasso.on_start(moment)
        lasso.on_gradients(moment)
        tensors = dict(network.named_parameters())
        seen.append([lasso.norms(group, tensors) for group in lasso.groups])
    torch.testing.assert_close(*seen)
    torch.testing.assert_close(dense(model.b.weight.grad, 3), whole.b.weight.grad)
    assert model.b.weight.grad.ne(0).all()
