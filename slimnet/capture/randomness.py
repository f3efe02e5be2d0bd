"""Random numbers that are drawn from the generators of the process: the same ones every time.

Networks draw from them, and so do torch's own ways to start a layer: there is no other way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
