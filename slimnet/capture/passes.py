"""The passes that a cut is planned and proven with: in evaluation mode and, if needed, in training.

Takes a network and an example, gives one :class:`~slimnet.capture.trace.Trace` for each pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from slimnet.capture.suitable import refuse_unsuitable
from slimnet.capture.trace import Trace, capture
from slimnet.errors import CaptureError, InputError
from slimnet.example import doubled
from slimnet.network import Network


def capture_passes(
    network: Network, example: tuple[Any, ...], outputs: Sequence[str] = ()
) -> list[Trace]:
    """The evaluation pass and, where it leaves parameters unused, a training pass as well.

    ``outputs`` are those that somebody reads, all where there are none. A pass in training mode
    that does not give them all is read whole. Raises :class:`InputError` for a network that cannot
    be recorded, or is broken already, and for an output that it does not have.
    """
    refuse_unsuitable(network, example)
    traces = [capture(network, example).reading(outputs)]
    if not traces[0].outputs:
        raise InputError(f"{network.name} returns no tensor: nothing could be compared")
    if not network.parameters:
        raise InputError(f"{network.name} has no parameters: there is nothing to prune")
    if network.parameters.keys() - traces[0].tensors.keys():
        with suppress(CaptureError):  # what only training runs stays as it is; inspect says so
            traces.append(
                _reading_if_there(capture(network, doubled(example), training=True), outputs)
            )
    return traces


def _reading_if_there(trace: Trace, outputs: Sequence[str]) -> Trace:
    try:
        return trace.reading(outputs)
    except InputError:
        return trace
