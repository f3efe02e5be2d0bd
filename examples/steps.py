"""What the examples have in common: digits as data, a short training, commands that are shown."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from slimnet.task import Task
from slimnet.train import Schedule, train


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1 797 scanned digits [N, 8, 8] in 0..255, and which they are."""
    data = load_digits()
    return (data.images * (255 / 16)).astype(np.uint8), data.target


def scenes(count: int, size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Digits of twice the size on noise: pictures and masks of ink [S, S], boxes [x, y, w, h]."""
    images, _ = digits()
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        digit = images[draw.integers(len(images))].repeat(2, 0).repeat(2, 1)
        x, y = (int(place) for place in draw.integers(0, size - 16, 2))
        picture = draw.integers(0, 60, (size, size)).astype(np.uint8)
        part = picture[y : y + 16, x : x + 16]
        np.maximum(part, digit, out=part)
        mask = np.zeros((size, size), np.uint8)
        mask[y : y + 16, x : x + 16] = digit > 127
        made.append((picture, mask, [x, y, 16, 16]))
    return made


def train_dense(
    model: nn.Module, task: Task, epochs: int, file: Path, lr: float = 0.05, optimizer: str = "sgd"
) -> None:
    """Train a network from scratch, and write its weights."""
    history = train(
        model, task, Schedule(epochs, lr, batch=32, shape="cosine", optimizer=optimizer), seed=0
    )
    metrics = ", ".join(f"{name} {value:.3g}" for name, value in history.metrics.items())
    print(f"trained the dense network: {metrics}")
    torch.save(model.state_dict(), file)


def slimnet(command: str, folder: Path) -> None:
    """Show a command and run it in the folder; stops where it fails."""
    print(f"\n$ slimnet {command}", flush=True)
    subprocess.run([sys.executable, "-m", "slimnet", *shlex.split(command)], cwd=folder, check=True)


def whole_way(
    folder: Path, data: str, arch: str, more: str, epochs: int, optimizer: str = "sgd"
) -> None:
    """From model.pt to tuned.onnx."""
    slimnet(f"prune model.pt {arch} {more} --ratio 0.5 -o slim.pt", folder)
    slimnet(f"repair slim.pt --against model.pt {arch} --data {data} -o repaired.pt", folder)
    how = f"--epochs {epochs} --optimizer {optimizer}"
    slimnet(f"retrain repaired.pt {arch} --data {data} {how} -o tuned.pt", folder)
    slimnet(f"verify tuned.pt --against model.pt {arch}", folder)
    slimnet(f"export tuned.pt tuned.onnx {arch} --onnx --against model.pt", folder)
