"""Where networks come from: how to check a name, build it, and what it usually takes.

One row per source: torchvision (everything it lists but quantised networks), timm where it is
installed, the built-in networks, and a function in a file of the user's.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from slimnet.errors import InputError, UnknownNameError
from slimnet.example import normal
from slimnet.models import MODELS
from slimnet.networks.userfile import call_in_file
from slimnet.registry import Registry

USAGE = (
    "torchvision:resnet18 | timm:NAME | slimnet:resnet56 | path/to/file.py:make_model | "
    "package.module:make_model, with literal arguments where needed: file.py:Net(width=64)"
)
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Usual:
    """What a network usually takes: tensors of one shape, given here without their batch axis."""

    shape: tuple[int, ...]  # [C, H, W], or [C, T, H, W] of a clip
    tensors: int = 1  # optical flow compares two images
    listed: bool = False  # detectors take a list of images in place of a batch

    def example(self) -> tuple[Any, ...]:
        """One sample as the network's positional inputs: the same normal noise every time."""
        if self.listed:
            return ([normal(self.shape)],)
        return tuple(normal((1, *self.shape)) for _ in range(self.tensors))


@dataclass(frozen=True)
class Source:
    """What to ask a source about a name; ``make`` raises what the network's own code raises."""

    check: Callable[[str], None]  # raises InputError for a name that cannot be built
    make: Callable[[str, Options, bool], nn.Module]  # (name, options, with initialisation)
    usual: Callable[[str, Options], Usual | None]
    lengths: Callable[[str], Mapping[str, int]]  # options that set lengths of axes, with defaults


SOURCES: Registry[Source] = Registry("architecture source")


# ------------------------------------------------------------------------------------ torchvision


def torchvision_names() -> list[str]:
    """Everything that torchvision lists but the quantised networks."""
    return [name for name in _listed() if _kind(name) != "quantization"]


@cache
def _listed() -> tuple[str, ...]:
    import torchvision.models  # imported late: it takes a second

    return tuple(torchvision.models.list_models())


def _builder(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder

    return get_model_builder(name)  # type: ignore[no-any-return]


def _kind(name: str) -> str:
    """The folder of torchvision.models that a network lives in; "" for the classifiers."""
    _, _, *folder, _ = _builder(name).__module__.split(".")
    return folder[0] if folder else ""


def _check_torchvision(name: str) -> None:
    if name not in _listed():
        raise _unknown("torchvision", name)
    if _kind(name) == "quantization":
        raise InputError(
            f"torchvision:{name} is quantised, and integer weights cannot be cut: prune "
            f"torchvision:{name.removeprefix('quantized_')} and quantise the slim network"
        )


def _make_torchvision(name: str, options: Options, init: bool) -> nn.Module:
    from torchvision.models import get_model

    fixed: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(_builder(name)).parameters:
        fixed["weights_backbone"] = None  # a download otherwise
    if name in ("googlenet", "inception_v3"):
        fixed["init_weights"] = init  # these two warn unless told
    return get_model(name, **{**fixed, **options})  # type: ignore[no-any-return]


_CLASSES = {"": 1000, "segmentation": 21, "detection": 91, "video": 400}


def _torchvision_lengths(name: str) -> dict[str, int]:
    if name.startswith("keypointrcnn"):
        return {"num_classes": 2, "num_keypoints": 17}
    kind = _kind(name)
    return {"num_classes": _CLASSES[kind]} if kind in _CLASSES else {}


def _torchvision_usual(name: str, options: Options) -> Usual:
    kind = _kind(name)
    if kind == "detection":
        return Usual((3, 320, 320), listed=True)
    if kind == "optical_flow":
        return Usual((3, 128, 128), tensors=2)
    if kind == "video":
        size = 112 if name in ("mc3_18", "r2plus1d_18", "r3d_18") else 224
        return Usual((3, 16, size, size))
    size = int(options.get("image_size", 299 if name == "inception_v3" else 224))
    return Usual((3, size, size))


# ------------------------------------------------------------------------------------------- timm


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "timm is not installed, and --arch timm:NAME needs it: pip install timm"
        ) from error
    return timm


def _check_timm(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        others = [f"timm:{other}" for other in timm.list_models()]
        raise _unknown("timm", name, others)


def _make_timm(name: str, options: Options, init: bool) -> nn.Module:
    return _timm().create_model(name, **{**options, "pretrained": False})  # type: ignore[no-any-return]


def _timm_lengths(name: str) -> dict[str, int]:
    config = _timm().models.get_pretrained_cfg(name)
    if config is None:
        return {"num_classes": 1000, "in_chans": 3}
    return {"num_classes": int(config.num_classes), "in_chans": int(config.input_size[0])}


def _timm_usual(name: str, options: Options) -> Usual:
    config = _timm().models.get_pretrained_cfg(name)
    channels, *size = (3, 224, 224) if config is None else config.input_size
    sides = options.get("img_size", size)
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return Usual((int(options.get("in_chans", channels)), int(height), int(width)))


# -------------------------------------------------------------------------- built-in, and a file


def _check_slimnet(name: str) -> None:
    if name not in MODELS:
        raise _unknown("slimnet", name)


def _make_slimnet(name: str, options: Options, init: bool) -> nn.Module:
    return MODELS[name].make(**options)


def _slimnet_lengths(name: str) -> dict[str, int]:
    parameters = inspect.signature(MODELS[name].make).parameters
    return {option: parameters[option].default for option in ("num_classes", "in_channels")}


def _slimnet_usual(name: str, options: Options) -> Usual:
    channels, *size = MODELS[name].input_shape
    return Usual((int(options.get("in_channels", channels)), *size))


def _check_file(name: str) -> None:
    """Nothing to check before the file is run."""


def make_from_file(name: str, options: Options, args: Sequence[Any] = ()) -> nn.Module:
    """What a function of the user's builds; raises InputError where that is no network."""
    made = call_in_file(name, options, args)
    if isinstance(made, nn.Module):
        return made
    raise InputError(f"{name} returned {type(made).__name__}, not a torch.nn.Module")


def _unknown(source: str, name: str, more: Iterable[str] = ()) -> UnknownNameError:
    networks = [f"torchvision:{other}" for other in torchvision_names()]
    networks += [f"slimnet:{other}" for other in MODELS]
    networks += more
    elsewhere = [spec for spec in networks if spec.endswith(f":{name}")]
    near = difflib.get_close_matches(f"{source}:{name}", networks, 4)
    return UnknownNameError(
        f"{source} has no network {name!r}: the closest known ones are "
        f"{', '.join(elsewhere + near) or 'none'} (--arch {USAGE})"
    )


SOURCES.add(
    "torchvision",
    Source(_check_torchvision, _make_torchvision, _torchvision_usual, _torchvision_lengths),
)
SOURCES.add("timm", Source(_check_timm, _make_timm, _timm_usual, _timm_lengths))
SOURCES.add("slimnet", Source(_check_slimnet, _make_slimnet, _slimnet_usual, _slimnet_lengths))
SOURCES.add(
    "file",
    Source(
        _check_file,
        lambda name, options, init: make_from_file(name, options),
        lambda name, options: None,
        lambda name: {},
    ),
)
