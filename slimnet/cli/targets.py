"""What a command may write: a file of its own format, and none of those that it reads.

Every command says so before it does anything else. Files are told apart as the system does, so that
links and other spellings of a path are the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from slimnet.errors import InputError
from slimnet.output import check_writable

Reads: TypeAlias = Sequence[str | Path | None]
"""Files, and texts that name one: ``npz:FILE``, ``imagefolder:ROOT``, ``file.py:make``."""


@dataclass(frozen=True)
class Format:
    """What is written, and the endings that say so, the usual one first."""

    name: str
    endings: tuple[str, ...]
    otherwise: str = ""  # what to do where another format is wanted
    beside: tuple[str, ...] = ()  # what is added to the name of files that are written with it


_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_EXPORT = "; slimnet export makes ONNX of it"
SLIM = Format("a slim network", (*_TORCH, ".pt2", ".safetensors"), _EXPORT)
STATE = Format("a state dict of torch", _TORCH, beside=(".training",))
PLAN = Format("a plan", (".json",))
PAGE = Format("a page", (".html", ".htm"))

_SAYS = {
    **dict.fromkeys(_TORCH, "a file of torch.save"),
    ".pt2": "an exported program",
    ".onnx": "ONNX",
    ".safetensors": "safetensors",
    **dict.fromkeys((".html", ".htm"), "a page"),
    **dict.fromkeys((".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf"), "a picture"),
    **dict.fromkeys((".json", ".yaml", ".yml", ".toml", ".csv", ".txt", ".md"), "a text"),
    **dict.fromkeys((".npz", ".npy", ".h5", ".hdf5", ".keras"), "arrays"),
    **dict.fromkeys((".pb", ".tflite", ".mlmodel", ".engine", ".gguf"), "another runtime's file"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".xz"), "an archive"),
    ".py": "a program in Python",
}


def check_target(target: Path, wanted: Format, reads: Reads, *, overwrite: bool) -> None:
    """Raise :class:`InputError` where ``target`` cannot, or should not, be written."""
    check_writable(target)
    others = (target.with_name(f"{target.name}{ending}") for ending in wanted.beside)
    check_apart([target, *others], reads, overwrite=overwrite)
    ending = target.suffix.lower()
    if ending in _SAYS and ending not in wanted.endings:
        raise InputError(
            f"{target} says {_SAYS[ending]}, and {wanted.name} is written: name it "
            f"{target.stem}{wanted.endings[0]}{wanted.otherwise}"
        )


def check_apart(targets: Sequence[Path], reads: Reads, *, overwrite: bool) -> None:
    """Raise :class:`InputError` where one of the targets is a file that is read."""
    if overwrite:
        return
    for target in targets:
        for path in _files(reads):
            if _is_same(target, path):
                raise InputError(
                    f"{target} is read here and would be written over: name another file, or say "
                    "--overwrite"
                )


def _files(reads: Reads) -> Iterator[Path]:
    """Every file or folder that one of the texts may name."""
    for text in map(str, filter(None, reads)):
        parts = {text, text.partition(":")[0], text.partition(":")[2], text.rpartition(":")[0]}
        for part in parts - {""}:
            path = Path(part).expanduser()
            yield path
            yield from (path / folder for folder in _IMAGES)


_IMAGES = ("train", "val", "test", "cifar-10-batches-py")  # where folders of images hold them


def _is_same(target: Path, path: Path) -> bool:
    """Whether they are one file, or the target lies in a folder that is read."""
    if not target.exists() or not path.exists():
        return False
    if path.is_dir():
        return path.name in _IMAGES and target.resolve().is_relative_to(path.resolve())
    return target.samefile(path)
