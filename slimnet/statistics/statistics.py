"""What a criterion reads of a network beside its weights, as one value.

Every mapping is by the first name of a parameter; an empty one was not gathered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from slimnet.statistics.moments import InputMoments

Need: TypeAlias = "Literal['gradients', 'gates', 'initial', 'activations', 'inputs']"
"""One field of :class:`Statistics`, as a criterion declares it."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Gradients, initial weights, activations and moments of inputs, by parameter name."""

    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the mean loss over the calibration images; each of its parameter's shape."""
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    """[length of the weight's "in" axis, 1]: of each channel that the layer reads, the squared
    derivative of the loss by a gate that multiplies it there; the mean over mini-batches."""
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights before training; each of its parameter's shape."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """[length of the weight's "in" axis, 2]: of each channel that the layer reads, the mean of |x|
    and the share of zeros, over all images and positions."""
    inputs: Mapping[str, InputMoments] = field(default_factory=dict)
    """Second moments of what each convolution and linear map reads."""

    def has(self, need: Need) -> bool:
        """Whether this was gathered."""
        return bool(getattr(self, need))
