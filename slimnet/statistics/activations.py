"""The activations that layers read, channel by channel: their mean size, how often they are zero.

A call belongs to a layer if it reads the memory of the layer's weight. So a raw ``F.conv2d``, a
matrix product and the calls of an exported program count like any module. Only sums are kept, no
activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from slimnet.capture.modules import evaluation_mode
from slimnet.capture.trace import AtenMode, fast_paths_off
from slimnet.coupling.groups import Group
from slimnet.network import Network
from slimnet.operator import of
from slimnet.progress import Progress
from slimnet.samples import Samples
from slimnet.statistics.batches import batches, run
from slimnet.statistics.moments import overflow
from slimnet.statistics.readers import Reader, readers


def activations(
    network: Network, groups: Sequence[Group], samples: Samples, watch: Progress
) -> dict[str, Tensor]:
    """[channels, 2] for every weight that reads a group's channels: mean |x|, share of zeros.

    Raises :class:`InputError` where the network does not run on the images, or sums are no numbers.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(network))
        stack.enter_context(torch.no_grad())
        stack.enter_context(fast_paths_off())
        stack.enter_context(parametrize.cached())
        watcher = _Watcher(readers(network, groups))
        for batch in batches(network, samples, "activations", watch):
            with watcher:
                run(network.model, batch)
    for name, sums in watcher.sums.items():
        if not bool(sums.totals.isfinite().all()):
            raise overflow(name)
    return {name: sums.mean() for name, sums in watcher.sums.items()}


@dataclass(eq=False)
class _Sums:
    """Σ|x| and the number of zeros of each channel, and how many numbers there were."""

    totals: Tensor  # [channels, 2] float64
    count: int = 0

    def add(self, rows: Tensor) -> None:
        """Of ``rows`` [channels, numbers]."""
        parts = rows.abs().sum(1).double(), (rows == 0).sum(1).double()
        self.totals += torch.stack(parts, 1)
        self.count += rows.shape[1]

    def mean(self) -> Tensor:
        """[channels, 2]."""
        return self.totals / self.count


class _Watcher(AtenMode):
    """Sees the ATen calls that sum over channels, and adds up what the given weights read."""

    def __init__(self, weights: Sequence[Reader]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {reader.tensor.data_ptr(): reader for reader in weights}
        self.sums: dict[str, _Sums] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        read = of(func).reads
        for x, x_axis, view, axis in read(*args) if read else ():
            reader = self._weights.get(view.data_ptr())
            if reader is not None and reader.is_summed(view, axis):
                self._add(reader.name, x.movedim(x_axis, 0).flatten(1), reader.channels)
        return func(*args, **(kwargs or {}))

    def _add(self, name: str, rows: Tensor, length: int) -> None:
        """Groups of a grouped convolution may share the input axis of its weight: [G·length, n]."""
        rows = rows.unflatten(0, (-1, length)).transpose(0, 1).flatten(1)
        if name not in self.sums:
            self.sums[name] = _Sums(rows.new_zeros(length, 2, dtype=torch.float64))
        self.sums[name].add(rows)
