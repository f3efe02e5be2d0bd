"""Write a network as ONNX or ``.pt2``, prove that the file equals it, and measure what it gains."""

from slimnet.export.int8 import Int8Export, export_int8
from slimnet.export.latency import Latency, measure_latency
from slimnet.export.metadata import Metadata, metadata_of, read_metadata
from slimnet.export.onnx_file import OnnxExport, export_onnx
from slimnet.export.parity import Parity, ParityError, check_parity
from slimnet.export.program_file import ProgramExport, export_pt2
from slimnet.export.readings import Speedup, Timing
from slimnet.export.runner import BACKENDS, Runner
from slimnet.export.translate import ExportError

__all__ = [
    "BACKENDS",
    "ExportError",
    "Int8Export",
    "Latency",
    "Metadata",
    "OnnxExport",
    "Parity",
    "ParityError",
    "ProgramExport",
    "Runner",
    "Speedup",
    "Timing",
    "check_parity",
    "export_int8",
    "export_onnx",
    "export_pt2",
    "measure_latency",
    "metadata_of",
    "read_metadata",
]
