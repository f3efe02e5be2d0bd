"""A task is whatever gives batches, inputs, a loss and metrics: of any shape, in any containers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MulticlassAccuracy

from slimnet.errors import InputError
from slimnet.task import (
    LoaderTask,
    Measured,
    Metric,
    Task,
    call,
    check_task,
    each_first,
    fingerprint_of,
    number_of,
    samples_in,
)
from slimnet.tasks.data import load_data, load_task
from slimnet.train import Schedule, measure, train

SHORT = Schedule(epochs=12, lr=0.05, batch=16)


def regression(count=96, **options):
    torch.manual_seed(0)
    x = torch.randn(count, 6)
    y = x @ torch.randn(6, 2)
    options = {"loss_of": squared, "measured": {"mae": Measured(MeanAbsoluteError)}, **options}
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True)
    return LoaderTask(loader, DataLoader(TensorDataset(x, y), 32), **options)


def squared(outputs, batch):
    return nn.functional.mse_loss(outputs, batch[1])


def line(outputs=2):
    torch.manual_seed(1)
    return nn.Linear(6, outputs)


def test_a_plain_loader_and_a_loss_are_a_task():
    task, model = regression(), line()
    before = measure(model, task, "cpu")
    history = train(model, task, SHORT, seed=0, device="cpu")
    assert history.metrics == measure(model, task, "cpu")
    assert history.metrics["mae"] < 0.2 < before["mae"]
    assert history.samples == 12 * 96
    assert task.metrics == (Metric("mae", best="lowest"),)


def test_what_a_loader_draws_follows_the_seed():
    weights = []
    for seed in (0, 0, 1):
        model = line()
        train(model, regression(), SHORT, seed=seed, device="cpu")
        weights.append(model.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, left, *, right):
        return {"scores": self.left(left) + self.right(right)}


def test_batches_may_be_dicts_and_inputs_keywords():
    torch.manual_seed(0)
    rows = [{"left": torch.randn(3), "right": torch.randn(3), "kind": n % 4} for n in range(64)]
    for row in rows:
        row["left"][row["kind"] % 3] += 5
    task = LoaderTask(
        DataLoader(rows, 16),
        DataLoader(rows, 16),
        loss_of=lambda out, batch: nn.functional.cross_entropy(out["scores"], batch["kind"]),
        inputs_of=lambda batch: {"left": batch["left"], "right": batch["right"]},
        measured={
            "accuracy": Measured(
                lambda: MulticlassAccuracy(4, average="micro"),
                lambda metric, out, batch: metric.update(out["scores"], batch["kind"]),
                unit="%",
                scale=100,
            )
        },
    )
    history = train(TwoInputs(), task, SHORT, seed=0, device="cpu")
    assert history.accuracy > 60
    assert task.metrics == (Metric("accuracy", "%", "highest"),)


def test_a_task_without_metrics_is_measured_by_its_loss():
    task = regression(measured={})
    assert measure(line(), task, "cpu")["loss"] > 0
    assert task.metrics == (Metric("loss", best="lowest"),)


def test_a_task_without_a_loss_says_so_only_where_one_is_needed():
    task = LoaderTask([torch.ones(2, 6)])
    assert next(iter(task.batches("train", 2))).shape == (2, 6)
    with pytest.raises(InputError, match="own data has no loss: give one to train"):
        train(line(), task, SHORT, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"inputs_of": lambda batch: batch["picture"]},
            r"inputs_of of own data failed: TypeError: .* \(test_task.py:\d+\)",
        ),
        (
            {"loss_of": lambda out, batch: out["points"]},
            r"loss_of of own data failed: (TypeError|IndexError): .* \(test_task.py:\d+\)",
        ),
        (
            {"loss_of": lambda out, batch: (out - batch[1]).abs()},
            r"loss_of of own data gives a tensor of shape \[16, 2\]: it must give one number",
        ),
        ({"loss_of": lambda out, batch: 0.5}, "loss_of of own data gives a float: it must give"),
        (
            {"loss_of": lambda out, batch: squared(out, batch).detach()},
            "loss_of of own data gives a number that does not come from the outputs",
        ),
        (
            {"measured": {"mae": Measured(MeanAbsoluteError, lambda m, out, batch: batch["y"])}},
            r"the metric 'mae' failed: TypeError: .* \(test_task.py:\d+\)",
        ),
        (
            {"measured": {"accuracy": Measured(lambda: MulticlassAccuracy(4))}},
            r"the metric 'accuracy' failed: \w+: [^(]*$",
        ),
        ({"test": []}, "own data gives no batch to test on"),
    ],
)
def test_what_fails_in_a_function_of_the_users_is_named(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        train(line(), replace(regression(), **changes), SHORT, seed=0, device="cpu")


def test_what_the_functions_of_the_users_refuse_stays_as_it_is():
    def refuse(batch):
        raise InputError("the third camera is missing")

    with pytest.raises(InputError, match=r"^the third camera is missing$"):
        measure(line(), regression(inputs_of=refuse), "cpu")


def test_a_frozen_network_has_a_loss_too():
    loss = regression().loss(line().requires_grad_(False), next(iter(regression().test)))
    assert loss > 0


def test_a_loader_without_batches_is_refused():
    with pytest.raises(InputError, match="own data gives no batch to train on"):
        train(line(), LoaderTask([], loss_of=squared), SHORT, seed=0, device="cpu")


def test_labelled_images_are_a_task():
    data = load_data("digits")
    assert isinstance(data, Task)
    assert check_task(data, "digits") is data
    assert number_of(data.batches("test", 100)) == 6
    assert fingerprint_of(data) == data.fingerprint()
    assert sum(samples_in(batch) for batch in data.batches("test", 100)) == 599


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.ones(5, 3), 5),
        ((torch.ones(4, 3), torch.ones(4)), 4),
        ([torch.ones(4, 3), torch.ones(4)], 4),  # what torch's loader makes of pairs
        ({"x": torch.ones(7, 2)}, 7),
        (([torch.ones(3, 8, 8), torch.ones(3, 6, 6)], [{}, {}]), 2),  # images of other sizes
        (({"x": torch.ones(3, 2)}, torch.ones(3)), 3),
        (torch.tensor(1.0), 1),
        ("text", 1),
    ],
)
def test_samples_in_a_batch(batch, count):
    assert samples_in(batch) == count


def test_the_first_samples_of_many_batches():
    batches = [torch.ones(4, 2)] * 9
    assert len(list(each_first(batches, 10))) == 3


def test_floating_inputs_take_the_networks_type_and_others_stay():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2).double()

        def forward(self, x, places):
            assert places.dtype == torch.int64
            return self.a(x)[places]

    assert call(Net(), (torch.ones(3, 2), torch.tensor([0]))).dtype == torch.float64


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def make_task(): return 3", "returned a int, which is no task: it lacks name, metrics"),
        ("def make_task(): return 1, 2", "returned 2 values: return a task, or the four arrays"),
    ],
)
def test_what_is_no_task_is_refused(body, sentence, tmp_path):
    (tmp_path / "own.py").write_text(body)
    with pytest.raises(InputError, match=sentence):
        load_task(f"{tmp_path / 'own.py'}:make_task")


def test_a_users_own_task_is_taken_and_needs_no_normalisation(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\n"
        "from slimnet.task import LoaderTask\n"
        "def make_task():\n"
        "    return LoaderTask([torch.ones(2, 6)], name='ones')\n"
    )
    assert load_task(f"{own}:make_task").name == "ones"
    with pytest.raises(InputError, match="normalises itself"):
        load_task(f"{own}:make_task", "imagenet")
    with pytest.raises(InputError, match="needs labelled images"):
        load_data(f"{own}:make_task")


def test_a_metric_knows_which_way_is_better():
    assert Metric("accuracy").is_better(2, 1) and Metric("loss", best="lowest").is_better(1, 2)
