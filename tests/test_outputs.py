"""What networks answer, whatever they put it into, as one row of numbers for each image."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.statistics.outputs import output_rows

IMAGES = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@dataclass
class Found:
    scores: torch.Tensor
    note: str = "none"


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.mean((2, 3)), x)


MEANS = IMAGES.mean((2, 3))
SUMS = MEANS.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        (lambda y, x: y, MEANS),
        (lambda y, x: y.sum(1), SUMS),  # [N]
        (lambda y, x: y.sum(1).squeeze(), SUMS),  # [] of one image
        (lambda y, x: (y, {"sum": y.sum(1)}), torch.cat([MEANS, SUMS], 1)),
        (lambda y, x: Found(y), MEANS),
        (lambda y, x: y.flatten(), MEANS),  # [N · K]
        (lambda y, x: y.sum() / len(y), SUMS),  # a scalar: image by image
        (lambda y, x: (y, torch.ones(2, 1)), torch.cat([MEANS, torch.ones(5, 2)], 1)),
        (lambda y, x: torch.complex(y, -y), torch.stack([MEANS, -MEANS], 2).flatten(1)),
        (lambda y, x: (y, y.argmax(1)), MEANS),  # real numbers count
        (lambda y, x: y.argmax(1), MEANS.argmax(1)[:, None]),
        (lambda y, x: y > 0, MEANS > 0),
        (lambda y, x: y.mT.mT[:, :, None].expand(-1, -1, 2), MEANS.repeat_interleave(2, 1)),
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_there_is_a_row_for_each_image(answer, rows, batch):
    torch.testing.assert_close(output_rows(Network.of(Answering(answer)), IMAGES, batch), rows)


def test_no_image_is_left_alone():
    seen = []
    output_rows(Network.of(Answering(lambda y, x: [seen.append(len(x)), y][1])), IMAGES, 2)
    assert seen == [2, 3]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda y, x: "a cat", "gives no tensor"),
        (lambda y, x: y[y > 0], "outputs of another size for another image"),
        (lambda y, x: y @ torch.ones(4, 1), "does not run on the calibration images of 3x4x4"),
    ],
)
def test_what_cannot_be_compared_is_refused(answer, why):
    with pytest.raises(InputError, match=why):
        output_rows(Network.of(Answering(answer)), IMAGES, 2)
