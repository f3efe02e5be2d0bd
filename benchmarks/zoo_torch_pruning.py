"""One network through Torch-Pruning, in a process of its own, told all that its examples tell it.

    python benchmarks/zoo_torch_pruning.py torchvision vit_b_16 --repeats 3

Its scripts for torchvision and timm name by hand: the classifier, the heads of each detector, the
parts of RAFT, the number to which a ViT's widths are rounded, the heads of attention layers, and
the attributes to set after the cut. All of that is done here; networks that the scripts leave out
get what their nearest relative gets.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import statistics
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["TIMM_FUSED_ATTN"] = "0"  # as its timm script does

import torch
import torch_pruning
from torch import nn
from torchvision.models import VisionTransformer
from zoo_networks import SOURCES, arch_of, built, removed

from slimnet.networks.arch import Arch
from slimnet.networks.sources import SOURCES as ARCHITECTURES

RATIO = 0.5
RCNN = "rpn.head.cls_logits rpn.head.bbox_pred"
BY_HAND = {  # parts to leave alone, by the beginning of the network's name
    "ssd": "head",
    "raft": "corr_block update_block mask_predictor",
    "fasterrcnn": f"{RCNN} backbone.fpn roi_heads",
    "maskrcnn": f"{RCNN} roi_heads.box_predictor roi_heads.mask_predictor",
    "keypointrcnn": f"{RCNN} backbone.fpn.layer_blocks roi_heads.box_head roi_heads.box_predictor "
    "roi_heads.keypoint_predictor",
    "fcos": "head.classification_head.cls_logits head.regression_head.bbox_reg "
    "head.regression_head.bbox_ctrness",
    "retinanet": "head.classification_head.cls_logits head.regression_head.bbox_reg",
}


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    arch = arch_of(options.source, options.name)
    model, example, _ = built(arch)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    row: dict[str, Any] = {}
    times = []
    for _ in range(1 + options.repeats):  # the first one pays for imports and caches
        slim = deepcopy(model)
        try:
            times.append(pruned(slim, example, arch))
        except Exception as error:
            row["torch_pruning_error"] = told(error)
            break
    if times[1:]:
        row["torch_pruning_s"] = statistics.median(times[1:])
        row["torch_pruning_removed"] = removed(model, slim)
        row |= broken(slim, example)
    print(json.dumps(row))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", choices=sorted(SOURCES))
    parser.add_argument("name")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def pruned(slim: nn.Module, example: tuple[Any, ...], arch: Arch) -> float:
    """Cut in place; seconds of the pruner's construction and its one step."""
    heads = attention_heads(slim)
    classes = ARCHITECTURES[arch.source].lengths(arch.name).get("num_classes")
    ignored = [*classifiers(slim, classes), *parts(slim, arch.name)]
    rounded = slim.encoder.layers[0].num_heads if isinstance(slim, VisionTransformer) else None
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        slim,
        inputs(example, arch.name),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        round_to=rounded,
        num_heads=heads,
        ignored_layers=ignored,
    )
    pruner.step()
    mend(slim, pruner)
    return time.perf_counter() - start


def inputs(example: tuple[Any, ...], name: str) -> Any:
    """As its examples hand them over: optical flow by name, a detector's list as it is."""
    if name.startswith("raft"):
        return dict(zip(("image1", "image2"), example, strict=True))
    return example[0]


def classifiers(model: nn.Module, classes: int | None) -> Iterator[nn.Module]:
    """The layers that are as wide as there are classes, as its scripts look for them."""
    for layer in model.modules():
        width = getattr(layer, "out_features", getattr(layer, "out_channels", None))
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) and width == classes:
            yield layer


def parts(model: nn.Module, name: str) -> list[nn.Module]:
    paths = next((paths for head, paths in BY_HAND.items() if name.startswith(head)), "")
    return [operator.attrgetter(path)(model) for path in paths.split()]


def attention_heads(model: nn.Module) -> dict[nn.Module, int]:
    """Layers that make queries, keys and values in one, with their numbers of heads."""
    return {
        getattr(layer, name): layer.num_heads
        for layer in model.modules()
        for name in ("qkv", "qkv_proj")
        if hasattr(layer, "num_heads") and isinstance(getattr(layer, name, None), nn.Linear)
    }


def mend(slim: nn.Module, pruner: Any) -> None:
    """The attributes that its scripts set after the cut."""
    if isinstance(slim, VisionTransformer):
        slim.hidden_dim = slim.conv_proj.out_channels
    for layer in slim.modules():
        made = getattr(layer, "qkv", getattr(layer, "qkv_proj", None))
        if made in pruner.num_heads and hasattr(layer, "num_heads"):
            layer.num_heads = pruner.num_heads[made]
            layer.head_dim = made.out_features // (3 * layer.num_heads)


@torch.no_grad()
def broken(slim: nn.Module, example: tuple[Any, ...]) -> dict[str, str]:
    """Why the slim network does not run, if so."""
    try:
        slim.eval()(*example)
    except Exception as error:
        return {"torch_pruning_broken": told(error)}
    return {}


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    main()
