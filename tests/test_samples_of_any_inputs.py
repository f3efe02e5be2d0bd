"""Criteria and repair on networks of any inputs: several, by name, of different sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import slimnet
from slimnet.errors import InputError
from slimnet.repairs.output_error import output_error
from slimnet.samples import SampleBatches, Samples, samples_of
from slimnet.task import LoaderTask, samples_from


class Two(nn.Module):
    """An image and a vector, by name; scores and a number."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU())
        self.side = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 32))
        self.head, self.size = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, image, vector, scale=1.0):
        x = self.more(self.body(image)).mean((2, 3)) * scale + self.side(vector)
        return {"scores": self.head(x), "boxes": [self.size(x), torch.zeros(1, dtype=torch.int64)]}


def two(count=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "vector": torch.randn(count, 5, generator=draw),
        "image": torch.randn(count, 3, 8, 8, generator=draw),
    }


def apart(model, slim, inputs):
    """The change of the scores over their variance."""
    with torch.no_grad():
        one, other = (net(**inputs)["scores"] for net in (model, slim))
    return output_error(one, other)


@pytest.mark.parametrize("criterion", ["l1", "thinet", "lasso", "mean-activation"])
def test_several_inputs_by_name_are_scored_and_repaired(criterion):
    model, data = Two().eval(), Samples(two(200))
    options = {"ratio": 0.5, "align": None, "criterion": criterion, "data": data}
    cut = slimnet.prune(model, two(2), **options)
    repaired = slimnet.prune(model, two(2), repair=True, **options)
    assert repaired.repair.after < repaired.repair.before
    test = two(100, seed=1)
    assert apart(model, repaired.model, test) < 0.7 * apart(model, cut.model, test)
    again = slimnet.repair(cut, model, data)
    assert apart(model, again.model, test) < 0.7 * apart(model, cut.model, test)


def test_inputs_by_position_are_those_by_name():
    model, named = Two().eval(), two(60)
    pair = (named["image"], named["vector"])
    cuts = [
        slimnet.prune(model, two(2), ratio=0.5, criterion="thinet", data=Samples(data)).plan
        for data in (named, pair)
    ]
    assert cuts[0].removed == cuts[1].removed


def test_gradients_are_of_a_loss_of_ones_own():
    model, inputs = Two().eval(), two(32)

    def loss(net, some):
        return (net(*some.inputs)["scores"] - some.labels["wanted"]).square().mean()

    data = Samples(inputs, {"wanted": torch.zeros(32, 4)}, loss)
    pruned = slimnet.prune(model, two(2), ratio=0.5, criterion="taylor", data=data)
    assert pruned.certificate is not None
    other = Samples(inputs, {"wanted": torch.full((32, 4), 100.0)}, loss)
    plans = [
        slimnet.prune(model, two(2), ratio=0.5, criterion="gradient", data=d).plan.removed
        for d in (data, other)
    ]
    assert plans[0] != plans[1]


class Whole(nn.Module):
    """Images of any size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 8, 1)),
        )

    def forward(self, x):
        return self.body(x)


def sizes(*pairs, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return SampleBatches.of([Samples(torch.randn(8, 3, h, w, generator=draw)) for h, w in pairs])


MANY = ((16, 16), (16, 24), (20, 12), (16, 16), (28, 8), (12, 12))


@pytest.mark.parametrize("criterion", ["l1", "thinet", "mean-activation"])
def test_batches_of_different_sizes(criterion):
    model, data = Whole().eval(), sizes(*MANY)
    image = (torch.zeros(1, 3, 16, 16),)
    options = {"ratio": 0.5, "align": None, "criterion": criterion, "data": data}
    cut = slimnet.prune(model, image, **options)
    repaired = slimnet.prune(model, image, repair=True, **options)
    assert len(data) == 48 and repaired.repair.images + repaired.repair.held_out == 48
    test = torch.randn(20, 3, 16, 16)
    with torch.no_grad():
        errors = [output_error(model(test), p.model(test)) for p in (cut, repaired)]
    assert errors[1] < 0.7 * errors[0]


def test_batches_are_split_as_wholes():
    data = sizes(*MANY)
    held, rest = data.split(3)
    assert len(held) == 8 and len(rest) == 40
    assert [len(part) for part in data.batches(5)] == [5, 3] * 6
    assert len(data.first(4)) == 4 and len(data.first(20)) == 24
    assert len(data.first(48)) == len(data.first(1000)) == 48
    assert data.numbers == 3 * 16 * 24 and data.places == 16 * 24
    with pytest.raises(InputError, match="at least 2 batches of samples of different sizes"):
        lone = SampleBatches(data.images, parts=(data.parts[0],))
        slimnet.prune(Whole(), (torch.zeros(1, 3, 16, 16),), ratio=0.5, repair=True, data=lone)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"image": torch.ones(3, 2), "vector": torch.ones(4, 2)}, r"shapes \[3, 2\], \[4, 2\]"),
        (("text",), "hold no tensor"),
        ((torch.ones(()),), "a row for each sample"),
        (({"x": torch.full((3, 2), torch.nan)},), "NaN or infinite"),
        ((torch.ones(4, 2), torch.ones(4, 3)), "are the same"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(data, sentence):
    with pytest.raises(InputError, match=sentence):
        samples_of(data)


def test_samples_of_a_task():
    rows = [{"x": torch.randn(5), "y": torch.tensor(n % 2)} for n in range(50)]
    task = LoaderTask(
        DataLoader(rows, 8, shuffle=True),
        loss_of=lambda out, batch: nn.functional.cross_entropy(out, batch["y"]),
        inputs_of=lambda batch: batch["x"],
    )
    model = nn.Linear(5, 2)
    state = torch.get_rng_state()
    samples, again = (samples_from(task, 20, 3, model) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(samples) == 20 and torch.equal(samples.inputs[0], again.inputs[0])
    (batch,) = samples.split(6)[0].batches(9)
    wanted = nn.functional.cross_entropy(model(batch.inputs[0]), batch.labels["y"])
    assert torch.equal(samples.loss(model, batch), wanted)


def test_samples_of_a_task_whose_batches_cannot_be_joined():
    lists = [([torch.ones(3, 8, n), torch.ones(3, n, 8)], [{}, {}]) for n in range(4, 9)]
    samples = samples_from(LoaderTask(lists), 6, 0, nn.Identity())
    assert len(samples) == 6 and len(samples.parts) == 3
    assert all(part.count == 2 and len(part.inputs[0]) == 2 for part in samples.parts)
