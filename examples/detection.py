"""Where a digit is: torchvision's Faster R-CNN with a small backbone, from COCO's annotations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from steps import scenes, slimnet, train_dense
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from slimnet.tasks.data import load_task


class Backbone(nn.Sequential):
    """Features [N, 64, S/8, S/8]."""

    out_channels = 64

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers)


def make_model() -> nn.Module:
    """For ``--arch``."""
    anchors = AnchorGenerator(sizes=((12, 16, 24),), aspect_ratios=((1.0,),))
    few = {f"rpn_{when}_nms_top_n_{mode}": 50 for when in ("pre", "post") for mode in MODES}
    size = {"min_size": 64, "max_size": 64, "box_detections_per_img": 5}
    return FasterRCNN(Backbone(), 2, rpn_anchor_generator=anchors, **size, **few)


MODES = ("train", "test")


def make_inputs() -> tuple[list[Tensor]]:
    """For ``--example``: one list of images, with something in it to compare the ONNX file on."""
    ((picture, _, _),) = scenes(1, 64, 2)
    return ([torch.from_numpy(picture / 255).float().expand(3, 64, 64)],)


def write_scenes(folder: Path, count: int) -> None:
    """ROOT/train and ROOT/val, each with images/ and annotations.json."""
    for split, number, seed in (("train", count, 0), ("val", count // 4, 1)):
        (folder / split / "images").mkdir(parents=True, exist_ok=True)
        rows: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
        for n, (picture, _, box) in enumerate(scenes(number, 64, seed)):
            Image.fromarray(picture).convert("RGB").save(folder / split / "images" / f"{n:04}.png")
            rows["images"].append({"id": n, "file_name": f"{n:04}.png"})
            rows["annotations"].append({"image_id": n, "bbox": box, "category_id": 1})
        (folder / split / "annotations.json").write_text(json.dumps(rows))


def main(folder: Path, count: int = 256, epochs: int = 6) -> None:
    """The whole way."""
    write_scenes(folder / "scenes", count)
    torch.manual_seed(0)
    task = load_task(f"task:detection:{folder / 'scenes'}")
    train_dense(make_model(), task, epochs, folder / "model.pt", lr=0.02)
    here = Path(__file__).resolve()
    arch = f"--arch {here}:make_model"
    data = "--data task:detection:scenes"
    slimnet(f"prune model.pt {arch} --example {here}:make_inputs --ratio 0.4 -o slim.pt", folder)
    slimnet(f"retrain slim.pt {arch} {data} --batch 16 --epochs {epochs} -o tuned.pt", folder)
    slimnet(f"verify tuned.pt --against model.pt {arch}", folder)
    slimnet(f"export tuned.pt tuned.onnx {arch} --onnx --against model.pt", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
