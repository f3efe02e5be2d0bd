"""An image and a vector, an own loss and an own metric: the sum of a digit and a number."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from steps import digits, train_dense, whole_way
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

import slimnet


class Sum(nn.Module):
    """{"sum": [N]} of an image [N, 1, 8, 8] and a number as a vector [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            *(nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU()),
        )
        self.number = nn.Sequential(nn.Linear(4, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, image: Tensor, number: Tensor) -> dict[str, Tensor]:
        both = torch.cat([self.image(image), self.number(number)], 1)
        return {"sum": self.head(both)[:, 0]}


class Near(Metric):
    """The share of sums that are told within half."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, told: Tensor, target: Tensor) -> None:
        self.right += ((told - target).abs() < 0.5).sum()
        self.total += len(target)

    def compute(self) -> Tensor:
        return self.right / self.total


def make_model() -> nn.Module:
    """For ``--arch``."""
    return Sum()


def make_inputs() -> dict[str, Tensor]:
    """For ``--example``."""
    return {"image": torch.zeros(1, 1, 8, 8), "number": torch.zeros(1, 4)}


def make_task() -> slimnet.Task:
    """For ``--data``."""
    images, labels = digits()
    draw = torch.Generator().manual_seed(0)
    rows = []
    for image, label in zip(images, labels, strict=True):
        number = int(torch.randint(16, (), generator=draw))
        bits = torch.tensor([float(number >> bit & 1) for bit in range(4)])
        pixels = torch.from_numpy(image)[None].float() / 255
        total = torch.tensor(float(label + number))
        rows.append({"image": pixels, "number": bits, "sum": total})
    first = len(rows) * 3 // 4
    return slimnet.LoaderTask(
        train=DataLoader(rows[:first], batch_size=64, shuffle=True),
        test=DataLoader(rows[first:], batch_size=256),
        inputs_of=lambda batch: {name: batch[name] for name in ("image", "number")},
        loss_of=lambda outputs, batch: nn.functional.mse_loss(outputs["sum"], batch["sum"]),
        measured={"near": slimnet.Measured(Near, update_near, unit="%", scale=100)},
        name="sums",
    )


def update_near(metric: Near, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
    """What a batch adds to the metric."""
    metric.update(outputs["sum"], batch["sum"])


def main(folder: Path, epochs: int = 40) -> None:
    """The whole way."""
    torch.manual_seed(0)
    train_dense(Sum(), make_task(), epochs, folder / "model.pt", 0.003, "adamw")
    here = Path(__file__).resolve()
    example = f"--example {here}:make_inputs"
    whole_way(folder, f"{here}:make_task", f"--arch {here}:make_model", example, epochs, "adamw")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
