"""How much ink a digit has: from NumPy arrays to a tuned slim network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from steps import digits, train_dense, whole_way
from torch import Tensor, nn

from slimnet.tasks.data import load_task


class Regressor(nn.Module):
    """One number [N, 1] from an image [N, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.head = nn.Linear(32 * 16, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).flatten(1))


def make_model() -> nn.Module:
    """For ``--arch``."""
    return Regressor()


def write_arrays(file: Path, count: int) -> None:
    """Images [N, 8, 8, 1], and the share of their ink that lies in the upper half."""
    images, _ = digits()
    images = images[:count]
    amount = images[:, :4].sum((1, 2)) / images.sum((1, 2))
    first = len(images) * 3 // 4
    pixels, target = images[..., None], (10 * amount - 5).astype(np.float32)
    np.savez(
        file,
        x_train=pixels[:first],
        y_train=target[:first],
        x_test=pixels[first:],
        y_test=target[first:],
    )


def main(folder: Path, count: int = 1797, epochs: int = 10) -> None:
    """The whole way."""
    write_arrays(folder / "ink.npz", count)
    torch.manual_seed(0)
    task = load_task(f"task:regression:{folder / 'ink.npz'}")
    train_dense(Regressor(), task, epochs, folder / "model.pt", lr=0.01)
    arch = f"--arch {Path(__file__).resolve()}:make_model"
    whole_way(folder, "task:regression:ink.npz", arch, "--input 1,1,8,8", epochs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
