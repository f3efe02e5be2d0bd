"""Pictures on disk, read and resized when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as change

from slimnet.errors import InputError
from slimnet.tasks.sources import UNREADABLE, turn

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def pictures_in(folder: Path) -> dict[str, Path]:
    """By their name without the ending, in order; refuses a folder without any."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not paths:
        raise InputError(f"{folder}: holds no picture ({', '.join(ENDINGS)})")
    return {path.stem: path for path in paths}


def read_picture(path: Path, size: int | None = None, *, numbers: bool = False) -> Tensor:
    """[3, H, W] in 0..1; the picture's own size, or squeezed into a square.

    With ``numbers`` the pixels of one channel as they are stored, int64 [H, W]: a mask.
    """
    try:
        with Image.open(path) as opened, turn(opened.size, str(path)):
            own = opened if numbers and opened.mode in ("P", "L", "I", "1") else None
            image = change.pil_to_tensor(own or opened.convert("L" if numbers else "RGB"))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: not a picture that can be read ({error})") from None
    if size is not None:
        how = v2.InterpolationMode.NEAREST if numbers else v2.InterpolationMode.BILINEAR
        image = change.resize(image, [size, size], interpolation=how, antialias=not numbers)
    pixels: Tensor = image[0].long() if numbers else image.float() / 255
    return pixels


def read_pictures(
    paths: Sequence[Path], size: int | None = None, *, numbers: bool = False
) -> list[Tensor]:
    """Several at a time: the decoders leave Python, so threads do work."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda path: read_picture(path, size, numbers=numbers), paths))


def chosen(paths: Sequence[Path], numbers: Tensor) -> list[Path]:
    """Those of these numbers."""
    return [paths[n] for n in numbers.tolist()]


def mirrored(generator: torch.Generator | None, count: int) -> list[bool]:
    """Which of so many pictures are mirrored: every other one, while training."""
    if generator is None:
        return [False] * count
    return (torch.rand(count, generator=generator) < 0.5).tolist()
