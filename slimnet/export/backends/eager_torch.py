"""PyTorch itself: a module run eagerly, on the device of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from slimnet.capture.modules import evaluation_mode
from slimnet.errors import InputError
from slimnet.exclusive import exclusive
from slimnet.export.devices import cpu_name, gpu_name
from slimnet.export.inputs import Example
from slimnet.export.runner import BACKENDS, Runner
from slimnet.network import Network


@BACKENDS.register("torch")
@contextmanager
def run_module(candidate: Any, inputs: Example, threads: int) -> Iterator[Runner]:
    """A module in evaluation mode, without gradients."""
    if not isinstance(candidate, nn.Module):
        raise InputError(f"the torch backend times modules, and was given {candidate!r}")
    network = Network.of(candidate)
    device = network.device
    moved = tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, inputs)
    with evaluation_mode(network), torch.inference_mode(), _threads(threads):
        yield _runner(candidate, moved, device)


def _runner(module: nn.Module, inputs: Example, device: torch.device) -> Runner:
    if device.type != "cuda":
        return Runner(lambda: module(*inputs), f"torch {device.type}", cpu_name())

    def run() -> None:
        module(*inputs)
        torch.cuda.synchronize(device)

    return Runner(run, "torch cuda", gpu_name())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    with exclusive():
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
