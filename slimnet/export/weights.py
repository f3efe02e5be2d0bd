"""What the weights of a file or a network are: how many bytes, and which numbers slow it down.

Those are the denormal ones (:mod:`.denormals`). Of float16 there are none here: it is computed in
float32.
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

from slimnet.export.denormals import are_denormal
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
    return sum(int(np.count_nonzero(are_denormal(array))) for array in _arrays(candidate))


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
