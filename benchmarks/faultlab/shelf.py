"""Good files, made when they are first asked for: what faults damage and are measured by.

A recipe is a function that is run in a fork, in the shelf's folder. Two small networks stand for
all: a built-in one, known by its weights, and a user's own class, whose slim files hold a program.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from faultlab import child
from faultlab.forks import Ran, run

ARCH = "net.py:make_model"
OWN = f"--arch {ARCH} --input 1,1,8,8"
"""How a command is told what the user's own network is."""
PRUNE = "prune dense.pt --ratio 0.5"
PRUNE_OWN = f"prune own.pt {OWN} --ratio 0.5"
REPAIR = "repair slim.pt --against dense.pt --data npz:data.npz --samples 32"
SPARSIFY = "sparsify dense.pt --data npz:data.npz --epochs 3 -o sparse.pt"
COMPARE = (
    "compare dense.pt --data npz:data.npz --ratio 0.3,0.5 --regime finetune --seeds 2 --epochs 4 "
    "--no-time -o study"
)
VERIFY = f"verify slim.pt2 --against own.pt --arch {ARCH}"
EXPORT = "export slim.pt slim.onnx --onnx --no-latency"

SOURCE = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.max_pool2d(torch.relu(self.second(x)), 2)
        return self.head(x.mean((2, 3)))


def make_model():
    return Net()
"""


def _source() -> None:
    Path("net.py").write_text(SOURCE)


def _own() -> Any:
    import torch

    names: dict[str, Any] = {"__name__": "net"}
    exec(SOURCE, names)  # its own text, above
    torch.manual_seed(0)
    return names["Net"]().eval()


def _dense_state() -> dict[str, Any]:
    import torch

    from slimnet.models import MODELS

    torch.manual_seed(0)
    return MODELS["digits_vgg"].make().eval().state_dict()


def _saved(name: str, make: Callable[[], Any], **options: Any) -> Callable[[], None]:
    def recipe() -> None:
        import torch

        torch.save(make(), name, **options)

    return recipe


def _safetensors() -> None:
    from safetensors.torch import save_file

    save_file(_dense_state(), "dense.safetensors")


def _exported() -> Any:
    import torch

    return torch.export.export(_own(), (torch.zeros(1, 1, 8, 8),), strict=False)


def _program() -> None:
    import torch

    torch.export.save(_exported(), "program.pt2")


def _old_program() -> None:
    """The four files that torch wrote before 2.8."""
    import zipfile

    from torch._export.serde.serialize import serialize

    parts = serialize(_exported())
    with zipfile.ZipFile("old.pt2", "w") as made:
        made.writestr("version", "8.1")
        made.writestr("serialized_exported_program.json", parts.exported_program)
        made.writestr("serialized_state_dict.pt", parts.state_dict)
        made.writestr("serialized_constants.pt", parts.constants)
        made.writestr("serialized_example_inputs.pt", parts.example_inputs)


def _data() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    sizes = {"train": 96, "test": 40}
    arrays = {}
    for split, size in sizes.items():
        arrays[f"x_{split}"] = random.integers(0, 255, (size, 8, 8, 1), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(size) % 10
    np.savez("data.npz", **arrays)


def _training() -> None:
    """What a training that was stopped before its end leaves behind."""
    import slimnet.cli.sparsify as command

    command.write_state = lambda *_: sys.exit(0)  # the last snapshot stays
    child.slimnet_command(SPARSIFY.split())()
    Path("sparse.pt").unlink(missing_ok=True)


def _slimnet(text: str) -> Callable[[], None]:
    def recipe() -> None:
        code = child.slimnet_command(text.split())()
        if code:
            sys.exit(code)

    return recipe


@dataclass(frozen=True)
class Recipe:
    """How a file is made, from which others."""

    make: Callable[[], None]
    needs: tuple[str, ...] = ()


RECIPES: dict[str, Recipe] = {
    "net.py": Recipe(_source),
    "dense.pt": Recipe(_saved("dense.pt", _dense_state)),
    "legacy.pt": Recipe(_saved("legacy.pt", _dense_state, _use_new_zipfile_serialization=False)),
    "dense.safetensors": Recipe(_safetensors),
    "own.pt": Recipe(_saved("own.pt", lambda: _own().state_dict())),
    "program.pt2": Recipe(_program),
    "old.pt2": Recipe(_old_program),
    "data.npz": Recipe(_data),
    "slim.pt": Recipe(_slimnet(f"{PRUNE} -o slim.pt"), ("dense.pt",)),
    "slimown.pt": Recipe(_slimnet(f"{PRUNE_OWN} -o slimown.pt"), ("net.py", "own.pt")),
    "slim.pt2": Recipe(_slimnet(f"{PRUNE_OWN} -o slim.pt2"), ("net.py", "own.pt")),
    "repaired.pt": Recipe(
        _slimnet(f"{REPAIR} -o repaired.pt"), ("slim.pt", "dense.pt", "data.npz")
    ),
    "slim.onnx": Recipe(_slimnet(EXPORT), ("slim.pt",)),
    "sparse.pt.training": Recipe(_training, ("dense.pt", "data.npz")),
    "study": Recipe(_slimnet(COMPARE), ("dense.pt", "data.npz")),
}


class Shelf:
    """A folder of good files, and of what undisturbed commands come to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._preloaded: set[str] = set()
        for name in ("files", "runs", "modules"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def put(self, names: Sequence[str], folder: Path) -> None:
        """Copies of these files."""
        for name in names:
            path = self.file(name)
            if path.is_dir():
                shutil.copytree(path, folder / name, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, folder / name)

    def file(self, name: str) -> Path:
        """One good file, made where it is not there yet."""
        path = self.folder / "files" / name
        if not path.exists():
            recipe = RECIPES[name]
            for other in recipe.needs:
                self.file(other)
            made = self.run(_working(recipe.make), self.folder / "files")
            if made.code or not path.exists():
                raise RuntimeError(f"{name} could not be made:\n{made.err}")
        return path

    def run(self, work: Callable[[], int], folder: Path) -> Ran:
        """Undisturbed; what it imported is imported here too, once, for all later forks."""
        made = run(child.telling_modules(work), folder)
        names = made.noted("module")
        digest = hashlib.blake2b("".join(names).encode(), digest_size=8).hexdigest()
        (self.folder / "modules" / digest).write_text("\n".join(names))
        self.preload()
        return made

    def preload(self) -> None:
        """Import what undisturbed commands have imported."""
        for path in (self.folder / "modules").iterdir():
            for name in path.read_text().splitlines():
                if name not in self._preloaded and name not in sys.modules:
                    _imported(name)
                self._preloaded.add(name)

    def kept(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was found out once about an undisturbed command."""
        digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
        path = self.folder / "runs" / digest
        if not path.exists():
            path.write_text(json.dumps(make()))
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def _working(make: Callable[[], None]) -> Callable[[], int]:
    def work() -> int:
        make()
        return 0

    return work


def _imported(name: str) -> None:
    """For later forks; some parts of libraries cannot be imported by themselves."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(name)
    except Exception:
        sys.modules.pop(name, None)
