"""A Lightning callback that cuts the network at an epoch: optimisers keep their momenta."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

import slimnet
from slimnet.models import MODELS
from slimnet.tasks.data import load_data

IMAGE = (torch.zeros(1, 1, 8, 8),)


class Cutting(lightning.Callback):
    """Cuts ``module.network`` before an epoch; ``pruned`` is what came of it."""

    def __init__(self, epoch: int, ratio: float) -> None:
        self.epoch, self.ratio = epoch, ratio
        self.pruned: slimnet.Pruned | None = None

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put the slim network and its optimisers in the place of the dense one's."""
        if trainer.current_epoch != self.epoch:
            return
        dense = pl_module.network
        self.pruned = slimnet.prune(dense, IMAGE, ratio=self.ratio)
        slim = self.pruned.model.train()
        new = {
            id(old): slimnet.cut_optimizer(old, self.pruned.plan, dense, slim)
            for old in trainer.optimizers
        }
        trainer.strategy.optimizers = list(new.values())
        for row in trainer.lr_scheduler_configs:
            row.scheduler.optimizer = new[id(row.scheduler.optimizer)]
        pl_module.network = slim


class Classifier(lightning.LightningModule):
    """Nothing in it knows that it will be cut."""

    def __init__(self, network: nn.Module, epochs: int) -> None:
        super().__init__()
        self.network, self.epochs = network, epochs

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        right = (self.network(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("accuracy", right, batch_size=len(batch[1]))

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.AdamW(self.parameters(), 0.003)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def main(folder: Path, epochs: int = 12, count: int = 1198) -> None:
    """A third of the epochs with all channels, the rest with half of them."""
    data = load_data("digits")
    x_train, x_test = data.normalize(data.x_train[:count]), data.normalize(data.x_test)
    train = DataLoader(list(zip(x_train, data.y_train, strict=False)), 64, shuffle=True)
    test = DataLoader(list(zip(x_test, data.y_test, strict=True)), 599)
    lightning.seed_everything(0, verbose=False)
    module = Classifier(MODELS["digits_resnet"].make(), epochs)
    cutting = Cutting(max(1, epochs // 3), ratio=0.5)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[cutting],
        logger=CSVLogger(folder, "log"),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, train, test)
    print(cutting.pruned)
    print(f"accuracy {100 * float(trainer.callback_metrics['accuracy']):.1f} %")
    slimnet.save(cutting.pruned, folder / "slim.pt", "slimnet:digits_resnet", trained=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
