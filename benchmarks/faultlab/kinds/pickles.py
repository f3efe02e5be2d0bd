"""Files that would run code, or fetch something: pickles and the options of an architecture."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import CANARY, DECOY, SAFE, SAME, Fault, command, family
from faultlab.planting import (
    change_json,
    change_member,
    change_payload,
    pickled_call,
    spliced_call,
    torch_bytes,
)
from faultlab.shelf import COMPARE, PRUNE, SPARSIFY

TOUCH = ("os.system", f"touch {CANARY}")
EVAL = ("builtins.eval", f"open('{CANARY}', 'w')")
EXEC = ("builtins.exec", f"open('{CANARY}', 'w')")
TORCH = ("torch.serialization.os.system", f"touch {CANARY}")
LOAD = ("torch.load", DECOY)
GETATTR = ("numpy.load", DECOY)
CALLS = (TOUCH, EVAL, EXEC, TORCH, LOAD, GETATTR)

PICKLES = (
    ("dense.pt", "data.pkl", "inspect dense.pt"),
    ("dense.pt", "data.pkl", f"{PRUNE} -o out.pt"),
    ("slim.pt", "data.pkl", "load slim.pt"),
    ("slim.pt", "data.pkl", "verify slim.pt --against dense.pt"),
    ("slimown.pt", "data.pkl", "export slimown.pt out.pt2 --pt2"),
    ("program.pt2", "sample_inputs/model.pt", "inspect program.pt2"),
    ("old.pt2", "serialized_state_dict.pt", "inspect old.pt2"),
    ("old.pt2", "serialized_constants.pt", "load old.pt2"),
    ("old.pt2", "serialized_example_inputs.pt", "load old.pt2"),
    ("data.npz", "x_train.npy", "load data.npz"),
    ("sparse.pt.training", "data.pkl", SPARSIFY),
)


def _plant(file: str, member: str, call: tuple[str, str], spliced: bool) -> Callable[[Path], None]:
    def change(content: bytes) -> bytes:
        if member.endswith(".pkl"):
            return spliced_call(content, *call) if spliced else pickled_call(*call)
        if member.endswith(".npy"):
            return _object_array(call)
        return _inside(content, call, spliced)

    return lambda folder: change_member(folder / file, member, change)


def _inside(content: bytes, call: tuple[str, str], spliced: bool) -> bytes:
    """A file of torch's inside an archive; it may be one of the old format."""
    import io
    import zipfile

    if not content.startswith(b"PK"):
        return pickled_call(*call)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if name.endswith("data.pkl"):
                part = spliced_call(part, *call) if spliced else pickled_call(*call)
            new.writestr(name, part)
    return buffer.getvalue()


def _object_array(call: tuple[str, str]) -> bytes:
    """An array of objects: NumPy would unpickle it."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    padded = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + pickled_call(*call)


@family("crafted")
def pickles_that_call(random: Random) -> Iterator[Fault]:
    """os.system and its like, alone or hidden before the file's own content."""
    for file, member, met in PICKLES:
        for call in random.sample(CALLS, 3):
            spliced = random.random() < 0.5
            yield Fault(
                name=f"{member} of {file} calls {call[0]}{', then goes on' if spliced else ''}",
                command=command(met),
                needs=tuple({file: 0, "dense.pt": 0, "data.npz": 0}),
                plant=_plant(file, member, call, spliced),
                allows=SAFE,
                keeps=("sparse.pt.training*",),
            )


def _pickled(path: Path, call: tuple[str, str]) -> None:
    path.write_bytes(pickled_call(*call))


def _module(path: Path) -> None:
    """A whole module, pickled by torch."""
    from torch import nn

    path.write_bytes(torch_bytes(nn.Sequential(nn.Linear(3, 3))))


def _dumped(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


@family("crafted")
def plain_pickles(random: Random) -> Iterator[Fault]:
    """Pickles without an archive around them, under every name."""
    for suffix in (".pt", ".pth", ".pt2", ".safetensors", ".onnx", ".npz", ".training"):
        call = random.choice(CALLS)
        yield Fault(
            name=f"evil{suffix} is a pickle that calls {call[0]}",
            command=command(f"inspect evil{suffix}"),
            needs=(),
            plant=lambda folder, s=suffix, call=call: _pickled(folder / f"evil{s}", call),
            allows=SAFE,
        )
    yield Fault(
        name="a pickled module",
        command=command("inspect evil.pt"),
        needs=(),
        plant=lambda folder: _module(folder / "evil.pt"),
        allows=SAFE,
    )
    for value in ({"a": {"b": 1}}, [1] * 10, "text", 3, None):
        yield Fault(
            name=f"a pickle of {value!r:.20}",
            command=command("load evil.pt"),
            needs=(),
            plant=lambda folder, value=value: _dumped(folder / "evil.pt", value),
            allows=SAFE,
        )


OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("torchvision", "resnet18", {"weights": "DEFAULT"}),
    ("torchvision", "resnet18", {"weights": "IMAGENET1K_V1", "progress": False}),
    ("torchvision", "fcn_resnet50", {"weights_backbone": "DEFAULT"}),
    ("torchvision", "googlenet", {"weights": "DEFAULT"}),
    ("torchvision", "resnet18", {"norm_layer": "evil"}),
    ("torchvision", "resnet18", {"num_classes": 10**12}),
    ("torchvision", "vit_b_16", {"image_size": 16 * 10**5}),
    ("torchvision", "swin_t", {"weights": "DEFAULT"}),
    ("timm", "resnet18", {"checkpoint_path": DECOY}),
    ("timm", "resnet18", {"pretrained": True}),
    ("timm", "resnet18", {"pretrained_cfg": {"file": DECOY}, "pretrained": True}),
    ("timm", "resnet18", {"pretrained_cfg": "a1_in1k", "pretrained": True}),
    ("timm", "resnet18", {"pretrained_cfg_overlay": {"file": DECOY, "custom_load": True}}),
    ("timm", "resnet18", {"pretrained_strict": False, "checkpoint_path": DECOY}),
    ("timm", "resnet18", {"cache_dir": "cache", "pretrained": True}),
    ("timm", "hf-hub:timm/resnet18.a1_in1k", {}),
    ("timm", "hf_hub:timm/resnet18.a1_in1k", {"pretrained": True}),
    ("timm", "local-dir:.", {}),
    ("timm", "vit_tiny_patch16_224", {"img_size": 10**6}),
    ("timm", "resnet18", {"num_classes": 10**12}),
    ("file", "evil.py:make_model", {}),
    ("file", "/dev/stdin:make_model", {}),
    ("slimnet", "digits_vgg", {"__class__": 1}),
    ("slimnet", "digits_vgg", {"in_channels": 10**9}),
    ("slimnet", "no such", {}),
    ("os", "system", {"command": f"touch {CANARY}"}),
)
"""(source, name, options) that a file might give for the architecture that it was made with."""


def _arch(source: str, name: str, options: dict[str, Any]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        arch = {"source": source, "name": name, "options": options}
        change_payload(folder / "slim.pt", lambda payload: {**payload, "arch": arch})
        (folder / DECOY).write_bytes(pickled_call(*TOUCH))
        (folder / "config.json").write_text('{"architecture": "resnet18"}')
        (folder / "evil.py").write_text(f"open('{CANARY}', 'w')\n\ndef make_model():\n    pass\n")

    return plant


@family("crafted")
def architectures_that_fetch(random: Random) -> Iterator[Fault]:
    """A file must not reach the network, other files, or a user's code."""
    for source, name, options in OPTIONS:
        yield Fault(
            name=f"a slim.pt was made with {source}:{name} and {options!r:.60}",
            command=command(random.choice(("load slim.pt", "inspect slim.pt"))),
            needs=("slim.pt",),
            plant=_arch(source, name, options),
            allows=SAFE,
        )


@family("crafted")
def states_that_call(random: Random) -> Iterator[Fault]:
    """A cell of a study whose texts are markup or code."""
    for text in ("<script>/*CANARY*/</script>", "\x1b[2Jowned", "__import__('os')"):
        yield Fault(
            name=f"a cell of a study names its criterion {text!r}",
            command=command(COMPARE),
            needs=("study", "dense.pt", "data.npz"),
            plant=lambda folder, text=text: _cell(folder, text),
            allows=SAME,
        )
    for file in ("data/weights/model_weights_config.json",):
        yield Fault(
            name="a weight of a .pt2 is to be unpickled",
            command=command("load program.pt2"),
            needs=("program.pt2",),
            plant=lambda folder, file=file: _use_pickle(folder / "program.pt2"),
            allows=SAFE,
        )


def _cell(folder: Path, text: str) -> None:
    import json

    path = min((folder / "study" / "cells").iterdir())
    record = json.loads(path.read_text())
    record["cell"]["criterion"] = text
    path.write_text(json.dumps(record))


def _use_pickle(path: Path) -> None:
    def change(tree: Any) -> None:
        row = next(iter(tree["config"].values()))
        row["use_pickle"] = True
        row["path_name"] = "evil"

    change_json(path, "_weights_config.json", change)
    import zipfile

    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/data/weights/evil", pickled_call(*TOUCH))
