"""The ink of a digit, pixel by pixel: from folders of images and masks to a tuned slim network."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from steps import scenes, train_dense, whole_way
from torch import Tensor, nn

from slimnet.tasks.data import load_task


class Segmenter(nn.Module):
    """Down by four, up again, with a shortcut; scores [N, 2, S, S]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.last = nn.Sequential(nn.Conv2d(64, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 2, 1))

    def forward(self, image: Tensor) -> Tensor:
        fine = self.first(image)
        scores = self.last(torch.cat([fine, self.up(self.deep(fine))], 1))
        return nn.functional.interpolate(scores, scale_factor=2.0, mode="bilinear")


def make_model() -> nn.Module:
    """For ``--arch``."""
    return Segmenter()


def write_pictures(folder: Path, count: int) -> None:
    """ROOT/train and ROOT/val, each with images/ and masks/."""
    for split, number, seed in (("train", count, 0), ("val", count // 4, 1)):
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True, exist_ok=True)
        for n, (picture, mask, _) in enumerate(scenes(number, 32, seed)):
            Image.fromarray(picture).convert("RGB").save(folder / split / "images" / f"{n:04}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{n:04}.png")


def main(folder: Path, count: int = 512, epochs: int = 10) -> None:
    """The whole way."""
    write_pictures(folder / "pictures", count)
    torch.manual_seed(0)
    task = load_task(f"task:segmentation:{folder / 'pictures'}", size=32)
    train_dense(Segmenter(), task, epochs, folder / "model.pt")
    arch = f"--arch {Path(__file__).resolve()}:make_model"
    whole_way(folder, "task:segmentation:pictures", arch, "--input 1,3,32,32", epochs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
