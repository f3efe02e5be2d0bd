"""A training loop of one's own that cuts as it trains: weights, momenta and averages go along."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import slimnet
from slimnet.models import MODELS
from slimnet.tasks.data import load_data

IMAGE = (torch.zeros(1, 1, 8, 8),)


@dataclass(frozen=True, eq=False)
class Trained:
    """All that belongs to a network in training, and the last cut."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    pruned: slimnet.Pruned | None = None


def averaged(model: nn.Module) -> AveragedModel:
    """An exponential moving average of weights and statistics."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


def cut(now: Trained, ratio: float) -> Trained:
    """The same training, of a network with fewer channels."""
    pruned = slimnet.prune(now.model, IMAGE, ratio=ratio, align=None)
    average = averaged(pruned.model)
    average.load_state_dict(slimnet.apply(pruned.plan, now.average.state_dict()))
    optimizer = slimnet.cut_optimizer(now.optimizer, pruned.plan, now.model, pruned.model)
    return Trained(pruned.model.train(), optimizer, average, pruned)


def train_epoch(now: Trained, batches: DataLoader) -> None:
    """What a loop does."""
    for images, labels in batches:
        loss = nn.functional.cross_entropy(now.model(images), labels)
        now.optimizer.zero_grad()
        loss.backward()
        now.optimizer.step()
        now.average.update_parameters(now.model)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share that is right, in percent."""
    with torch.no_grad():
        return 100 * float((model.eval()(images).argmax(1) == labels).float().mean())


def main(folder: Path, epochs: int = 20, count: int = 1198) -> None:
    """Every fifth of the epochs some channels go, until half of them are left."""
    data = load_data("digits")
    images = data.normalize(data.x_train[:count])
    batches = DataLoader(list(zip(images, data.y_train, strict=False)), 64, shuffle=True)
    torch.manual_seed(0)
    model = MODELS["digits_resnet"].make().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    scheduler = CosineAnnealingLR(optimizer, epochs)
    now = Trained(model, optimizer, averaged(model))
    for epoch in range(epochs):
        train_epoch(now, batches)
        scheduler.step()
        if (epoch + 1) % max(1, epochs // 5) == 0 and epoch < epochs - 1:
            now = cut(now, ratio=0.16)  # 0.84⁴ = 0.5
            scheduler.optimizer = now.optimizer  # where it writes its learning rates
            print(f"epoch {epoch + 1}: {now.pruned}")
    if now.pruned is None:
        raise SystemExit("so few epochs leave no time to cut: give two at least")
    now.model.load_state_dict(now.average.module.state_dict())
    right = accuracy(now.model, data.normalize(data.x_test), data.y_test)
    print(f"accuracy {right:.1f} % at {slimnet.cost(now.model, IMAGE).macs:,} MACs")
    slimnet.save(now.pruned, folder / "slim.pt", "slimnet:digits_resnet", trained=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
