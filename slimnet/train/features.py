"""Hidden features of a slim network beside those of the network that it was cut from.

The plan says which channels of a layer survive: output j of the slim layer is output ``kept[j]`` of
the dense one. Both are compared before the activation, where they are linear in the layer's input
(Heo et al., *A Comprehensive Overhaul of Feature Distillation*, 2019), in parts of the variance of
the dense network's, the mean over all layers. Their channels are the same ones, so that no layer
has to be learnt between them (Romero et al., *FitNets*, 2015).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.plan.plan import Plan
from slimnet.task import relative_error

Calls = Mapping[str, list[Tensor]]
"""Layer → what it gave, call by call."""


@dataclass(frozen=True)
class Features:
    """The layers that are compared: name → channels of the dense layer that survive."""

    kept: Mapping[str, Tensor] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)  # of the channels, from the end

    @classmethod
    def of(cls, plan: Plan, slim: nn.Module, dense: nn.Module) -> Features:
        """Convolutions and linear layers that both have, those whose outputs are scaled aside.

        Raises :class:`InputError` where there is none.
        """
        layers, originals = Network.of(slim).modules, Network.of(dense).modules
        kept, axes = {}, {}
        for name, layer in layers.items():
            if not _is_compared(name, layer, plan) or type(originals.get(name)) is not type(layer):
                continue
            weight = originals[name].weight
            kept[name] = plan.of(f"{name}.weight").kept(0, weight.shape)  # type: ignore[arg-type]
            axes[name] = 1 - layer.weight.dim() if isinstance(layer, _ConvNd) else -1
        if not kept:
            raise InputError("both networks have no convolution or linear layer to compare")
        return cls(kept, axes)

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[Calls]:
        """What the layers of a network give, while this is open."""
        calls: defaultdict[str, list[Tensor]] = defaultdict(list)
        modules = Network.of(model).modules

        def watch(name: str) -> torch.utils.hooks.RemovableHandle:
            return modules[name].register_forward_hook(
                lambda module, args, output: calls[name].append(output)
            )

        handles = [watch(name) for name in self.kept]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()

    def apart(self, slim: Calls, dense: Calls) -> Tensor:
        """The mean of :func:`~slimnet.task.relative_error` over all calls of the layers."""
        errors = [
            self._error(name, output, target)
            for name in self.kept
            for output, target in zip(slim.get(name, ()), dense.get(name, ()), strict=False)
        ]
        if not errors:
            raise InputError("none of the layers that both networks have is called: no features")
        return torch.stack(errors).mean()

    def _error(self, name: str, output: Tensor, target: Tensor) -> Tensor:
        kept = self.kept[name].to(target.device)
        own = target.index_select(self.axes[name], kept)
        return relative_error(output.float(), own.float())


def _is_compared(name: str, layer: nn.Module, plan: Plan) -> bool:
    """Whether rows of its weight are its outputs, as the dense network's are."""
    rows = isinstance(layer, (_ConvNd, nn.Linear)) and not isinstance(layer, _ConvTransposeNd)
    own = rows and "weight" in layer._parameters  # computed weights are none of the plan's
    return own and not {f"{name}.weight", f"{name}.bias"} & plan.scaled.keys()
