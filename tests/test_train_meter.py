"""What a training took: counters that are there are read, and nothing is made up."""

import pytest
import torch

from slimnet.train import meter
from slimnet.train.meter import Meter

CPU = torch.device("cpu")


def zone(folder, name, joules, limit=1000.0):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(str(int(joules * 1e6)))
    (folder / name / "max_energy_range_uj").write_text(str(int(limit * 1e6)))


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    monkeypatch.setattr(meter, "RAPL", tmp_path)
    return tmp_path


def test_the_packages_are_added_and_their_parts_are_not(rapl):
    for name, joules in (("intel-rapl:0", 10), ("intel-rapl:1", 990), ("intel-rapl:0:0", 5)):
        zone(rapl, name, joules)
    running = Meter(CPU)
    zone(rapl, "intel-rapl:0", 17)
    zone(rapl, "intel-rapl:1", 3)  # which went past 1000 and began again
    zone(rapl, "intel-rapl:0:0", 500)
    assert running.used().energy == pytest.approx(7 + 13)


def test_without_counters_energy_is_not_measurable(rapl):
    assert Meter(CPU).used().energy is None


@pytest.mark.skipif(not (meter.Path("/proc/self/clear_refs")).exists(), reason="Linux alone")
def test_the_mark_is_of_the_block(rapl):
    small = Meter(CPU).used()
    running = Meter(CPU)
    torch.ones(64, 2**20).sum()
    assert small.memory and running.used().memory > small.memory + 200 * 2**20
