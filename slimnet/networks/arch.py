"""What built a network: a source, a name in it, and options, small enough for a command line.

``torchvision:resnet18``, ``timm:vit_tiny_patch16_224``, ``slimnet:resnet56``,
``path/to/file.py:make_model`` or ``package.module:make_model``, with literal arguments where
needed: ``file.py:Net(width=64)``. ``recognise`` finds torchvision's and the built-in ones from the
names and shapes of a state dict alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimnet.errors import InputError, SlimnetError
from slimnet.models.fingerprint import (
    Fingerprint,
    Shapes,
    fingerprint,
    freedom,
    matching,
    similarity,
    sketch,
)
from slimnet.networks.literals import read_call
from slimnet.networks.sources import SOURCES, USAGE, make_from_file
from slimnet.networks.stated import check_stated
from slimnet.networks.userfile import names_module

INDEX = Path(__file__).parents[1] / "models" / "architectures.json"


@dataclass(frozen=True)
class Arch:
    """How to build a network; ``options`` are keyword arguments and must be JSON-able."""

    source: str  # "torchvision" | "timm" | "slimnet" | "file"
    name: str  # "resnet18" | "vit_tiny_patch16_224" | "resnet56" | "path/to/file.py:make_model"
    options: Mapping[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()  # positional arguments; of a function of the user's only

    def build(self, *, init: bool = False) -> nn.Module:
        """Build the network in eval mode; nothing is downloaded.

        Without ``init`` random initialisation is skipped, which is much quicker: parameters then
        hold arbitrary values until a state dict is loaded; buffers are complete. Raises InputError
        for an unknown name, an option that the network does not take, or a file that fails.
        """
        SOURCES[self.source].check(self.name)
        if init:
            return self._construct(init).eval()
        with _NoRandomInit():
            return self._construct(init).eval()

    def _construct(self, init: bool) -> nn.Module:
        try:
            if self.args:
                return make_from_file(self.name, self.options, self.args)
            return SOURCES[self.source].make(self.name, self.options, init)
        except SlimnetError:
            raise
        except Exception as error:  # the network's own code meets an option it does not know
            raise InputError(f"{self} does not build with {dict(self.options)}: {error}") from error

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The usual input without its batch axis, such as (3, 224, 224); None if unknown."""
        usual = SOURCES[self.source].usual(self.name, self.options)
        return None if usual is None else usual.shape

    def example(self) -> tuple[Any, ...] | None:
        """The usual inputs of one sample, as the network takes them; None if unknown."""
        usual = SOURCES[self.source].usual(self.name, self.options)
        return None if usual is None else usual.example()

    def __str__(self) -> str:
        return (
            f"{self.name}{self._call()}" if self.source == "file" else f"{self.source}:{self.name}"
        )

    def _call(self) -> str:
        arguments = [
            *map(repr, self.args),
            *(f"{name}={value!r}" for name, value in self.options.items()),
        ]
        return f"({', '.join(arguments)})" if arguments else ""

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads; raises InputError for what it would refuse."""
        check_stated(self.source, self.name, self.options, self.args)
        args = {"args": list(self.args)} if self.args else {}
        return {"source": self.source, "name": self.name, "options": dict(self.options), **args}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Arch:
        """Read what ``to_json`` gave, perhaps from a stranger's file; raises InputError."""
        try:
            options, args = dict(row.get("options", {})), tuple(row.get("args", ()))
            arch = cls(str(row["source"]), str(row["name"]), options, args)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"not an architecture (source, name, options): {row!r:.200}") from None
        SOURCES[arch.source]
        check_stated(arch.source, arch.name, arch.options, arch.args)
        return arch


def parse_arch(spec: str) -> Arch:
    """Read ``SOURCE:NAME``, ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``, perhaps with arguments.

    The arguments are literals (``file.py:Net(64, act="relu")``); nothing is evaluated. Raises
    InputError for what is unknown.
    """
    name, options, args = read_call(spec)
    head, colon, tail = name.rpartition(":")
    if head.endswith(".py") or (colon and head not in SOURCES and names_module(head)):
        arch = Arch("file", name, options, args)
    elif colon and head in SOURCES and head != "file":
        arch = Arch(head, tail, options)
        _check_options(spec, options, args)
    else:
        raise InputError(f"{spec!r} names no architecture: write {USAGE}")
    SOURCES[arch.source].check(arch.name)
    return arch


def _check_options(spec: str, options: Mapping[str, Any], args: tuple[Any, ...]) -> None:
    if args:
        raise InputError(f"{spec}: name each option, as in torchvision:resnet18(num_classes=10)")
    for name in options:
        if "weights" in name or name in _LOADING:
            raise InputError(f"{spec}: {name} would load weights, and those come from the file")


_LOADING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


def recognise(state: Mapping[str, Tensor]) -> Arch:
    """Find the architecture of a state dict by its names and shapes.

    Other numbers of classes (and of input channels, in the built-in networks) are recognised and
    become options. Raises InputError where several architectures match, or none; then it names
    the closest.
    """
    shapes = shapes_of(state)
    matches = [_with_lengths(row, shapes) for row in matching(index(), shapes)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = " and ".join(str(arch) for arch in matches)
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
    if not rows and arch.source == "timm":
        rows = [indexed(arch)]
    if not rows:
        return arch
    best = next(iter(matching(rows, shapes)), rows[0])
    return Arch(arch.source, arch.name, {**_with_lengths(best, shapes).options, **arch.options})


def indexed(arch: Arch) -> Fingerprint:
    """Take the fingerprint of an architecture; it is built once more per option that sets lengths.

    Raises InputError where it does not build.
    """
    shapes = _built(arch)
    freedoms = {}
    for option, default in SOURCES[arch.source].lengths(arch.name).items():
        other = replace(arch, options={**arch.options, option: _OTHER})
        with suppress(InputError, KeyError, ValueError):  # not every network takes every option
            freedoms[option] = freedom((default, _OTHER), shapes, _built(other))
    return fingerprint(str(arch), arch.options, shapes, freedoms)


def _built(arch: Arch) -> dict[str, tuple[int, ...]]:
    return shapes_of(arch.build().state_dict())


_OTHER = 7  # a length that no architecture has by default


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
    Tensor.erfinv_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}
