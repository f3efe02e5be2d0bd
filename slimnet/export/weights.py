"""What the weights of a file or a network are: how many bytes, and which numbers slow it down.

A denormal number is nearer to zero than the smallest one of full precision (1.2e-38 in float32).
Some processors compute with them many times more slowly: on one a ResNet-18 took 1604 ms in place
of 26. Of float16 there are none here: it is computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.numpy_helper import to_array
from torch import nn

from slimnet.network import Network
from slimnet.text import count

Candidate = Path | nn.Module


def file_bytes(path: Path) -> int:
    """Of a file, with the files beside it that hold weights of an ONNX file."""
    beside: set[str] = set()
    if path.suffix.lower() == ".onnx":
        file = onnx.load(str(path), load_external_data=False)
        tensors = [tensor for tensor in file.graph.initializer if uses_external_data(tensor)]
        beside = {ExternalDataInfo(tensor).location for tensor in tensors}
    parts = [path, *(path.parent / name for name in beside)]
    return sum(part.stat().st_size for part in parts if part.is_file())


def denormals(candidate: Candidate) -> int:
    """How many weights are denormal numbers."""
    return sum(_count(array) for array in _arrays(candidate))


def denormal_remarks(name: str, candidate: Candidate) -> Iterator[str]:
    """Whether there are any, and what to do."""
    if number := denormals(candidate):
        yield (
            f"{name} has {count(number, 'denormal number')} among its weights (nearer to zero than "
            "1.2e-38), with which some processors compute many times more slowly: set them to zero"
        )


def _arrays(candidate: Candidate) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(candidate, nn.Module):
        for tensor in Network.of(candidate).tensors.values():
            if tensor.dtype in (torch.float32, torch.float64):
                yield tensor.detach().cpu().numpy()
        return
    for initializer in onnx.load(str(candidate)).graph.initializer:
        if initializer.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            yield to_array(initializer, base_dir=str(candidate.parent))


def _count(array: np.ndarray[Any, Any]) -> int:
    """Without arithmetic on them, which would be slow."""
    smallest = np.finfo(array.dtype).tiny
    return int(np.count_nonzero((array < smallest) & (array > -smallest) & (array != 0)))
