"""Images without labels: enough for a repair, and for criteria that read activations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.samples import Samples
from slimnet.task import Metric, Split
from slimnet.tasks.batches import Batches
from slimnet.tasks.classification import Images, Normalize, drawn_numbers


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Images [N, C, H, W] of one split, and no labels."""

    name: str
    x_train: Images
    normalize: Normalize

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """None can be measured; the name is for who asks."""
        return (Metric("accuracy", "%"),)

    def batches(self, split: Split, size: int, generator: torch.Generator | None = None) -> Batches:
        """Images, normalised; the training images are all that there are."""
        count = self.x_train.shape[0]
        return Batches(lambda n, _: self.normalize(self.x_train[n]), count, size, generator)

    def inputs(self, batch: Tensor) -> Tensor:
        """The images."""
        return batch

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Raises :class:`InputError`."""
        raise self._lacks_labels("a loss")

    def measure(self, model: nn.Module, batches: Iterable[Tensor]) -> Mapping[str, float]:
        """Raises :class:`InputError`."""
        raise self._lacks_labels("an accuracy")

    def samples(self, count: int, seed: int = 0) -> Samples:
        """At most ``count`` images; the seed alone decides which, and their order."""
        chosen = drawn_numbers(self.x_train.shape[0], count, seed)
        return Samples(self.normalize(self.x_train[chosen]))

    def fingerprint(self) -> str:
        """A digest of the images and their normalisation."""
        digest = hashlib.blake2b(repr(self.normalize).encode(), digest_size=8)
        pixels = self.x_train[torch.arange(self.x_train.shape[0])]
        digest.update(pixels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _lacks_labels(self, what: str) -> InputError:
        return InputError(
            f"{self.name} holds images without labels, and {what} needs them: give y_train, x_test "
            "and y_test as well"
        )
