"""One gatherer for what criteria need beside the weights: gradients, activations, initial weights.

Takes a model, calibration samples and needs, gives a :class:`~slimnet.measuring.gathered.Gathered`.
Passes run batch by batch on a copy in evaluation mode, and in single precision where the network is
in half: of the user's model nothing changes, no ``.grad``, no flag and no statistic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from slimnet.capture.modules import copied, first_names, named_tensors
from slimnet.coupling.groups import Group
from slimnet.errors import InputError
from slimnet.measuring.activations import activations
from slimnet.measuring.gathered import Gathered, Need
from slimnet.measuring.gradients import loss_gradients, squared_gates
from slimnet.reconstruction.batches import batches, in_single
from slimnet.reconstruction.readings import read_inputs
from slimnet.samples import Samples
from slimnet.watch import Watch, unwatched


def gather(
    model: nn.Module,
    groups: Sequence[Group],
    needs: Collection[Need],
    *,
    samples: Samples | None = None,
    init: Mapping[str, Tensor] | None = None,
    watch: Watch = unwatched,
) -> Gathered:
    """What these needs name, as far as it is given: the rest stays empty.

    Raises :class:`InputError` where the network does not run on the images, where gradients are
    needed and there are no labels, and where the initial weights are another network's.
    """
    found, own, needs = Gathered(), model, set(needs)
    if samples is not None and needs - {"initial"}:
        model = in_single(model, samples)
    if init is not None and "initial" in needs:
        found = replace(found, initial=_initial(own, init))
    if samples is not None and "gradients" in needs:
        found = replace(found, gradients=loss_gradients(copied(model), samples, watch))
    if samples is not None and "gates" in needs:
        found = replace(found, gates=squared_gates(copied(model), groups, samples, watch))
    if samples is not None and "activations" in needs:
        found = replace(found, activations=activations(copied(model), groups, samples, watch))
    if samples is not None and "inputs" in needs:
        images = torch.cat([part.images for part in batches(model, samples, "inputs", watch)])
        found = replace(found, inputs=read_inputs(model, images, watch=watch))
    return found


def _initial(model: nn.Module, init: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each parameter's value in ``init``, where it may go by any of its names."""
    first = first_names(model)
    found: dict[str, Tensor] = {}
    for name, tensor in named_tensors(model):
        if not isinstance(tensor, nn.Parameter):
            continue
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
