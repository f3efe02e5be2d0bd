"""Odd numbers: in weights, in images and labels, and in options.

What can be computed with may be; what comes out must be finite. NaN and infinity are refused
wherever they would end in a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import REFUSED, SAFE, End, Fault, command, family
from faultlab.planting import change_payload
from faultlab.shelf import PRUNE, REPAIR, SPARSIFY

NAN, INF = float("nan"), float("inf")


def _all_of(value: Any) -> Callable[[Any], Any]:
    return lambda tensor: tensor.fill_(value)


def _one_of(value: Any) -> Callable[[Any], Any]:
    def change(tensor: Any) -> Any:
        tensor.view(-1)[0] = value
        return tensor

    return change


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda tensor: tensor.mul_(factor)


WEIGHTS: dict[str, tuple[Callable[[Any], Any], frozenset[End]]] = {
    "one NaN": (_one_of(NAN), REFUSED),
    "one infinity": (_one_of(INF), REFUSED),
    "all NaN": (_all_of(NAN), REFUSED),
    "all zero": (_all_of(0.0), SAFE),
    "all alike": (_all_of(0.25), SAFE),
    "denormal": (_all_of(1e-42), SAFE),
    "1e18": (_times(1e18), SAFE),
    "1e38": (_times(1e38), SAFE),
    "one of 1e18": (_one_of(1e18), SAFE),
    "1e-30": (_times(1e-30), SAFE),
    "complex": (lambda tensor: tensor.to(dtype=_type("complex64")), SAFE),
    "half": (lambda tensor: tensor.half(), SAFE),
    "bfloat16": (lambda tensor: tensor.bfloat16(), SAFE),
    "float8": (lambda tensor: tensor.to(_type("float8_e4m3fn")), SAFE),
    "float64": (lambda tensor: tensor.double(), SAFE),
    "int8": (lambda tensor: tensor.to(_type("int8")), SAFE),
    "bool": (lambda tensor: tensor.bool(), SAFE),
    "sparse": (lambda tensor: tensor.to_sparse(), SAFE),
    "of no length": (lambda tensor: tensor[:0], SAFE),
    "scalar": (lambda tensor: tensor.sum(), SAFE),
    "expanded from one number": (lambda tensor: tensor.view(-1)[0].expand(tensor.shape), SAFE),
    "transposed in memory": (lambda t: t.transpose(0, -1).contiguous().transpose(0, -1), SAFE),
}


def _type(name: str) -> Any:
    import torch

    return getattr(torch, name)


PLACES = {
    "the first convolution's weights": ("features.0.weight",),
    "a batch norm's variances": ("features.1.running_var",),
    "a batch norm's scales": ("features.1.weight",),
    "the last layer's weights": ("classifier.weight",),
    "every floating point tensor": (),
}
MEETS = (
    f"{PRUNE} -o out.pt",
    f"{PRUNE} --criterion bn-scale --scope global -o out.pt",
    f"{PRUNE} --criterion fpgm -o out.pt",
    f"{PRUNE} --repair --data npz:data.npz --samples 32 -o out.pt",
    f"{PRUNE} --criterion obs --data npz:data.npz --samples 32 -o out.pt",
    "sensitivity dense.pt -o out.html --points 1",
    SPARSIFY.replace("--epochs 3", "--epochs 1"),
)


def _weights(names: tuple[str, ...], change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def plant(state: Any) -> Any:
        return {
            name: change(tensor.clone())
            if name in names or (not names and tensor.is_floating_point())
            else tensor
            for name, tensor in state.items()
        }

    return lambda folder: change_payload(folder / "dense.pt", plant)


@family("numbers")
def odd_weights(random: Random) -> Iterator[Fault]:
    for what, (change, allows) in WEIGHTS.items():
        for place in random.sample(list(PLACES), 2):
            yield Fault(
                name=f"{what}: {place}",
                command=command(random.choice(MEETS)),
                needs=("dense.pt", "data.npz"),
                plant=_weights(PLACES[place], change),
                allows=allows,
                keeps=("sparse.pt.training*",),
            )


DATA = """import numpy as np
import torch


def make_data():
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    x_train, y_train = torch.rand(48, 1, 8, 8), np.arange(48) % 10
    x_test, y_test = torch.rand(24, 1, 8, 8), np.arange(24) % 10
    {change}
    return x_train, y_train, x_test, y_test
"""
"""A user's images; what is odd about them is one line."""

IMAGES = {
    "one NaN pixel": "x_train[3, 0, 2, 2] = float('nan')",
    "all NaN": "x_train[:] = float('nan')",
    "one infinite pixel": "x_train[3, 0, 2, 2] = float('inf')",
    "images of 1e18": "x_train *= 1e18",
    "images of 1e38": "x_train *= 1e38",
    "one image of 1e18": "x_train[5] = 1e18",
    "denormal images": "x_train *= 1e-42",
    "all images alike": "x_train[:] = x_train[:1]",
    "black images": "x_train[:] = 0; x_test[:] = 0",
    "NaN to test on": "x_test[:] = float('nan')",
    "one image": "x_train, y_train = x_train[:1], y_train[:1]",
    "two images": "x_train, y_train = x_train[:2], y_train[:2]",
    "65 images, the last batch of one": "x_train = torch.rand(65, 1, 8, 8); "
    "y_train = np.arange(65) % 10",
    "no image": "x_train, y_train = x_train[:0], y_train[:0]",
    "no image to test on": "x_test, y_test = x_test[:0], y_test[:0]",
    "one class": "y_train = y_train * 0; y_test = y_test * 0",
    "a label of -1": "y_train[3] = -1",
    "a label of 10**9": "y_train[3] = 10**9",
    "labels that are no whole numbers": "y_train = y_train + 0.5",
    "labels of text": "y_train = np.array(['a'] * 48)",
    "no labels": "y_train = None",
    "more labels than images": "y_train = np.arange(60) % 10",
    "float64 images": "x_train, x_test = x_train.double(), x_test.double()",
    "half images": "x_train, x_test = x_train.half(), x_test.half()",
    "int64 images": "x_train = (x_train * 255).long()",
    "complex images": "x_train = x_train.to(torch.complex64)",
    "images of three channels": "x_train = x_train.repeat(1, 3, 1, 1)",
    "images of one pixel": "x_train, x_test = x_train[..., :1, :1], x_test[..., :1, :1]",
    "images of no height": "x_train = x_train[:, :, :0]",
    "flat images": "x_train = x_train.flatten(1)",
    "sparse images": "x_train = x_train.to_sparse()",
    "images on meta": "x_train = x_train.to('meta')",
    "a list of images": "x_train = list(x_train)",
    "nothing": "return None",
    "an exception": "raise KeyError('x\\x1b[2J\\ny')",
    "an end": "raise SystemExit(0)",
    "a print": "print('hello')",
}
LEARNING = (
    f"{PRUNE} --repair --data data.py:make_data --samples 32 -o out.pt",
    f"{PRUNE} --criterion taylor --data data.py:make_data --samples 32 -o out.pt",
    f"{PRUNE} --criterion apoz --data data.py:make_data --samples 32 -o out.pt --json",
    REPAIR.replace("npz:data.npz", "data.py:make_data") + " -o out.pt",
    SPARSIFY.replace("npz:data.npz", "data.py:make_data"),
    "sensitivity dense.pt --data data.py:make_data -o out.html --points 1 --json",
    "compare dense.pt --data data.py:make_data --epochs 4 --regime finetune --seeds 1 "
    "--no-time -o study",
)


@family("numbers")
def odd_images(random: Random) -> Iterator[Fault]:
    for what, change in IMAGES.items():
        for met in random.sample(LEARNING, 2):
            yield Fault(
                name=f"{what}",
                command=command(met),
                needs=("dense.pt", "slim.pt") if met.startswith("repair") else ("dense.pt",),
                plant=lambda folder, change=change: _written(
                    folder / "data.py", DATA.format(change=change)
                ),
                allows=SAFE,
                keeps=("sparse.pt.training*", "study*"),
            )


def _written(path: Path, text: str) -> None:
    path.write_text(text)


ARRAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no image": lambda a: {**a, "x_train": a["x_train"][:0], "y_train": a["y_train"][:0]},
    "a label of -1": lambda a: {**a, "y_train": a["y_train"] - 1},
    "a label of 10**12": lambda a: {**a, "y_train": a["y_train"] * 10**12},
    "one class": lambda a: {**a, "y_train": a["y_train"] * 0, "y_test": a["y_test"] * 0},
    "images of float64": lambda a: {**a, "x_train": a["x_train"] / 255},
    "images of uint16": lambda a: {**a, "x_train": a["x_train"].astype("uint16")},
    "labels of uint64": lambda a: {**a, "y_train": (a["y_train"] - 1).astype("uint64")},
    "labels of dates": lambda a: {**a, "y_train": a["y_train"].astype("datetime64[s]")},
    "images of five axes": lambda a: {**a, "x_train": a["x_train"][None]},
    "no y_test": lambda a: {k: v for k, v in a.items() if k != "y_test"},
    "all alike": lambda a: {**a, "x_train": a["x_train"] * 0 + 7},
    "one image": lambda a: {**a, "x_train": a["x_train"][:1], "y_train": a["y_train"][:1]},
}


@family("numbers")
def odd_arrays(random: Random) -> Iterator[Fault]:
    for what, change in ARRAYS.items():
        met = random.choice(LEARNING).replace("data.py:make_data", "npz:data.npz")
        yield Fault(
            name=f"an .npz: {what}",
            command=command(met),
            needs=("dense.pt", "slim.pt", "data.npz"),
            plant=lambda folder, change=change: _arrays(folder / "data.npz", change),
            allows=SAFE,
            keeps=("sparse.pt.training*", "study*"),
        )


def _arrays(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    import numpy as np

    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(path, **change(arrays))


CUTTING = (
    *("--ratio -0.1", "--ratio 1", "--ratio 1.5", "--ratio nan", "--ratio inf", "--ratio abc"),
    *("--ratio 1e-300", "--ratio 0.9999999", "--ratio 0", "--macs 0", "--macs nan", "--macs -1"),
    *("--macs 2", "--macs 1e-9", "--params nan", "--params 0", "--params 1e-9", "--bytes -5MB"),
    *("--bytes 0", "--bytes nan", "--bytes 1e999MB", "--bytes 1KB", "--bytes MB", "--bytes 5XB"),
    *("--ratio 0.5 --macs 0.5", "--ratio 0.5 --align 0", "--ratio 0.5 --align -1"),
    *("--ratio 0.5 --align 99999999999999999999", "--ratio 0.5 --align ٣", "--ratio 0.5 --align x"),
    *("--ratio 0.5 --min-channels -1", "--ratio 0.5 --min-channels 0"),
    *("--ratio 0.5 --min-channels 1000000000", "--ratio 0.5 --steps 0", "--ratio 0.5 --steps -3"),
    *("--ratio 0.5 --layer-ratio x=nan", "--ratio 0.5 --layer-ratio =0.5"),
    *("--ratio 0.5 --layer-ratio '*=-1'", "--ratio 0.5 --layer-ratio '*=2'"),
    *("--ratio 0.5 --layer-ratio '*'", "--ratio 0.5 --keep '['", "--ratio 0.5 --keep nothing"),
    *("--ratio 0.5 --keep '*'", "--ratio 0.5 --seed -1", "--ratio 0.5 --seed 18446744073709551616"),
    *("--ratio 0.5 --threads 0", "--ratio 0.5 --threads 1000000", "--ratio 0.5 --threads -1"),
    *("--ratio 0.5 --device meta", "--ratio 0.5 --device cuda:99", "--ratio 0.5 --device cpu:99"),
    *("--ratio 0.5 --device ''", "--ratio 0.5 --input 0", "--ratio 0.5 --input 1,1,-8,8"),
    *("--ratio 0.5 --input 1,1,99999999,99999999", "--ratio 0.5 --input 1,1,8,8,8,8,8,8"),
    *("--ratio 0.5 --input 1", "--ratio 0.5 --input 99999999999999999999999,1,8,8"),
    *("--ratio 0.5 --input 1,1,1,1", "--ratio 0.5 --input 1,1,8,8 --input 1,1,8,8"),
    *("--ratio 0.5 --criterion nothing", "--ratio 0.5 --criterion ''", "--ratio 0.5 --across x"),
    *("--ratio 0.5 --reduce x", "--ratio 0.5 --scope x", "--ratio 0.5 --drop-blocks -1"),
    *("--drop-blocks 999999999999999999999999999999", "--drop-blocks 0", "--drop-blocks '*'"),
    *("--ratio 0.5 --data npz:", "--ratio 0.5 --data :", "--ratio 0.5 --data nothing"),
    *("--ratio 0.5 --repair", "--ratio 0.5 --repair --data digits --samples 0"),
    *("--ratio 0.5 --repair --data digits --samples 1",),
    *("--ratio 0.5 --repair --data digits --samples 999999999999",),
    *("--ratio 0.5 --repair --data digits --normalize 0/0",),
    *("--ratio 0.5 --repair --data digits --normalize nan/1",),
    *("--ratio 0.5 --repair --data digits --normalize 1/1e-45",),
    *("--ratio 0.5 --repair --data digits --normalize 1,2,3/1",),
    *("--ratio 0.5 --repair --data digits --normalize inf/inf",),
    *("--ratio 0.5 --arch slimnet:", "--ratio 0.5 --arch :", "--ratio 0.5 --arch nothing"),
    *("--ratio 0.5 --arch torchvision:resnet18", "--ratio 0.5 --arch /dev/null:make_model"),
    *(
        "--ratio 0.5 --init nothing.pt",
        "--ratio 0.5 --example nothing.py:f",
        "--ratio",
        "--nothing",
    ),
)
"""Options of prune: a shell's words after the network's file."""
TRAINING = (
    *("--epochs 0", "--epochs -1", "--lr 0", "--lr nan", "--lr -1", "--lr 1e300", "--lr inf"),
    *("--train-batch 0", "--train-batch -1", "--train-batch 999999999999", "--weight-decay nan"),
    *("--weight-decay -1", "--weight-decay 1e300", "--train-images 0", "--test-images -1"),
    *("--train-images 1", "--strength nan", "--strength -1", "--strength 1e300", "--rate 2"),
    *("--method soft-filters --rate nan", "--method soft-filters --rate 1", "--method nothing"),
    *("--method unstructured --rate -1", "--method group-lasso --strength inf", "--seed -1"),
    "--seed 18446744073709551616",
)
OTHERS = (
    *("compare dense.pt --data digits -o study --ratio ''", "compare dense.pt --data digits -o s"),
    *("compare dense.pt --data digits -o study --ratio 0.5,0.5",),
    *("compare dense.pt --data digits -o study --ratio nan", "sensitivity dense.pt --points 0"),
    *("compare dense.pt --data digits -o study --seeds 0", "sensitivity dense.pt --points -1"),
    *("compare dense.pt --data digits -o study --regime nothing",),
    *("compare dense.pt --data digits -o study --criterion nothing",),
    *("compare dense.pt --data digits -o study --epochs -1",),
    *("sensitivity dense.pt --points 1000000000 -o out.html", "sensitivity dense.pt --samples 0"),
    *("export dense.pt out.onnx --onnx --batch 0", "export dense.pt out.onnx --onnx --pt2"),
    *("export dense.pt out.onnx --onnx --batch 999999999999", "export dense.pt out.onnx"),
    *("export dense.pt out.onnx --onnx --input 1,1,99999999,8 --no-latency",),
    *("inspect dense.pt --input x", "inspect dense.pt --graph out.txt", "verify dense.pt"),
    *("verify dense.pt --against dense.pt", "inspect", "nothing", "", "--version x", "-h -h"),
    *("repair dense.pt --against dense.pt --data digits -o out.pt",),
)


@family("numbers")
def options_of_prune(random: Random) -> Iterator[Fault]:
    for text in CUTTING:
        yield Fault(
            name=f"prune {text}",
            command=command(f"prune dense.pt {text} -o out.pt"),
            needs=("dense.pt",),
            allows=SAFE,
        )


@family("numbers")
def options_of_others(random: Random) -> Iterator[Fault]:
    sparsify = SPARSIFY.replace("--epochs 3", "")
    for text in (*(f"{sparsify} {_one_epoch(text)}" for text in TRAINING), *OTHERS):
        yield Fault(
            name=text,
            command=command(text),
            needs=("dense.pt", "data.npz"),
            allows=SAFE,
            keeps=("sparse.pt.training*", "study*", "s", "s/*"),
        )


def _one_epoch(text: str) -> str:
    return text if "--epochs" in text else f"{text} --epochs 1"
