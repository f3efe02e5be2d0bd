"""A convolution in the middle of a chain, as ONNX: as it runs within a network.

Alone, it would pay for two changes of layout that it shares with its neighbours there.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slimnet.timing.work import Form

ENDS = 16
"""Channels at both ends of a chain."""
MIDDLE = "middle"
"""The name of the node in question."""


def image(form: Form, reads: int, batch: int) -> tuple[int, ...]:
    """The shape of what such a chain takes: so few channels are an image's own."""
    return (batch, reads if reads <= _THIN else ENDS, *form.size)


def chain(form: Form, reads: int, makes: int, batch: int) -> bytes:
    """A file whose middle reads and makes so many channels, each convolution with its ReLU."""
    random = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def add(name: str, source: str, shape: tuple[int, ...], **how: Any) -> str:
        scale = 1 / sqrt(prod(shape[1:]))
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        weights.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"))
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.sum"], name=name, **how))
        nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"]))
        return f"{name}.out"

    thin = reads <= _THIN  # an image itself: nothing runs before
    before = "input" if thin else add("before", "input", (reads, ENDS, 1, 1))
    shape = (makes, 1 if form.depthwise else reads, *form.kernel)
    middle = add(
        MIDDLE,
        before,
        shape,
        kernel_shape=form.kernel,
        strides=form.stride,
        pads=[*form.padding, *form.padding],
        dilations=form.dilation,
        group=makes if form.depthwise else 1,
    )
    after = add("after", middle, (ENDS, makes, 1, 1))
    shape_in = image(form, reads, batch)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info(after, TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


_THIN = 4
"""So few channels are those of images."""
