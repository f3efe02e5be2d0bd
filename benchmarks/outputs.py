"""Parameters left at ratio 0.5 with every output read, and with one: other people's networks.

Weights are random; transformers and ultralytics build the networks, and what is not installed is
passed over. YOLOv8n's training heads are among its outputs.

    python benchmarks/outputs.py --verify bert clip yolov8n
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import slimnet

Made = tuple[nn.Module, tuple[Any, ...], str]
"""A network, an example, and the output that is read."""


def clip() -> Made:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    network = CLIPVisionModelWithProjection(CLIPVisionConfig())
    return network, (torch.randn(1, 3, 224, 224),), "image_embeds"


def bert() -> Made:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig()), (torch.randint(0, 1000, (1, 32)),), "pooler_output"


def yolov8n() -> Made:
    from ultralytics import YOLO

    return YOLO("yolov8n.yaml").model.float(), (torch.rand(1, 3, 320, 320),), "0"


NETWORKS: dict[str, Callable[[], Made]] = {"clip": clip, "bert": bert, "yolov8n": yolov8n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--verify", action="store_true", help="prove each cut, in float64")
    asked = parser.parse_args()
    for name in asked.networks:
        torch.manual_seed(0)
        try:
            network, example, read = NETWORKS[name]()
        except ImportError as error:
            print(f"{name}: {error}")
            continue
        for outputs in ((), (read,)):
            cut = slimnet.prune(
                network.eval(), example, ratio=0.5, outputs=outputs, verify=asked.verify
            )
            before, after = cut.plan.before, cut.plan.after
            left = after["params"] / before["params"]
            print(f"{name}, {' '.join(outputs) or 'all'}: {left:.3f}; {cut.certificate or ''}")


if __name__ == "__main__":
    main()
