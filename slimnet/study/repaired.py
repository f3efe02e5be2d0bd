"""Repaired weights of a slim network, made once for each seed and kept beside it.

The seed draws the images that the repair reads. Several regimes start from the same weights, in
whatever process they run: the first that needs them makes them, the others wait and read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from slimnet.digest import sealed, unsealed
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.networks.payload import load_payload
from slimnet.output import set_aside, write_torch
from slimnet.plan.plan import Plan
from slimnet.progress import remark
from slimnet.repairs import repair
from slimnet.study.store import Store, turn
from slimnet.task import Task, samples_from


def write_repaired(
    slim: nn.Module, path: Path, store: Store, make: Callable[[], nn.Module]
) -> None:
    """Write into ``slim`` the weights in the file, which are those of ``make`` where it is new."""
    with turn(store, path.stem):
        weights = _stored_weights(path)
        if weights is None:
            weights = {
                name: t.detach().cpu().clone() for name, t in Network.of(make()).tensors.items()
            }
            write_torch(path, sealed({"weights": weights}))
    with torch.no_grad():
        for name, tensor in Network.of(slim).tensors.items():
            tensor.copy_(weights[name])


def repaired(
    dense: nn.Module,
    slim: nn.Module,
    plan: Plan,
    task: Task,
    *,
    samples: int,
    seed: int,
    place: torch.device,
) -> nn.Module:
    """``slim``, repaired on so many samples; both networks, which the caller gives, are moved."""
    calibration = samples_from(task, samples, seed, slim)
    original, cut = (Network.of(model.to(place)) for model in (dense, slim))
    return repair(original, cut, plan, calibration, seed=seed)[0]


def _stored_weights(path: Path) -> Mapping[str, Tensor] | None:
    """The weights in a file; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        weights: Mapping[str, Tensor] = unsealed(load_payload(path))["weights"]
        return weights
    except (InputError, KeyError, TypeError, AttributeError):
        aside = set_aside(path, "damaged")
        remark(f"{path} is damaged: it is kept as {aside.name}, and the repair is made again")
        return None
