"""A YOLO that the trainer of Ultralytics trained, cut, and trained on by the same trainer.

Its ``best.pt`` is a file of Ultralytics: ``YOLO("best.pt")`` predicts, validates and exports.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from steps import scenes
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

import slimnet

SIZE = 64


def make_model() -> nn.Module:
    """YOLOv8n for one class, with random weights; also for ``--arch``."""
    return DetectionModel("yolov8n.yaml", ch=3, nc=1, verbose=False)


def write_data(folder: Path, count: int) -> Path:
    """Pictures with one digit each, and where it is, as Ultralytics reads them."""
    for seed, split in enumerate(("train", "val")):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for number, (picture, _, (x, y, w, h)) in enumerate(scenes(count, SIZE, seed)):
            colour = np.stack([picture] * 3, -1)
            Image.fromarray(colour).save(folder / split / "images" / f"{number}.png")
            box = [value / SIZE for value in (x + w / 2, y + h / 2, w, h)]
            line = " ".join(["0", *(f"{value:.6f}" for value in box)])
            (folder / split / "labels" / f"{number}.txt").write_text(line + "\n")
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: train/images\nval: val/images\nnames: {{0: digit}}\n")
    return file


def fit(model: nn.Module, data: Path, name: str, epochs: int, lr: float) -> DetectionTrainer:
    """Train in place."""
    settings = {
        "model": "yolov8n.yaml",  # of which nothing is read once it has a network
        "data": str(data),
        "epochs": epochs,
        "imgsz": SIZE,
        "batch": 16,
        "optimizer": "AdamW",
        "lr0": lr,
        "warmup_epochs": 1,
        "project": str(data.parent / "runs"),
        "name": name,
        "exist_ok": True,
        "device": "cpu",
        "workers": 0,
        **dict.fromkeys(("amp", "plots", "verbose"), False),  # the first two want downloads
        **dict.fromkeys(("mosaic", "fliplr", "translate", "scale"), 0.0),
    }
    trainer = DetectionTrainer(overrides=settings)
    trainer.model = model  # a network that is there is not built from its yaml
    trainer.train()
    print(f"{name}: mAP50 {trainer.metrics['metrics/mAP50(B)']:.3f}")
    return trainer


def main(folder: Path, epochs: int = 20, count: int = 96) -> None:
    """Train, cut half of the channels, train on, and open what Ultralytics wrote."""
    data = write_data(folder.resolve() / "digits", count)
    torch.manual_seed(0)
    model = make_model()
    fit(model, data, "dense", epochs, lr=0.002)
    pruned = slimnet.prune(model, (torch.zeros(1, 3, SIZE, SIZE),), ratio=0.5)
    print(pruned)
    trainer = fit(pruned.model, data, "slim", epochs, lr=0.001)
    predicted = YOLO(trainer.best).predict(torch.rand(1, 3, SIZE, SIZE), verbose=False)
    print(f"{trainer.best} loads: boxes of {tuple(predicted[0].boxes.xyxy.shape)}")
    arch = f"{Path(__file__).resolve()}:make_model"
    slimnet.save(pruned, folder / "slim.pt", arch, trained=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
