"""Fresh weights for a network of any shape: where training from scratch starts.

The protocol of Liu et al. (ICLR 2019): He fan-out with the network's own, pruned widths for
convolutions, N(0, 0.01) for linear layers, batch norms at 1 and 0. Other layers start as PyTorch
starts them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from slimnet.capture.randomness import drawing_from
from slimnet.errors import InputError


def reinitialise(model: nn.Module, seed: int) -> None:
    """Start ``model``, which the caller owns, afresh in place; the seed alone decides the weights.

    Frozen parameters (``requires_grad=False``) are no weights to be learnt and stay. Raises
    ``InputError`` for trained parameters that no rule and no ``reset_parameters`` covers.
    """
    with drawing_from(seed, devices=[]), torch.no_grad():
        for name, module in model.named_modules():
            if _is_learnt(module):
                _start(name, module)


def _is_learnt(module: nn.Module) -> bool:
    """Whether the module itself, not its children, has something to start afresh."""
    if isinstance(module, parametrize.ParametrizationList):
        return False  # written through the layer that it belongs to
    own = [*module.parameters(recurse=False)]
    inside = getattr(module, "parametrizations", None)
    if isinstance(inside, nn.ModuleDict):
        own += [*inside.parameters()]
    statistics = isinstance(module, _NormBase) and not own
    return statistics or any(parameter.requires_grad for parameter in own)


def _start(name: str, module: nn.Module) -> None:
    rule = next((rule for kind, rule in _RULES.items() if isinstance(module, kind)), None)
    # attention keeps PyTorch's own way to start a layer under a private name
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if rule is not None:
        rule(module)
    elif callable(reset):
        reset()
    else:
        own = ", ".join(f"{name}.{own}".lstrip(".") for own in module._parameters)
        raise InputError(
            f"cannot start {own} afresh: {type(module).__name__} has no reset_parameters(); "
            "give it one, or leave the scratch regimes out"
        )


def _convolution(module: nn.Module) -> None:
    weight = torch.empty_like(_tensor(module.weight))
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    _write(module, weight)


def _linear(module: nn.Module) -> None:
    _write(module, torch.empty_like(_tensor(module.weight)).normal_(std=0.01))


def _norm(module: nn.Module) -> None:
    if isinstance(module, _NormBase):
        module.reset_parameters()


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"a weight is a tensor, not {type(value).__name__}")
    return value


def _write(module: nn.Module, weight: Tensor) -> None:
    if parametrize.is_parametrized(module, "weight"):
        module.weight = weight  # the parametrisation takes the value apart
    elif "weight" in module._parameters:
        _tensor(module.weight).copy_(weight)
    else:
        raise InputError(
            f"cannot start a {type(module).__name__} afresh whose weight is computed before each "
            "call (weight_norm of torch.nn.utils); use torch.nn.utils.parametrizations"
        )
    if isinstance(module.bias, Tensor):
        module.bias.zero_()


_RULES: dict[type[nn.Module], Callable[[nn.Module], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _norm,
}
