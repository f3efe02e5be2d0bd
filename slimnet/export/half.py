"""An ONNX file with its weights and its arithmetic in float16; inputs and outputs stay as they are.

Operators that need float32 (non-maximum suppression, say) keep it, between conversions. Half the
size; faster where the processor computes in float16, and most CPUs do not.
"""

from __future__ import annotations

import onnx
import onnx_ir

from slimnet.errors import InputError
from slimnet.export.runtime_tools import runtime_tools


def to_float16(file: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float16; raises InputError for weights beyond the 2 GB of one file."""
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in file.graph.initializer):
        raise InputError("float16 is written of networks up to 2 GB: leave it out for this one")
    with runtime_tools():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model: onnx_ir.Model = onnx_ir.from_proto(
            convert_float_to_float16(file, keep_io_types=True)
        )
    model.graph.sort()  # conversions stand at the end, after who reads them
    sorted_file: onnx.ModelProto = onnx_ir.to_proto(model)
    return sorted_file
