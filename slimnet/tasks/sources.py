"""Readers, one per kind of data: the text behind the colon (``npz:FILE``) gives images and labels.

Every reader raises ``InputError`` with the file or folder and what is wrong with it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slimnet.digest import DAMAGE
from slimnet.errors import InputError
from slimnet.limits import check_packed
from slimnet.networks.payload import check_file
from slimnet.networks.userfile import call_in_file
from slimnet.task import Task, check_task
from slimnet.tasks.classification import Dataset, Images, check_held

if TYPE_CHECKING:  # both take a second to import: readers do when they are called
    from torchvision.datasets import ImageFolder

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class Splits:
    """What a reader gives: images and labels (int64) of both splits."""

    x_train: Images
    y_train: Tensor
    x_test: Images
    y_test: Tensor
    num_classes: int


def read_digits(rest: str, size: int) -> Splits:
    """scikit-learn's 1797 scanned digits, 1x8x8: 1198 to train on, 599 to test, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 17 grey levels, 0..16, kept apart in 0..255
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=1 / 3, random_state=0, stratify=digits.target
    )
    labels = torch.from_numpy(digits.target).long()
    pixels = torch.from_numpy(images)
    return Splits(pixels[train], labels[train], pixels[test], labels[test], 10)


def read_npz(file: str, size: int) -> Splits | Tensor:
    """A NumPy archive with x_train, y_train, x_test, y_test; images uint8 ``[N, H, W, C]``.

    One with x_train alone gives images without labels.
    """
    check_file(Path(file))
    arrays = read_arrays(file, KEYS, needed=KEYS[:1])
    if arrays.keys() == {"x_train"}:
        return _images(f"{file}: x_train", arrays["x_train"])
    _check_all(file, arrays, KEYS)
    return _from_arrays(file, [arrays[key] for key in KEYS])


def read_arrays(
    file: str, keys: Sequence[str], needed: Sequence[str] | None = None
) -> dict[str, Any]:
    """The arrays of these names in a NumPy archive; refuses one that lacks what is ``needed``."""
    try:
        with Path(file).open("rb") as stream:
            arrays = _archive(stream, file, keys)
    except InputError:
        raise
    except _UNREAD as error:
        raise InputError(f"{file}: not a NumPy .npz archive that can be read ({error})") from None
    _check_all(file, arrays, keys if needed is None else needed)
    return arrays


def _check_all(file: str, arrays: Mapping[str, Any], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise InputError(f"{file}: lacks {', '.join(missing)}; it must hold {', '.join(keys)}")


_UNREAD = (*DAMAGE, MemoryError, OverflowError, SyntaxError)  # and what NumPy raises


def _archive(stream: BinaryIO, file: str, keys: Sequence[str]) -> dict[str, Any]:
    with zipfile.ZipFile(stream) as archive:
        check_packed(archive.infolist(), Path(file).stat().st_size, file)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as archive:
        return {key: archive[key] for key in keys if key in archive.files}


def read_cifar10(root: str, size: int) -> Splits:
    """CIFAR-10 as torchvision unpacks it (``ROOT/cifar-10-batches-py``); nothing is downloaded."""
    from torchvision.datasets import CIFAR10

    try:
        sets = [CIFAR10(root, train=train, download=False) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{root}: no intact CIFAR-10 there ({error}); it should hold cifar-10-batches-py"
        ) from None
    return _from_arrays(root, [array for one in sets for array in (one.data, one.targets)])


def read_imagefolder(root: str, size: int) -> Splits:
    """A folder with ``train/`` and ``val/`` or ``test/``, each with one folder per class."""
    if size < 1:
        raise InputError(f"the image size must be at least 1 pixel, not {size}")
    train = _class_folders(Path(root) / "train")
    test = _class_folders(test_folder(root, "one folder per class"))
    if train.classes != test.classes:
        raise InputError(
            f"{root}: the classes of the two splits differ "
            f"({_named(set(train.classes) ^ set(test.classes))}); both need the same folders"
        )
    return Splits(
        FolderImages(train, size),
        torch.tensor(train.targets),
        FolderImages(test, size),
        torch.tensor(test.targets),
        len(train.classes),
    )


def read_user_data(spec: str, size: int) -> Dataset | Splits | Task:
    """Call a function of the user's file, ``make_task`` or ``make_data``.

    It returns a task (a :class:`~slimnet.task.LoaderTask`, a ``Dataset`` or any object with the
    members of one), or x_train, y_train, x_test, y_test: NumPy images uint8 ``[N, H, W, C]``, or
    tensors ``[N, C, H, W]``, uint8 or floating point in 0..1.
    """
    returned = call_in_file(spec, {})
    if not isinstance(returned, (tuple, list)):
        return check_task(returned, spec)
    if len(returned) != len(KEYS):
        raise InputError(
            f"{spec} returned {len(returned)} values: return a task, or the four arrays "
            f"{', '.join(KEYS)}"
        )
    return _from_arrays(spec, returned)


class FolderImages:
    """Images on disk, decoded when asked for.

    The short side is resized to 8/7 of ``size`` (256 for 224) and the centre cut out.
    """

    def __init__(self, folder: ImageFolder, size: int) -> None:
        from torchvision.transforms import v2

        self._folder = folder
        self._size = size
        self._view = v2.Compose(
            [v2.PILToTensor(), v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)]
        )

    @property
    def shape(self) -> torch.Size:
        """``[N, 3, size, size]``."""
        return torch.Size((len(self._folder), 3, self._size, self._size))

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Decode the images ``indices``; the decoders leave Python, so threads do work."""
        with ThreadPoolExecutor() as threads:
            return torch.stack(list(threads.map(self._decoded, indices.tolist())))

    def content(self) -> bytes:
        """The names of the files: what tells one folder from another."""
        return repr([(Path(path).name, label) for path, label in self._folder.samples]).encode()

    def _decoded(self, index: int) -> Tensor:
        path, _ = self._folder.samples[index]
        try:
            with Image.open(path) as opened, turn(opened.size, path):
                image = self._view(opened.convert("RGB"))
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"{path}: not an image that can be read ({error})") from None
        if not isinstance(image, Tensor):
            raise TypeError(f"the view of {path} is no tensor")
        return image


UNREADABLE = (
    *(OSError, ValueError, SyntaxError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def turn(size: tuple[int, int], path: str) -> AbstractContextManager[Any]:
    """Large pictures one after the other; a few hundred bytes may say that they are of any size."""
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(
            f"{path}: a picture of {size[0]}x{size[1]} pixels, and {MOST_PIXELS:,} in all are "
            "read: make it smaller"
        )
    return _one_at_a_time if size[0] * size[1] > MANY_PIXELS else nullcontext()


MOST_PIXELS = 2**26
"""Of one picture: cameras make 60 million. Decoded and resized it takes 0.6 GB."""

MANY_PIXELS = 2**24
"""Of pictures that several threads decode at a time."""

_one_at_a_time = Lock()


def _from_arrays(where: str, arrays: Sequence[Any]) -> Splits:
    x_train, y_train, x_test, y_test = arrays
    labels = _labels(f"{where}: y_train", y_train), _labels(f"{where}: y_test", y_test)
    return Splits(
        _images(f"{where}: x_train", x_train),
        labels[0],
        _images(f"{where}: x_test", x_test),
        labels[1],
        int(labels[0].max()) + 1,
    )


def _images(where: str, array: Any) -> Tensor:
    if isinstance(array, Tensor):
        check_held(where, array)
        if array.ndim != 4 or not (array.dtype == torch.uint8 or array.is_floating_point()):
            raise InputError(
                f"{where} is {array.dtype} of shape {list(array.shape)}: give [N, C, H, W], "
                "uint8 or floating point in 0..1"
            )
        return array.detach().cpu()
    if not isinstance(array, np.ndarray) or array.ndim != 4 or array.dtype != np.uint8:
        raise InputError(f"{where} is {_kind(array)}: give uint8 images [N, H, W, C]")
    return channels_first(array)


def channels_first(images: np.ndarray[Any, Any]) -> Tensor:
    """[N, C, H, W] of [N, H, W, C]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _labels(where: str, array: Any) -> Tensor:
    if isinstance(array, Tensor):
        check_held(where, array)
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if values.ndim == 2 and values.shape[1] == 1:  # as Keras keeps them
        values = values[:, 0]
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise InputError(f"{where} is {_kind(values)}: give one whole number for each image")
    return torch.from_numpy(values.astype(np.int64))


def _kind(array: Any) -> str:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    return type(array).__name__ if shape is None else f"{dtype} of shape {list(shape)}"


def test_folder(root: str, holds: str) -> Path:
    """``val/`` or ``test/``; the refusal of a root with neither says what it should hold."""
    for name in ("val", "test"):
        if (Path(root) / name).is_dir():
            return Path(root) / name
    raise InputError(f"{root}: has no val/ or test/ folder with {holds}")


def _class_folders(folder: Path) -> ImageFolder:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder))
    except OSError as error:
        raise InputError(_no_classes(folder, error)) from None


def _no_classes(folder: Path, error: OSError) -> str:
    """Why a folder does not hold the pictures of each class, and where these belong."""
    wanted = f"the pictures of each class belong into a folder of its own, {folder}/CLASS/"
    if not folder.is_dir():
        return f"{folder}: there is no such folder; {wanted}"
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        return f"{folder}: it holds no folders; {wanted}"
    empty = {entry.name for entry in classes if not any(entry.iterdir())}
    if empty:
        return f"{folder}: no picture of {_named(empty)}; {wanted}, and empty ones have to go"
    return f"{folder}: cannot be read ({error})"


def _named(names: set[str], most: int = 3) -> str:
    shown = sorted(names)[:most]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
