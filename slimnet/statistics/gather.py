"""Collects what criteria need beside the weights: gradients, activations, initial weights.

Takes a network, calibration samples and the needs of a criterion, gives
:class:`~slimnet.statistics.statistics.Statistics`. Passes run batch by batch on a copy in
evaluation mode, and in single precision where the network is in half: of the user's model nothing
changes, no ``.grad``, no flag and no running mean.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from slimnet.coupling.groups import Group
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.progress import Progress, not_shown
from slimnet.samples import Samples
from slimnet.statistics.activations import activations
from slimnet.statistics.batches import fitting, in_single, working_copy
from slimnet.statistics.gradients import loss_gradients, squared_gates
from slimnet.statistics.moments import input_moments
from slimnet.statistics.statistics import Need, Statistics


def gather(
    network: Network,
    groups: Sequence[Group],
    needs: Collection[Need],
    *,
    samples: Samples | None = None,
    init: Mapping[str, Tensor] | None = None,
    watch: Progress = not_shown,
) -> Statistics:
    """The statistics that ``needs`` names, where samples or weights are given; others stay empty.

    Raises :class:`InputError` where the network does not run on the images, where gradients are
    needed and there are no labels, and where the initial weights are another network's.
    """
    gathered, needs = Statistics(), set(needs)
    if init is not None and "initial" in needs:
        gathered = replace(gathered, initial=_initial(network, init))
    if samples is not None and needs & {"gradients", "gates", "activations"}:
        copy = working_copy(network, samples)
        if "gradients" in needs:
            gathered = replace(gathered, gradients=loss_gradients(copy, samples, watch))
        if "gates" in needs:
            gathered = replace(gathered, gates=squared_gates(copy, groups, samples, watch))
        if "activations" in needs:
            gathered = replace(gathered, activations=activations(copy, groups, samples, watch))
    if samples is not None and "inputs" in needs:
        wide = in_single(network, samples)
        fit = fitting(wide, samples)
        gathered = replace(gathered, inputs=input_moments(wide, fit, watch=watch))
    return gathered


def _initial(network: Network, init: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each parameter's value in ``init``, where it may go by any of its names."""
    first = network.first
    weights: dict[str, Tensor] = {}
    for name, tensor in network.parameters.items():
        if name in init:
            _check_shape(name, init[name], tensor)
            weights.setdefault(first[name], init[name].detach().to(tensor.device, tensor.dtype))
        elif first[name] not in weights:
            raise InputError(f"the initial weights lack {name}: give those of this network")
    return weights


def _check_shape(name: str, initial: Tensor, own: Tensor) -> None:
    if initial.shape != own.shape:
        there, here = ("x".join(map(str, t.shape)) for t in (initial, own))
        raise InputError(
            f"the initial weights are another network's: {name} is {there} there and {here} here"
        )
