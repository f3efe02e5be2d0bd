"""PyTorch itself: a module run eagerly, on the device of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
    with prepared(candidate, inputs, threads) as (module, moved, device):
        yield runner(module, moved, device, "torch")


@contextmanager
def prepared(
    candidate: Any, inputs: Example, threads: int
) -> Iterator[tuple[nn.Module, Example, torch.device]]:
    """A module in evaluation mode, its inputs on its device, and so many threads meanwhile."""
    if not isinstance(candidate, nn.Module):
        given = candidate.name if isinstance(candidate, Path) else candidate
        raise InputError(
            f"the torch backends time modules, and were given {str(given)!r}: take a network's "
            "file, or another backend"
        )
    network = Network.of(candidate)
    device = network.device
    moved = tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, inputs)
    with evaluation_mode(network), torch.inference_mode(), _threads(threads):
        yield candidate, moved, device


def runner(module: Callable[..., Any], inputs: Example, device: torch.device, name: str) -> Runner:
    """What runs a module; on a GPU it waits for the result."""
    if device.type != "cuda":
        on_cpu, provider = device.type == "cpu", f"{name} {device.type}"
        return Runner(lambda: module(*inputs), provider, cpu_name(), on_cpu, in_caller=on_cpu)

    def run() -> None:
        module(*inputs)
        torch.cuda.synchronize(device)

    return Runner(run, f"{name} cuda", gpu_name())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    with exclusive():
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
