"""What a cut is asked for: every option of it, in one place.

A :class:`CutRequest` is plain data, and so is the :class:`SensitivityRequest` of many small cuts.
The arguments of :func:`slimnet.prune`, the options of the commands, what a plan remembers as asked
and what is refused all come from its fields; a new option is a new field, and the code that heeds
it. Nothing here imports torch: ``slimnet prune --help`` reads this file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from slimnet.errors import InputError
from slimnet.ranges import parse_indices
from slimnet.registry import declared
from slimnet.signature import check_option, option, options_of, shared

Scope: TypeAlias = Literal["local", "global", "isomorphic", "harm"]
"""local: every group the same share; global: one threshold over all; isomorphic: one threshold per
class of like groups (:mod:`slimnet.planning.alike`), every class the same share; harm: the least
total score for what is saved (:mod:`slimnet.planning.greedy`)."""
Align: TypeAlias = int | Literal["auto"] | None
Keep: TypeAlias = int | Sequence[int]
"""Of a layer's channels: how many stay, or which."""

COMPETING = "auto"
"""Of blocks: that they compete with channels."""
BUDGETS = ("ratio", "macs", "params", "bytes", "latency")
"""Those that are options of their own; the others are said by :attr:`CutRequest.budget`."""
CRITERIA = ", ".join(
    declared(Path(__file__).parents[1] / "criteria", "CRITERIA", "slimnet.criteria")
)
ACROSS = "mean, max, sum, l2, none"
REDUCE = "sum, mean, max, prod, first"


def below_one(name: str, value: float) -> None:
    """Raise :class:`InputError` for what is no share that leaves something."""
    if not 0 <= value < 1:
        raise InputError(f"{name} must lie in [0, 1), and {value} does not")


def up_to_one(name: str, value: float) -> None:
    """Raise :class:`InputError` for what is no share of something that remains."""
    if not 0 < value <= 1:
        raise InputError(f"{name} must lie in (0, 1], and {value} does not")


def _bytes(name: str, value: float) -> None:
    if not 1 <= value < float("inf"):
        raise InputError(f"{name} must be a number from 1, and {value} is not")


def above_zero(name: str, value: float) -> None:
    """Raise :class:`InputError` for what is no amount."""
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be a number above 0, and {value} is not")


def _from_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} must be at least 1, and {value} is not")


def _scope(name: str, value: str) -> None:
    if value not in get_args(Scope):
        known = ", ".join(sorted(get_args(Scope)))
        raise InputError(f"unknown {name} {value!r}: the known ones are {known}")


def _multiple(name: str, value: int | str) -> None:
    if isinstance(value, int):
        _from_one(name, value)
    elif value != "auto":
        raise InputError(f"{name} must be a number, auto or off, and {value!r} is none")


def _ratios(name: str, value: Mapping[str, float]) -> None:
    for glob, ratio in value.items():
        if not 0 <= ratio < 1:
            raise InputError(f"the ratio of layer {glob!r} must lie in [0, 1): {ratio}")


def parse_bytes(text: str) -> float:
    """``5MB``, ``4.5 MiB`` or a plain number of bytes; one MB is 10⁶, one MiB 2²⁰ bytes."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS:
        raise InputError(
            f"--bytes {text!r} is no number of bytes: 5MB, 4.5MiB, 500KB, 1GB or 5000000"
        )
    return float(match[1]) * _UNITS[match[2].lower()]


_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_UNITS |= {"kib": 1024, "mib": 1024**2, "gib": 1024**3}


@dataclass(frozen=True)
class TimeTarget:
    """A time that one run may take: milliseconds, or a share of what it takes as it is."""

    value: float
    is_share: bool

    @classmethod
    def of(cls, value: str | float) -> TimeTarget:
        """``4ms``, ``0.5x``, or a number of milliseconds; raises :class:`InputError`."""
        match = re.fullmatch(r"\s*([\d.e+-]+)\s*(ms|x)?\s*", str(value), re.IGNORECASE)
        target = None
        if match and is_number(match[1]):
            target = cls(float(match[1]), (match[2] or "ms").lower() == "x")
        most = 1.0 if target and target.is_share else inf
        if not target or not 0 < target.value <= most:
            raise InputError(
                f"latency {value!r} is no time: 4ms, or 0.5x for half of what it takes now"
            )
        return target

    def ms(self, whole: float) -> float:
        """In milliseconds, where it takes ``whole`` as it is."""
        return self.value * whole if self.is_share else self.value

    def __str__(self) -> str:
        return f"{self.value:g}{'x' if self.is_share else 'ms'}"


def _time(name: str, value: str | float) -> None:
    TimeTarget.of(value)


def parse_align(text: str) -> Align:
    """``auto``, ``off`` or a number."""
    if text == "auto":
        return "auto"
    if text == "off":
        return None
    if not re.fullmatch("[1-9][0-9]*", text):
        raise InputError(f"--align must be auto, off or a number from 1, and {text!r} is neither")
    return int(text)


def parse_ratios(texts: Sequence[str]) -> dict[str, float]:
    """``GLOB=RATIO`` each."""
    ratios = {}
    for text in texts:
        glob, _, share = text.rpartition("=")
        if not glob or not is_number(share):
            raise InputError(f"--layer-ratio {text!r} must be LAYER=RATIO, e.g. features.0=0.2")
        ratios[glob] = float(share)
    return ratios


def _widths(name: str, value: Mapping[str, Keep]) -> None:
    for layer, keep in value.items():
        if not keep or (keep if isinstance(keep, int) else min(keep)) < 0:
            raise InputError(f"{layer!r} must keep a channel at least: {keep}")


def parse_widths(texts: Sequence[str]) -> dict[str, Keep]:
    """``LAYER=32`` or ``LAYER=0-7,12`` each."""
    widths: dict[str, Keep] = {}
    for text in texts:
        layer, _, keep = text.rpartition("=")
        if not layer:
            raise InputError(f"--width {text!r} must be LAYER=CHANNELS: conv1=32, or conv1=0-7,12")
        widths[layer] = int(keep) if re.fullmatch(r"\d{1,9}", keep) else parse_indices(keep)
    return widths


def is_number(text: str) -> bool:
    """Whether ``float`` reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_blocks(texts: Sequence[str]) -> int | str | list[str]:
    """Names and patterns of blocks, one number of them, or that they compete."""
    if list(texts) == [COMPETING]:
        return COMPETING
    if len(texts) == 1 and re.fullmatch("[0-9]+", texts[0]):
        return int(texts[0])
    return list(texts)


def parse_outputs(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Names of outputs, with commas between them or one by one."""
    listed = [texts] if isinstance(texts, str) else texts
    names = [name for text in listed for part in text.split(",") if (name := part.strip())]
    if not names:
        return ()
    from slimnet.limits import checked_path  # which imports torch

    return tuple(checked_path(name, "output") for name in names)


Request = TypeVar("Request", bound="CutRequest")


@dataclass(frozen=True, kw_only=True)
class CutRequest:
    """What is to leave, and what narrows the choice; raises :class:`InputError`.

    Names that a registry holds are checked by :meth:`settled`, for that reads the registry.
    """

    ratio: float | None = option(None, "share of the channels to remove, [0, 1)", check=below_one)
    macs: float | None = option(None, "share of the MACs that may remain, (0, 1]", check=up_to_one)
    params: float | None = option(
        None, "share of the parameters that may remain, (0, 1]", check=up_to_one
    )
    bytes: float | None = option(
        None,
        "parameters and buffers as stored may take so much",
        typed=": 5MB, 4.5MiB, 800KB, N",
        kind=str | None,
        parse=parse_bytes,
        check=_bytes,
    )
    latency: str | float | None = option(
        None,
        "one run may take so long, measured with onnxruntime on this machine",
        typed=": 4ms, or 0.5x of what it takes now",
        python=', on as many threads as torch has: "4ms", "0.5x", or a number of ms',
        kind=str | None,
        check=_time,
    )
    batch: int = option(1, "samples in the run that {latency} is about", check=_from_one)
    budget: Mapping[str, float] | None = option(
        None,
        "how much may remain of any cost by its name (:data:`slimnet.costs.quantity.COSTS`), "
        "such as one that a plug-in adds: ``dict(energy=0.5)``",
        hidden=True,
        asked=False,
    )
    criterion: str | None = option(
        None, f"what ranks the channels, one of: {CRITERIA}. By default l1, with {{repair}} obs"
    )
    across: str | None = option(
        None,
        f"what a group's scores are divided by under one threshold: {ACROSS}; the criterion's own "
        "by default",
    )
    reduce: str | None = option(
        None,
        f"of the scores of a group's coupled layers: {REDUCE}; the criterion's own by default",
    )
    scope: Scope | None = option(
        None,
        "local: the same share everywhere; global: one threshold; isomorphic: one per class of "
        "like layers; harm: what scores least for what it saves. By default local; harm with "
        "{repair}, where the criterion measures an error or the loss",
        kind=str | None,
        check=_scope,
    )
    repair: bool = option(
        False,
        "win accuracy back without labels: least squares, and a few passes, on",
        typed=" --samples images of --data",
        python=" the images of ``data`` (:mod:`slimnet.repair`). The certificate is of the cut, "
        "before its weights change",
    )
    align: Align = option(
        "auto",
        "round widths to a multiple",
        typed=": auto (16, less if narrow), N, off",
        python='; "auto" takes 16 for groups of at least 128 channels, and for narrower ones an '
        "eighth to a sixteenth of their width; None leaves them as they come",
        kind=str,
        parse=parse_align,
        check=_multiple,
    )
    min_channels: int | None = option(
        None,
        "the least that a group keeps; below 8, narrow groups leave too",
        python=". Without it, a ratio that would empty a layer is an error",
        check=_from_one,
    )
    keep: Sequence[str] = option(
        (),
        "layers to leave alone, by name or pattern: layer4.*",
        typed=" ; repeatable",
        kind=list[str] | None,
    )
    outputs: Sequence[str] = option(
        (),
        "outputs that somebody reads, by key, field or place; others may change with the cut",
        typed=": pooler_output,0.boxes , as slimnet inspect lists them; all by default",
        python=": ``pooler_output``, ``0.boxes``; all by default. What only others need may leave, "
        "and these may then have fewer channels",
        kind=list[str] | None,
        parse=parse_outputs,
    )
    layer_ratio: Mapping[str, float] | None = option(
        None,
        "a ratio of their own for layers, by name or pattern",
        typed=": 'features.0=0.2' ; repeatable",
        kind=list[str] | None,
        parse=parse_ratios,
        check=_ratios,
    )
    widths: Mapping[str, Keep] | None = option(
        None,
        "how many channels layers keep, by name or pattern, or which",
        typed=": 'layer1.*.conv1=32', conv1=0-7,12 ; repeatable",
        python=": 32, or [0, 1, 5]; counted and numbered before the "
        "cut. Without a budget, nothing else leaves",
        flags=("--width",),
        kind=list[str] | None,
        parse=parse_widths,
        check=_widths,
    )
    steps: int = option(
        1,
        "plan in so many rounds, scored anew after each",
        bounds=(1, None),
        check=_from_one,
    )
    heads: bool = option(False, "attention loses whole heads, not a part of each")
    drop_blocks: int | str | Sequence[str] = option(
        (),
        "residual blocks that become their shortcut: layer3.*",
        typed=" (repeatable), or how many, those of the smallest scale first, or auto: they "
        "compete with channels for the budget",
        python=", or how many, those of the smallest scale first. Without a budget, "
        'nothing else leaves; shares of MACs and parameters are those of the original. "auto" lets '
        "them compete with channels for the budget of a cost, by the change of the outputs after a "
        "short repair (:mod:`slimnet.repairs.rivals`), which reads ``data``",
        kind=list[str] | None,
        parse=parse_blocks,
    )
    whole_blocks: bool = option(
        False,
        "groups no wider than the alignment stay whole: a runtime's block is never half empty",
        hidden=True,
        asked=False,
    )
    best_effort: bool = option(
        False,
        "take the nearest where the budget cannot be met; without it,",
        typed=" nothing is written then",
        python=" that is an error. MACs, parameters and bytes are never exceeded (alignment gives "
        "way to them); a ratio may be missed by one aligned step of each group",
    )
    seed: int = option(
        0, "of the random criterion and of the proof's random weights and inputs", hidden=True
    )
    verify: bool = option(
        True,
        "prove the result (four passes in float64)",
        flags=("--verify/--no-verify",),
        asked=False,
    )
    strict: bool = option(False, "an operator without a rule is an error", hidden=True, asked=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(self.keep))  # its own: nobody else changes them
        object.__setattr__(self, "outputs", parse_outputs(self.outputs))
        object.__setattr__(self, "layer_ratio", dict(self.layer_ratio or {}))
        object.__setattr__(self, "budget", dict(self.budget or {}))
        widths = {name: _keep(keep) for name, keep in (self.widths or {}).items()}
        object.__setattr__(self, "widths", widths)
        for name in options_of(type(self)):
            check_option(type(self), name, getattr(self, name))

    def settled(self: Request) -> Request:
        """With a criterion, a scope and a budget where they were left to slimnet.

        Raises :class:`InputError` unless there is one budget, and for names that are not known.
        """
        named = self.drop_blocks and self.drop_blocks != COMPETING
        by_name = (named or self.widths) and not self.budgets
        request = replace(self, ratio=0.0, scope="local") if by_name else self
        _ = request.the_budget
        # the registry of criteria imports torch
        from slimnet.criteria import CriterionOptions, usual, usual_scope

        criterion = self.criterion or usual(repair=self.repair)
        CriterionOptions(criterion, self.across, self.reduce)
        scope = request.scope or usual_scope(criterion, repair=self.repair)
        return replace(request, criterion=criterion, scope=scope)

    @property
    def budgets(self) -> list[tuple[str, float]]:
        """Every one that was named, and its number."""
        options = [(name, vars(self)[name]) for name in BUDGETS]
        named = [(name, value) for name, value in options if value is not None]
        return [*named, *(self.budget or {}).items()]

    @property
    def the_budget(self) -> tuple[str, float]:
        """Which one was named, and its number; raises :class:`InputError` unless it is one."""
        if len(self.budgets) != 1:
            raise InputError(
                "give exactly one budget: a ratio of channels, of macs or of params, bytes, or a "
                "latency"
            )
        return self.budgets[0]

    def check(self, *, data: bool, init: bool) -> None:
        """Raise :class:`InputError` for what no network could be cut by, or needs what lacks."""
        from slimnet.criteria import check_needs

        criterion = self.settled().criterion
        if self.repair and not data:
            raise InputError(
                "repair needs images to solve on: give them (--data digits|npz:FILE|…)"
            )
        if self.drop_blocks == COMPETING:
            self._check_competing(data=data)
        check_needs(str(criterion), data=data, init=init)

    def _check_competing(self, *, data: bool) -> None:
        kind, _ = self.the_budget
        if kind == "ratio":
            raise InputError(
                "blocks compete with channels for a cost, and a ratio counts channels alone: ask "
                "for macs, params or bytes"
            )
        if not data:
            raise InputError(
                "blocks compete by what a short repair leaves of the damage, which needs images: "
                "give them (--data digits|npz:FILE|…), or say which blocks leave"
            )

    def asked(self, samples: int | None) -> dict[str, Any]:
        """As a plan remembers it; ``samples`` is how many images were read."""
        kind, value = self.the_budget
        rest = {name: value for name, value in self.plain().items() if name not in BUDGETS}
        return {kind: float(value), **rest, "samples": samples}

    def plain(self) -> dict[str, Any]:
        """What decides the cut, as JSON holds it."""
        names = [name for name, row in options_of(type(self)).items() if row.asked]
        return {name: _plain(getattr(self, name)) for name in names}


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest:
    """To which widths each group is cut alone, and which of its channels go."""

    points: int = option(
        5,
        "widths that each group is cut to",
        python=": of 5, shares of 1/6, 2/6 … 5/6 of the channels are removed",
        bounds=(1, 1000),
        check=_from_one,
    )
    criterion: str = option("l1", f"what ranks the channels, one of: {CRITERIA}")
    across: str | None = shared(CutRequest, "across")
    reduce: str | None = shared(CutRequest, "reduce")
    heads: bool = shared(CutRequest, "heads")
    outputs: Sequence[str] = shared(CutRequest, "outputs")
    latency: bool = option(
        False,
        "also say what each cut saves of the time of a run",
        python=", in ms of onnxruntime on this machine",
        kind=bool,
        flags=("--latency/--no-latency",),
    )
    batch: int = option(1, "samples in the run that {latency} is about", check=_from_one)
    seed: int = option(0, "of the random criterion", hidden=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", parse_outputs(self.outputs))
        for name in ("points", "batch"):
            check_option(type(self), name, getattr(self, name))


def _keep(keep: Keep) -> Keep:
    return keep if isinstance(keep, int) else tuple(sorted(map(int, keep)))


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if listed else value
