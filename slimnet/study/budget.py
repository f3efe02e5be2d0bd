"""What the cuts of a study are asked for: one row per kind of budget.

A budget is a kind and an amount, and knows how :func:`slimnet.prune` is asked for it. Compression
is that of ShrinkBench (Blalock et al. 2020): all parameters over those that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from slimnet.errors import InputError
from slimnet.planning.request import CutRequest, TimeTarget, parse_bytes
from slimnet.signature import check_option

Amount: TypeAlias = "float | str"


@dataclass(frozen=True)
class Kind:
    """How a kind of budget is asked for, and said."""

    option: str  # of slimnet.prune
    words: str  # of the amount
    asked: Callable[[Any], Any] = lambda amount: amount  # → the option's value
    kept: Callable[[float], float] | None = None  # → share of the parameters that a mask leaves


KINDS: Mapping[str, Kind] = {
    "ratio": Kind("ratio", "ratio {}"),
    "macs": Kind("macs", "MACs {}"),
    "params": Kind("params", "parameters {}", kept=lambda amount: amount),
    "compression": Kind(
        "params", "{}x compression", asked=lambda amount: 1 / amount, kept=lambda amount: 1 / amount
    ),
    "bytes": Kind("bytes", "{}", asked=lambda amount: parse_bytes(str(amount))),
    "latency": Kind("latency", "time {}"),
}


@dataclass(frozen=True)
class Budget:
    """``Budget("macs", 0.5)``; raises ``InputError`` for what no cut can be asked for."""

    kind: str
    amount: Amount

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            known = ", ".join(KINDS)
            raise InputError(f"unknown budget {self.kind!r}: the known ones are {known}")
        if self.kind == "compression" and not float(self.amount) >= 1:
            raise InputError(
                f"a compression is all parameters over those that remain, 1 or more: {self.amount}"
            )
        for name, value in self.options.items():
            check_option(CutRequest, name, value)

    @property
    def options(self) -> dict[str, Any]:
        """The options of :func:`slimnet.prune`."""
        kind = KINDS[self.kind]
        return {kind.option: kind.asked(self.amount)}

    @property
    def is_share(self) -> bool:
        """Whether it is a ratio: of channels, or of single weights."""
        return self.kind == "ratio"

    @property
    def is_time(self) -> bool:
        """Whether it is of milliseconds, which takes measuring."""
        return self.kind == "latency"

    def masked(self, maskable: int, parameters: int) -> float:
        """The share of the ``maskable`` weights that a mask takes, out of all ``parameters``.

        Raises ``InputError`` for a kind that masks do not save, and for more than they can.
        """
        kept = KINDS[self.kind].kept
        if self.is_share:
            return float(self.amount)
        if kept is None:
            raise InputError(
                f"masked weights save nothing that {self} counts: ask for a ratio, parameters or a "
                "compression"
            )
        rate = (1 - kept(float(self.amount))) * parameters / maskable if maskable else 1.0
        if rate >= 1:
            raise InputError(
                f"{self} is more than masks can do here: {maskable:,} of {parameters:,} parameters "
                "are weights of convolutions and linear layers"
            )
        return rate

    def __str__(self) -> str:
        return KINDS[self.kind].words.format(self.short)

    @property
    def short(self) -> str:
        """The amount alone."""
        amount = self.amount
        return f"{amount:g}" if isinstance(amount, (int, float)) else amount

    @property
    def label(self) -> str:
        """For a narrow table: of a ratio the amount alone."""
        return self.short if self.is_share else str(self)

    def to_json(self) -> dict[str, Amount]:
        """Both fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any] | float) -> Budget:
        """Read what ``to_json`` gave; the first studies had ratios alone."""
        return cls("ratio", fields) if isinstance(fields, (int, float)) else cls(**fields)


def ratios(*amounts: float) -> tuple[Budget, ...]:
    """Shares of the channels that leave."""
    return tuple(Budget("ratio", amount) for amount in amounts)


def listed(kind: str, text: str) -> tuple[Budget, ...]:
    """``0.5,0.25`` of a kind; raises ``InputError`` for what is none."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(Budget(kind, _amount(kind, part)) for part in parts)


def _amount(kind: str, text: str) -> Amount:
    if kind == "latency":
        return str(TimeTarget.of(text))
    if kind == "bytes":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--{kind} {text!r} is no number, or list of them: 0.3,0.5") from None
