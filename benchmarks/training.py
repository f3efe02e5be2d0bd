"""Images per second of a training: a plain loop, and slimnet's in each way that it tries.

A ResNet-20 on made-up colour images of 32x32, batches of 128, all in one process, in turns. The
plain loop is the usual one: pictures of PIL, torchvision's random crop and flip in a DataLoader,
float32, torch's own layout.

    python benchmarks/training.py --threads 1 --rounds 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from slimnet.models import MODELS
from slimnet.tasks import classification
from slimnet.train import Schedule, train
from slimnet.train.execution import WAYS, Execution
from slimnet.version import used

BATCH = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures(Dataset):
    """Random pictures, augmented as they are read."""

    def __init__(self, images: torch.Tensor) -> None:
        arrays = images.mul(255).byte().permute(0, 2, 3, 1).numpy()
        self.pictures = [Image.fromarray(array) for array in arrays]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), index % 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(used(), f"{asked.threads} threads, {asked.images} images a round, median of rounds")
    images = torch.rand(asked.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loops = {"plain loop": lambda: plain(Pictures(images))}
    loops |= {f"slimnet, {way}": lambda way=way: ours(images, way) for way in WAYS}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(asked.rounds):
        for name, loop in loops.items():
            rates[name].append(asked.images / loop())
    first = median(rates["plain loop"])
    for name, found in rates.items():
        print(f"{name:36} {median(found):7.0f} images/s  {median(found) / first:5.2f}x")


def plain(pictures: Pictures) -> float:
    """Seconds of one epoch."""
    model = MODELS["resnet20"].make().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(pictures, BATCH, shuffle=True)
    return timed(lambda: [step(model, optimizer, *batch) for batch in loader])


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def ours(images: torch.Tensor, way: Execution) -> float:
    """Seconds of one epoch, apart from the measurement at its end."""
    labels = torch.arange(len(images)) % 10
    data = classification.Dataset(
        "made up",
        images,
        labels,
        images[:1],
        labels[:1],
        10,
        classification.Normalize("imagenet", MEAN, STD),
        augment=True,
    )
    model = MODELS["resnet20"].make()
    schedule = Schedule(epochs=1, lr=0.01, batch=BATCH)
    return timed(lambda: train(model, data, schedule, seed=0, device="cpu", execution=way))


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
