"""A convolution in bands is the convolution."""

from __future__ import annotations

import pytest
import torch

from slimnet.operators import bands

SHAPES = {
    "kernel of three": ((2, 4, 17, 9), (6, 4, 3, 3), [1, 1], [1, 1], [1, 1], 1),
    "strided": ((1, 4, 18, 9), (6, 4, 3, 3), [2, 2], [1, 1], [1, 1], 1),
    "steps differ": ((1, 4, 19, 11), (6, 4, 5, 3), [3, 2], [2, 0], [1, 2], 1),
    "dilated": ((1, 4, 20, 9), (4, 4, 3, 3), [1, 1], [2, 2], [2, 2], 1),
    "grouped": ((1, 4, 16, 9), (8, 2, 3, 3), [1, 1], [1, 1], [1, 1], 2),
    "depthwise": ((1, 4, 16, 9), (4, 1, 7, 7), [1, 1], [3, 3], [1, 1], 4),
    "a line": ((1, 4, 33), (6, 4, 5), [2], [2], [1], 1),
    "a volume": ((1, 4, 9, 8, 7), (6, 4, 3, 3, 3), [1, 2, 1], [1, 1, 1], [1, 1, 1], 1),
    "one number for all axes": ((1, 4, 17, 9), (6, 4, 3, 3), [2], [1], [1], 1),
    "no padding": ((1, 4, 8, 8), (6, 4, 8, 8), [1, 1], [0, 0], [1, 1], 1),
    "a point": ((1, 4, 8, 8), (6, 4, 1, 1), [1, 1], [0, 0], [1, 1], 1),
}


@pytest.mark.parametrize("largest", [1, 300, bands.LARGEST])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_bands_give_what_the_whole_gives(name, with_bias, largest, monkeypatch):
    monkeypatch.setattr(bands, "LARGEST", largest)
    shape, kernel, stride, padding, dilation, groups = SHAPES[name]
    torch.manual_seed(0)
    x, weight = torch.randn(shape).double(), torch.randn(kernel).double()
    bias = torch.randn(kernel[0]).double() if with_bias else None
    rest = (stride, padding, dilation, False, [0] * len(stride), groups)
    whole = torch.ops.aten.convolution.default(x, weight, bias, *rest)
    torch.testing.assert_close(bands.convolution(x, weight, bias, *rest), whole)


def test_transposed_and_unbatched_pass_as_they_are():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 6, 3, 3)
    rest = (None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1)
    whole = torch.ops.aten.convolution.default(x, weight, *rest)
    assert torch.equal(bands.convolution(x, weight, *rest), whole)
