"""Repair of transformers: the change of their outputs after a cut, and after its repair.

    python benchmarks/repair_attention.py --seeds 3

Two small networks are trained for a moment: a vision transformer (torchvision's) on scikit-learn's
digits, and a BERT (of transformers) that tells which of two words comes first in a sentence. Each
loses channels of its heads and MLPs (the first also of its stream), and is repaired on 512 inputs
without labels. Printed are the accuracy and the change of the outputs on new inputs, over their
variance: as cut, repaired by the channels that are left, by the best mixtures of the heads'
channels, and by that and all layers together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import slimnet
from slimnet.repairs.heads import Mixings

WORDS, LENGTH = 32, 12


@dataclass(frozen=True)
class Toy:
    """A network, how it is cut, and its data; the last third is not trained on."""

    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    steps: int
    keep: tuple[str, ...] = ()  # layers that stay as they are


class Bert(nn.Module):
    """Two classes from the first token."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        config = BertConfig(vocab_size=WORDS, intermediate_size=128, **sizes)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(64, 2)

    def forward(self, words: Tensor) -> Tensor:
        """[N, 2] of [N, length]."""
        return self.head(self.bert(words).last_hidden_state[:, 0])


def vit() -> nn.Module:
    return VisionTransformer(8, 2, 3, 4, 64, 128, num_classes=10)


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return (images / 8 - 1)[order].contiguous(), torch.tensor(found.target)[order]


def sentences() -> tuple[Tensor, Tensor]:
    """Random words after a first one that is always the same; does word 2 come before word 3?"""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(4, WORDS, (3000, LENGTH), generator=generator)
    words[:, 0] = 1
    places = torch.stack([torch.randperm(LENGTH - 1, generator=generator)[:2] + 1 for _ in words])
    words.scatter_(1, places, torch.tensor([[2, 3]]).expand(len(words), -1))
    return words, (places[:, 0] < places[:, 1]).long()


TOYS = {
    "ViT, digits": Toy(vit, digits, 400),  # its heads and its stream have one width
    "BERT, order of words": Toy(Bert, sentences, 600, keep=("bert.embeddings.*",)),
}


def trained(toy: Toy, x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = toy.make()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(toy.steps):
        rows = torch.randint(0, len(x), (64,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def measured(model: nn.Module, dense: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Accuracy in %, and the change of the outputs."""
    found, wanted = model(x), dense(x)
    change = (found - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean()
    return 100 * float((found.argmax(1) == y).float().mean()), float(change)


def rows(toy: Toy, ratio: float, seeds: int) -> dict[str, list[tuple[float, float]]]:
    x, y = toy.data()
    count = 2 * len(x) // 3
    model, test = trained(toy, x[:count], y[:count]), (x[count:], y[count:])
    cut = slimnet.prune(model, (x[:2],), ratio=ratio, keep=list(toy.keep), align=None)
    found: dict[str, list[tuple[float, float]]] = {
        "dense": [measured(model, model, *test)],
        "as cut": [measured(cut.model, model, *test)],
    }
    for seed in range(seeds):
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:512]

        def repaired(refine: bool, images: Tensor = x[drawn], seed: int = seed) -> nn.Module:
            return slimnet.repair(cut, model, (images,), seed=seed, refine=refine).model

        with mock.patch("slimnet.repairs.layers.head_mixings", lambda *_: Mixings()):
            channels = repaired(False)
        for how, net in (
            ("channels", channels),
            ("mixtures", repaired(False)),
            ("and together", repaired(True)),
        ):
            found.setdefault(how, []).append(measured(net, model, *test))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name, toy in TOYS.items():
        print(f"{name}, {options.ratio:.0%} of the channels removed")
        for how, each in rows(toy, options.ratio, options.seeds).items():
            mean = [statistics.mean(values) for values in zip(*each, strict=True)]
            spread = [
                statistics.stdev(values) if len(values) > 1 else 0.0
                for values in zip(*each, strict=True)
            ]
            print(
                f"  {how:14} accuracy {mean[0]:6.2f} ± {spread[0]:.2f} %"
                f"   change {mean[1]:8.2%} ± {spread[1]:.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
