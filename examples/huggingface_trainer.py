"""A BERT that the Trainer of Hugging Face trained, cut, and trained on by the same Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import slimnet

WORDS, LENGTH = 64, 16


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    """Random words; the label says whether there are more of the first half than of the second."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(WORDS, (count, LENGTH), generator=draw)
    labels = ((words < WORDS // 2).float().mean(1) > 0.5).long()
    return [{"input_ids": x, "labels": int(y)} for x, y in zip(words, labels, strict=True)]


def make_model() -> nn.Module:
    """A BERT of two layers, with random weights; also for ``--arch``."""
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=LENGTH,
    )
    return BertForSequenceClassification(config)


def accuracy(told: Any) -> dict[str, float]:
    """What the Trainer measures."""
    return {"accuracy": 100 * float((told.predictions.argmax(1) == told.label_ids).mean())}


def fit(model: nn.Module, folder: Path, epochs: int, count: int) -> None:
    """Train in place, and say how good it is."""
    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model,
        settings,
        train_dataset=sentences(count, seed=0),
        eval_dataset=sentences(256, seed=1),
        compute_metrics=accuracy,
    )
    trainer.train()
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.1f} %")


def main(folder: Path, epochs: int = 6, count: int = 1024) -> None:
    """Train, cut half of the channels, train on."""
    torch.manual_seed(0)
    model = make_model()
    fit(model, folder, epochs, count)
    torch.save(model.state_dict(), folder / "model.pt")
    example = {"input_ids": torch.zeros(1, LENGTH, dtype=torch.long)}
    pruned = slimnet.prune(model.cpu(), example, ratio=0.5)
    print(pruned)
    fit(pruned.model, folder, max(1, epochs // 2), count)
    slimnet.save(pruned, folder / "slim.pt", f"{Path(__file__).resolve()}:make_model", trained=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
