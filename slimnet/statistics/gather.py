"""One gatherer for what criteria need beside the weights: gradients, activations, initial weights.

Takes a model, calibration samples and needs, gives :class:`~slimnet.statistics.statistics.Gathered`
values. Passes run batch by batch on a copy in evaluation mode, and in single precision where the
network is in half: of the user's model nothing changes, no ``.grad``, no flag and no statistic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from slimnet.coupling.groups import Group
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.progress import Progress, not_shown
from slimnet.samples import Samples
from slimnet.statistics.activations import activations
from slimnet.statistics.batches import batches, in_single, working_copy
from slimnet.statistics.gradients import loss_gradients, squared_gates
from slimnet.statistics.moments import read_inputs
from slimnet.statistics.statistics import Gathered, Need


def gather(
    network: Network,
    groups: Sequence[Group],
    needs: Collection[Need],
    *,
    samples: Samples | None = None,
    init: Mapping[str, Tensor] | None = None,
    watch: Progress = not_shown,
) -> Gathered:
    """What these needs name, as far as it is given: the rest stays empty.

    Raises :class:`InputError` where the network does not run on the images, where gradients are
    needed and there are no labels, and where the initial weights are another network's.
    """
    found, needs = Gathered(), set(needs)
    if init is not None and "initial" in needs:
        found = replace(found, initial=_initial(network, init))
    if samples is not None and needs & {"gradients", "gates", "activations"}:
        copy = working_copy(network, samples)
        if "gradients" in needs:
            found = replace(found, gradients=loss_gradients(copy, samples, watch))
        if "gates" in needs:
            found = replace(found, gates=squared_gates(copy, groups, samples, watch))
        if "activations" in needs:
            found = replace(found, activations=activations(copy, groups, samples, watch))
    if samples is not None and "inputs" in needs:
        wide = in_single(network, samples)
        images = torch.cat([part.images for part in batches(wide, samples, "inputs", watch)])
        found = replace(found, inputs=read_inputs(wide, images, watch=watch))
    return found


def _initial(network: Network, init: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each parameter's value in ``init``, where it may go by any of its names."""
    first = network.first
    found: dict[str, Tensor] = {}
    for name, tensor in network.parameters.items():
        if name in init:
            _check_shape(name, init[name], tensor)
            found.setdefault(first[name], init[name].detach().to(tensor.device, tensor.dtype))
        elif first[name] not in found:
            raise InputError(f"the initial weights lack {name}: give those of this network")
    return found


def _check_shape(name: str, given: Tensor, own: Tensor) -> None:
    if given.shape != own.shape:
        theirs, ours = ("x".join(map(str, t.shape)) for t in (given, own))
        raise InputError(
            f"the initial weights are another network's: {name} is {theirs} there and {ours} here"
        )
