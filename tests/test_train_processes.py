"""One training in two processes gives what one gives."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

import slimnet
from slimnet.errors import InputError
from slimnet.files.slim_file import read_slim
from slimnet.models import MODELS
from slimnet.train.processes import ALONE, Processes, joined


def test_the_parts_of_a_batch_are_the_batch():
    pictures = [torch.ones(3, n, 4) for n in range(1, 6)]
    batch = {"x": torch.arange(5), "pictures": pictures, "scale": torch.ones(2), "name": "a"}
    parts = [Processes(rank, 2).part(batch) for rank in range(2)]
    assert [share for _, share in parts] == [0.4, 0.6]
    assert torch.equal(torch.cat([part["x"] for part, _ in parts]), batch["x"])
    assert [p.shape[1] for part, _ in parts for p in part["pictures"]] == [1, 2, 3, 4, 5]
    assert all(part["scale"].tolist() == [1, 1] and part["name"] == "a" for part, _ in parts)


def test_a_batch_that_cannot_be_split_is_everybodys():
    batch = (torch.ones(1, 3), torch.zeros(1))
    assert [Processes(rank, 2).part(batch) for rank in range(2)] == [(batch, 0.5)] * 2
    assert ALONE.part(batch) == (batch, 1.0)


@pytest.mark.parametrize(
    "batch",
    [
        [torch.ones(2, 3), torch.zeros(2)],  # as a loader collates two pairs
        {"pair": [torch.ones(2, 3), {"labels": torch.zeros(2)}]},
        ([torch.ones(3, 4, 5), torch.ones(3, 6, 7), torch.ones(3, 4, 4)], torch.zeros(3)),
    ],
)
def test_a_list_that_may_be_of_samples_or_not_is_everybodys(batch):
    assert Processes(0, 2).part(batch) == (batch, 0.5)


@pytest.fixture
def group(tmp_path):
    """A group of one process, over which sums can be taken."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_batch_norms_over_processes_are_torchs(kind, options, group):
    torch.manual_seed(0)
    own = kind(4, **options).double()
    shared, others = copy.deepcopy(own), torch.randn(6, 4, *([5, 3] * (kind is nn.BatchNorm2d)))
    x, y = (others.double().requires_grad_() for _ in range(2))
    for _ in range(2):
        with Processes(0, 2).normalising(shared):
            made = shared(y)
        wanted = own(x)
        torch.testing.assert_close(made, wanted)
    (one,), (other,) = (torch.autograd.grad(z.pow(3).sum(), v) for z, v in ((wanted, x), (made, y)))
    torch.testing.assert_close(other, one)
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], tensor)
    torch.testing.assert_close(shared.eval()(y), own.eval()(x))


def test_batch_norms_that_measure_wait_for_nobody():
    norm, x = nn.BatchNorm1d(4, track_running_stats=False).eval(), torch.randn(6, 4)
    with Processes(0, 2).normalising(norm):  # and no group: sums cannot be taken
        torch.testing.assert_close(norm(x), nn.functional.batch_norm(x, None, None, training=True))


def test_batch_norms_of_ones_own_are_refused():
    class Activated(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x).relu()

    with (
        pytest.raises(InputError, match="Activated normalises batches in a way of its own"),
        Processes(0, 2).normalising(Activated(4)),
    ):
        pass
    with ALONE.normalising(norm := Activated(4)):
        assert float(norm(torch.randn(6, 4)).min().detach()) >= 0


def test_a_process_that_nobody_started_with_others_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as processes:
        assert processes == ALONE and processes.first


def test_two_processes_end_in_the_weights_of_one(tmp_path):
    torch.manual_seed(0)
    dense = MODELS["digits_resnet"].make()
    pruned = slimnet.prune(dense, (torch.zeros(1, 1, 8, 8),), ratio=0.6)
    slimnet.save(pruned, tmp_path / "slim.pt", "slimnet:digits_resnet")
    command = ["-m", "slimnet", "retrain", str(tmp_path / "slim.pt"), "--data", "digits"]
    command += ["--train-images", "250", "--epochs", "2", "--precision", "float32"]
    command += ["--threads", "1", "--accumulate", "2", "--batch", "32", "--clip", "1"]
    started = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    run([*command, "-o", str(one)])
    printed = run([*started, *command, "-o", str(two)])
    assert printed.count("two.pt written") == 1
    alone, together = (read_slim(path).tensors for path in (one, two))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=2e-4, atol=2e-5, msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.pt", "slim.pt", "two.pt"]


def run(arguments):
    """What it prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
