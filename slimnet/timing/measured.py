"""A network's time as it stands, measured, and by it the time of every cut of it.

The model is lent to the registry of costs: within the block, whatever counts costs counts
milliseconds, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimnet.costs.cost import cost_inputs
from slimnet.costs.quantity import COSTS
from slimnet.export.inputs import random_inputs
from slimnet.export.latency import measure_latency
from slimnet.export.onnx_file import export_onnx
from slimnet.export.profile import profile
from slimnet.network import Network
from slimnet.output import scratch
from slimnet.progress import Progress
from slimnet.timing.cache import cache_folder
from slimnet.timing.model import TimeModel, rates_of
from slimnet.timing.table import TimeTable, setting_of
from slimnet.timing.work import works


@dataclass(frozen=True, eq=False)
class Subject:
    """A network in a file that is timed, and the table that knows other widths."""

    network: Network
    example: tuple[Any, ...]
    file: Path  # ONNX
    table: TimeTable

    @contextmanager
    def lent(self, whole: float, watch: Progress) -> Iterator[None]:
        """Within it ``latency`` is a cost: ms of a run, of the network itself ``whole``."""
        setting = self.table.setting
        watch("measuring its convolutions at other widths", 0.0)
        images = random_inputs(self.example, setting.batch, 0)
        nodes = profile(self.file, images, threads=setting.threads)
        rates = rates_of(cost_inputs(self.network, self.example), self.table, nodes, whole)
        row = replace(
            COSTS["latency"], model=lambda inputs: TimeModel(list(works(inputs)), self.table, rates)
        )
        with COSTS.lent("latency", row):
            yield
            self.table.save()


@contextmanager
def timed(
    network: Network,
    example: tuple[Any, ...],
    *,
    batch: int,
    outputs: Sequence[str],
    watch: Progress,
) -> Iterator[float]:
    """The ms of a run; within the block ``latency`` is a cost of this network's cuts."""
    with scratch() as folder:
        watch("measuring the network as it is", 0.0)
        file = folder / "dense.onnx"
        export_onnx(network.model, example, file, outputs=outputs, verify=False)
        table = TimeTable(setting_of(batch), cache_folder())
        latency = measure_latency({"dense": file}, example, batch=batch)
        whole = latency.timing("dense").median_ms
        with Subject(network, example, file, table).lent(whole, watch):
            yield whole
