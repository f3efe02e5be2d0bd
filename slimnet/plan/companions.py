"""What belongs to a network and is cut with it: other weights of it, and an optimiser's state.

A plan was made for one set of weights and fits any other of the same network: a moving average, an
earlier checkpoint, momenta. All of them are indexed as the weights are.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import cut


def cut_state(state: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """A state dict of the network that the plan was made for, cut as the plan says.

    Names may carry what a wrapper puts before them (``module.``). Entries of blocks that left are
    left out; what no plan speaks of stays. Raises :class:`InputError` where it does not fit.
    """
    prefix = _prefix(state, plan)
    missing = [name for name in plan.removed if prefix + name not in state]
    if missing:
        raise InputError(f"the plan cuts {min(missing)}, which this state dict does not have")
    own = {name: name.removeprefix(prefix) for name in state}
    return {
        name: _cut(own[name], value, plan)
        for name, value in state.items()
        if not any(stub.drops(own[name]) for stub in plan.stubs)
    }


def cut_optimizer(
    optimizer: torch.optim.Optimizer, plan: Plan, model: nn.Module, slim: nn.Module
) -> torch.optim.Optimizer:
    """The optimiser of ``model`` as one of ``slim``, which the plan cut from it; both stay.

    Options of its groups and numbers such as steps stay, and what it keeps of a parameter in the
    parameter's own shape (momenta) is cut with it. A learning rate scheduler holds the optimiser:
    give it the new one (``scheduler.optimizer = …``). Raises :class:`InputError` where the
    optimiser has parameters that are not the model's.
    """
    names = {id(t): name for name, t in Network.of(model).parameters.items()}
    small = Network.of(slim).parameters
    for group in optimizer.param_groups:
        if not all(id(parameter) in names for parameter in group["params"]):
            raise InputError("the optimiser has parameters that are none of the model's")
    new = copy.copy(optimizer)  # as it would be read from a file
    new.defaults = dict(optimizer.defaults)
    new.param_groups = [
        {**group, "params": [small[name] for name in _names(group, names) if name in small]}
        for group in optimizer.param_groups
    ]
    new.state = defaultdict(dict)
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        if name in small:
            new.state[small[name]] = {
                key: _momentum(name, value, parameter.shape, plan) for key, value in state.items()
            }
    return new


def _prefix(state: Mapping[str, Any], plan: Plan) -> str:
    """What a wrapper puts before the names that the plan has."""
    one = next(iter(plan.removed), "")
    for name in state:
        prefix = name.removesuffix(one)
        if name.endswith(one) and all(prefix + other in state for other in plan.removed):
            return prefix
    return ""


def _cut(name: str, value: Any, plan: Plan) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not plan.of(name).fits(value.shape):
        raise InputError(f"the plan does not fit {name} of shape {tuple(value.shape)}")
    return cut(name, value, plan)


def _names(group: Mapping[str, Any], names: Mapping[int, str]) -> list[str]:
    return [names[id(parameter)] for parameter in group["params"]]


def _momentum(name: str, value: Any, shape: torch.Size, plan: Plan) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    return plan.of(name).select(value).clone() if value.shape == shape else value.clone()
