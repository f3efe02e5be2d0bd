"""Tensors alone, for any tool; of a slim network with plan and proof as metadata."""

from __future__ import annotations

from slimnet.files.tensors_file import SUFFIX, write_state, write_tensors
from slimnet.formats import FORMATS, Exported, ExportFormat, ExportRequest


def write(request: ExportRequest) -> Exported:
    """The file."""
    opened, target = request.opened, request.target
    if opened.artifact is None:
        write_state(opened.model, target)
    else:
        write_tensors(opened.artifact, target)
    return Exported({"safetensors": {"path": str(target), "size_bytes": target.stat().st_size}})


FORMATS.add("safetensors", ExportFormat("safetensors", (SUFFIX,), write, runs=False, timed=False))
