"""What built a network: a source, a name in it, and options, small enough for a command line.

``torchvision:resnet18``, ``slimnet:resnet56`` or ``path/to/file.py:make_model``. ``recognise``
finds the first two from the names and shapes of a state dict alone.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimnet.errors import InputError, UnknownNameError
from slimnet.models import MODELS
from slimnet.models.fingerprint import Fingerprint, Shapes, matching, similarity, sketch
from slimnet.registry import Registry
from slimnet.userfile import call_in_file

USAGE = "torchvision:resnet18 | slimnet:resnet56 | path/to/file.py:make_model"
INDEX = Path(__file__).parent / "models" / "architectures.json"


@dataclass(frozen=True)
class Arch:
    """How to build a network; ``options`` are keyword arguments and must be JSON-able."""

    source: str  # "torchvision" | "slimnet" | "file"
    name: str  # "resnet18" | "resnet56" | "path/to/file.py:make_model"
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, *, init: bool = False) -> nn.Module:
        """Build the network in eval mode.

        Without ``init`` random initialisation is skipped, which is much quicker: parameters then
        hold arbitrary values until a state dict is loaded; buffers are complete. Raises InputError
        for an unknown name, an option that the network does not take, or a file that fails.
        """
        source = SOURCES[self.source]
        source.check(self.name)
        if init:
            return source.make(self, True).eval()
        with _NoRandomInit():
            return source.make(self, False).eval()

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The usual input without its batch axis, such as (3, 224, 224); None if unknown."""
        return SOURCES[self.source].input_shape(self)

    def __str__(self) -> str:
        return self.name if self.source == "file" else f"{self.source}:{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads."""
        return {"source": self.source, "name": self.name, "options": dict(self.options)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Arch:
        """Read what ``to_json`` gave; raises InputError where a field is missing."""
        try:
            return cls(str(row["source"]), str(row["name"]), dict(row.get("options", {})))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"not an architecture (source, name, options): {row!r}") from None


def parse_arch(spec: str) -> Arch:
    """Read ``SOURCE:NAME`` or ``FILE.py:FUNCTION``; raises InputError for what is unknown."""
    head, colon, tail = spec.rpartition(":")
    if head.endswith(".py"):
        arch = Arch("file", spec)
    elif colon and head in SOURCES and head != "file":
        arch = Arch(head, tail)
    else:
        raise InputError(f"{spec!r} names no architecture: write {USAGE}")
    SOURCES[arch.source].check(arch.name)
    return arch


def recognise(state: Mapping[str, Tensor]) -> Arch:
    """Find the architecture of a state dict by its names and shapes.

    Other numbers of classes (and of input channels, in the built-in networks) are recognised and
    become options. Raises InputError where several architectures match, or none; then it names
    the closest.
    """
    shapes = shapes_of(state)
    found = [_with_lengths(row, shapes) for row in matching(index(), shapes)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(str(arch) for arch in found)
        raise InputError(f"these weights fit {names} alike: say which one with --arch")
    raise InputError(
        "no known network has these parameter names and shapes "
        f"({_closest(shapes)}): say what built it with --arch {USAGE}"
    )


def fitted(arch: Arch, state: Mapping[str, Tensor]) -> Arch:
    """Return ``arch`` with the options that ``state`` shows, such as its number of classes.

    Options that ``arch`` already sets stay as they are, and so does a file's.
    """
    shapes = shapes_of(state)
    rows = [row for row in index() if row.arch == str(arch)]
    if not rows:
        return arch
    best = next(iter(matching(rows, shapes)), rows[0])
    return Arch(arch.source, arch.name, {**_with_lengths(best, shapes).options, **arch.options})


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@cache
def index() -> tuple[Fingerprint, ...]:
    """Read the fingerprints of all known architectures, once."""
    return tuple(Fingerprint.from_json(row) for row in json.loads(INDEX.read_text("utf-8")))


def _with_lengths(row: Fingerprint, shapes: Shapes) -> Arch:
    source, _, name = row.arch.partition(":")
    return Arch(source, name, {**row.options, **row.read(shapes)})


def _closest(shapes: Shapes, count: int = 3) -> str:
    own = sketch(shapes)
    shared: dict[str, float] = {}
    for row in index():
        shared[row.arch] = max(shared.get(row.arch, 0.0), similarity(own, row.sketch))
    ranked = sorted((-share, name) for name, share in shared.items() if share > 0)[:count]
    if not ranked:
        return "none shares even one name"
    listed = ", ".join(f"{name} {min(-share, 0.99):.0%}" for share, name in ranked)
    return f"closest, by estimated share of names and shapes: {listed}"


class _NoRandomInit(TorchFunctionMode):
    """Skip random values for parameters: a state dict overwrites them anyway.

    Buffers keep theirs. What nn.init does through other tensors still runs, and still ends.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            target = args[0] if args else kwargs["tensor"]
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **kwargs)


# Some functions of nn.init arrive here themselves, others only as the tensor method they call.
_RANDOM = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}


@dataclass(frozen=True)
class Source:
    """Where networks come from: how to check a name, build it, and know its usual input."""

    check: Callable[[str], None]  # raises InputError for an unknown name
    make: Callable[[Arch, bool], nn.Module]  # (arch, with initialisation)
    input_shape: Callable[[Arch], tuple[int, ...] | None]


SOURCES: Registry[Source] = Registry("architecture source")


def _torchvision_names() -> list[str]:
    import torchvision.models  # imported late: it takes a second

    return list(torchvision.models.list_models(module=torchvision.models))


def _check_torchvision(name: str) -> None:
    if name not in _torchvision_names():
        raise _unknown("torchvision", name)


def _check_slimnet(name: str) -> None:
    if name not in MODELS:
        raise _unknown("slimnet", name)


def _check_file(name: str) -> None:
    """Nothing to check before the file is run."""


def _unknown(source: str, name: str) -> UnknownNameError:
    known = [f"torchvision:{other}" for other in _torchvision_names()]
    known += [f"slimnet:{other}" for other in MODELS]
    elsewhere = [spec for spec in known if spec.endswith(f":{name}")]
    near = difflib.get_close_matches(f"{source}:{name}", known, 4)
    return UnknownNameError(
        f"{source} has no classification network {name!r}: the closest known ones are "
        f"{', '.join(elsewhere + near)} (--arch {USAGE})"
    )


def _make_torchvision(arch: Arch, init: bool) -> nn.Module:
    from torchvision.models import get_model

    # These two warn unless told whether to initialise.
    quiet = {"init_weights": init} if arch.name in ("googlenet", "inception_v3") else {}
    return _made(arch, get_model, arch.name, weights=None, **quiet)


def _make_slimnet(arch: Arch, init: bool) -> nn.Module:
    return _made(arch, MODELS[arch.name].make)


def _made(arch: Arch, make: Callable[..., nn.Module], *args: Any, **fixed: Any) -> nn.Module:
    try:
        return make(*args, **{**fixed, **arch.options})
    except (TypeError, ValueError) as error:
        raise InputError(f"{arch} does not build with {dict(arch.options)}: {error}") from error


def _make_from_file(arch: Arch, init: bool) -> nn.Module:
    made = call_in_file(arch.name, arch.options)
    if isinstance(made, nn.Module):
        return made
    raise InputError(f"{arch} returned {type(made).__name__}, not a torch.nn.Module")


def _torchvision_shape(arch: Arch) -> tuple[int, ...]:
    usual = 299 if arch.name == "inception_v3" else 224
    size = int(arch.options.get("image_size", usual))
    return (3, size, size)


def _slimnet_shape(arch: Arch) -> tuple[int, ...]:
    channels, *size = MODELS[arch.name].input_shape
    return (int(arch.options.get("in_channels", channels)), *size)


SOURCES.add("torchvision", Source(_check_torchvision, _make_torchvision, _torchvision_shape))
SOURCES.add("slimnet", Source(_check_slimnet, _make_slimnet, _slimnet_shape))
SOURCES.add("file", Source(_check_file, _make_from_file, lambda arch: None))
