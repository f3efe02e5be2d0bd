"""An exported program, which ``torch.export.load`` opens, with plan and proof beside it."""

from __future__ import annotations

from slimnet.export import export_pt2
from slimnet.files.slim_file import record_of
from slimnet.formats import FORMATS, Exported, ExportFormat, ExportRequest


def write(request: ExportRequest) -> Exported:
    """The file; compared with the network, and not timed."""
    artifact = request.opened.artifact
    extra = {} if artifact is None else record_of(artifact)
    program = export_pt2(request.opened.model, request.example, request.target, extra=extra)
    batch = "dynamic" if program.dynamic_batch else "fixed"
    return Exported(
        {"network": request.described, "pt2": program.to_json()},
        f"written: {program.parameters:,} numbers, {batch} batch",
        (program.parity.sentence("torch.export.load"),),
    )


FORMATS.add("pt2", ExportFormat("an exported program", (".pt2",), write, timed=False))
