"""A study of any task: its metrics by name, the first counts, whichever way is better."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_report_table import printed
from torch import nn

from slimnet import cli
from slimnet.comparison import Settings, one_sample, run_comparison, write_comparison
from slimnet.errors import InputError
from slimnet.files.access import Opened
from slimnet.report import columns, table
from slimnet.study import Results, Study
from slimnet.study.budget import ratios
from slimnet.task import LoaderTask, Metric, fingerprint_of, sample_of
from slimnet.tasks.data import DataSpec
from slimnet.train import Schedule

OWN = """
import torch
from torch import nn
import slimnet

def make_model():
    torch.manual_seed(0)
    return Two().eval()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.picture, self.vector = nn.Conv2d(1, 16, 3), nn.Linear(4, 16)
        self.head = nn.Linear(32, 1)

    def forward(self, picture, vector):
        x = self.picture(picture).relu().mean((2, 3))
        return {"amount": self.head(torch.cat([x, self.vector(vector).relu()], 1))[:, 0]}

def make_task():
    draw = torch.Generator().manual_seed(0)
    pictures, vectors = torch.rand(48, 1, 6, 6, generator=draw), torch.rand(48, 4, generator=draw)
    rows = [
        {"picture": p, "vector": v, "amount": p.mean() + v[0]}
        for p, v in zip(pictures, vectors)
    ]
    from torch.utils.data import DataLoader
    return slimnet.LoaderTask(
        train=DataLoader(rows[:32], batch_size=8, shuffle=True),
        test=DataLoader(rows[32:], batch_size=8),
        inputs_of=lambda batch: {name: batch[name] for name in ("picture", "vector")},
        loss_of=lambda outputs, batch: nn.functional.mse_loss(outputs["amount"], batch["amount"]),
        name="amounts",
    )
"""
STUDY = Study(ratios(0.5), ("l1",), ("finetune",), (0, 1), Schedule(epochs=4, lr=0.05, batch=8))
SETTINGS = Settings(timed=False, device="cpu", prune={"align": None})


def regressor():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1)).eval()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(96, 3, 4)).astype(np.float32)
    y = x.sum((1, 2))
    np.savez(folder / "sums.npz", x_train=x[:64], y_train=y[:64], x_test=x[64:], y_test=y[64:])
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def sums(shelf):
    spec = DataSpec(f"task:regression:{shelf / 'sums.npz'}")
    return spec, spec.load()


@pytest.fixture(scope="module")
def network(sums, tmp_path_factory):
    spec, task = sums
    folder = tmp_path_factory.mktemp("study")
    model = regressor()
    example = one_sample(Opened(model, None), task)
    return folder, run_comparison(
        "net", model, example, task, STUDY, folder, SETTINGS, lambda text, part: None, spec=spec
    )


def test_results_hold_every_metric_and_which_way_is_better(network):
    results = network[1].results
    assert results.metrics == (Metric("mse", best="lowest"), Metric("mae", best="lowest"))
    dense, slim = results.summary()
    assert dense.metrics.keys() == slim.metrics.keys() == {"mse", "mae"}
    runs = [record.metrics["mae"] for record in results.records[1:]]
    assert slim.metrics["mae"].mean == pytest.approx(sum(runs) / 2)
    assert slim.first is slim.metrics["mse"]
    assert Results.from_json(json.loads(json.dumps(results.to_json()))) == results


def test_what_a_person_reads_names_the_metric_and_its_direction(network):
    folder, compared = network
    shown = printed(table(compared.results))
    assert max(map(len, shown.splitlines())) <= 80
    assert "Mse (lower is better) on 32 test samples, mean ± standard deviation" in " ".join(
        shown.split()
    )
    assert [c.heading for c in columns.full(compared.results) if "mae" in c.heading] == ["mae"]
    page = write_comparison(folder, "title", "slimnet compare", [compared]).read_text()
    assert "64 training and 32 test samples" in page
    assert "accuracy" not in page.split("</script>")[-1].lower()


def test_values_have_four_figures_where_they_are_no_percentages(network):
    results = network[1].results
    dense = replace(results.dense, metrics={"mse": 0.01234, "mae": 250.0})
    small = replace(results, records=(dense,))
    assert [small.digits(metric) for metric in small.metrics] == [5, 1]


def test_a_task_of_ones_own_is_compared_in_workers_by_its_name(shelf, monkeypatch, capsys):
    """Several inputs, by name; the workers read the user's file themselves."""
    monkeypatch.chdir(shelf)
    torch.manual_seed(0)
    scope = {}
    exec(OWN, scope)
    torch.save(scope["make_model"]().state_dict(), "own.pt")
    command = (
        "compare own.pt --arch own.py:make_model --data own.py:make_task --regime repair,finetune "
        "--seeds 2 --epochs 4 --lr 0.05 --align off --threads 1 --json"
    )
    found = []
    for options in ("-o one", "-o two --workers 2"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main(f"{command} {options}".split())
        out, err = capsys.readouterr()
        assert (stopped.value.code, err) == (0, "")
        found.append([record["metrics"] for record in json.loads(out)["records"]])
    assert found[0] == found[1]
    assert len(found[0]) == 5 and all(metrics.keys() == {"loss"} for metrics in found[0])


def test_what_fits_labelled_images_alone_is_refused(shelf):
    spec = DataSpec(f"task:regression:{shelf / 'sums.npz'}", train=5)
    with pytest.raises(InputError, match="--train-images and --test-images are for labelled"):
        spec.load()


def test_a_network_that_a_task_does_not_fit_is_refused(sums):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(InputError, match="a regression needs as many numbers of both"):
        one_sample(Opened(wide.eval(), None), sums[1])


def test_an_example_has_the_shapes_of_a_sample_and_not_its_content(sums):
    (example,) = sample_of(sums[1], regressor())
    first = sums[1].x_test[:1]
    assert example.shape == first.shape and not torch.equal(example, first)
    assert torch.equal(example.flatten().sort().values, first.flatten().sort().values)


def own_task(**changes):
    rows = torch.arange(12.0).reshape(6, 2)
    test = [(rows[:3], rows[:3, 0])]
    return replace(LoaderTask([(rows, rows[:, 0])], test), **changes)


def test_data_of_ones_own_are_told_apart_by_what_is_tested_on():
    one = fingerprint_of(own_task())
    assert fingerprint_of(own_task()) == one
    assert fingerprint_of(own_task(name="other")) != one
    assert fingerprint_of(own_task(test=[(torch.ones(3, 2), torch.ones(3))])) != one


def test_the_first_look_at_the_data_measures_several_samples(sums):
    class Explained(type(sums[1])):
        def measure(self, model, batches):
            (batch,) = batches
            assert len(batch[0]) > 1, "R2 of one sample is not defined"
            return super().measure(model, [batch])

    task = Explained(**vars(sums[1]))
    assert one_sample(Opened(regressor(), None), task)[0].shape == (1, 3, 4)
