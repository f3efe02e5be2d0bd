"""Random numbers that are drawn from the generators of the process: the same ones every time.

Networks draw from them, and so do torch's own ways to start a layer: there is no other way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from slimnet.exclusive import exclusive


@contextmanager
def drawing_from(seed: int, devices: Sequence[torch.device] | None = None) -> Iterator[None]:
    """Python's, NumPy's and torch's generators start at the seed, and are put back afterwards.

    Other threads that draw by way of slimnet wait. Of GPUs the generators of ``devices``; of all
    that there are, without it.
    """
    with exclusive():
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(_gpus() if devices is None else devices):
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.manual_seed(seed)
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _gpus() -> list[torch.device]:
    """All by name: torch warns of many where it is told of none."""
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def generators(device: torch.device) -> dict[str, Any]:
    """Where Python's, NumPy's and torch's generators stand: tensors and numbers, for a file."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "torch": torch.get_rng_state(),
        "gpu": gpu,
        "python": (version, torch.tensor(words), gauss),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
    }


def set_generators(state: Mapping[str, Any], device: torch.device) -> None:
    """Stand where :func:`generators` said."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["gpu"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["gpu"], device)
