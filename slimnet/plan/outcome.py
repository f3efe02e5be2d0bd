"""What came of a cut: what was asked for, what was achieved, and why the two differ.

Plain data beside the indices that leave (:mod:`.plan`): a person reads it, nothing is cut by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from slimnet.limits import whole_number


@dataclass(frozen=True)
class GroupCut:
    """What a group of coupled layers lost."""

    layers: tuple[str, ...]
    before: int  # channels
    after: int
    approximate: tuple[str, ...] = ()  # reasons; empty where the cut is exact
    asked: float | None = None  # share of the channels that the scope alone would have removed
    why: str = ""  # why it lost another share than that

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> GroupCut:
        """Read what :func:`dataclasses.asdict` gave."""
        asked = row.get("asked")
        return cls(
            tuple(map(str, row["layers"])),
            whole_number(row["before"]),
            whole_number(row["after"]),
            tuple(map(str, row["approximate"])),
            None if asked is None else float(asked),
            str(row.get("why", "")),
        )


@dataclass(frozen=True)
class Outcome:
    """What was asked of a cut, what it achieved, and why."""

    groups: tuple[GroupCut, ...] = ()
    untouched: tuple[tuple[str, str], ...] = ()  # layer, why it was left alone
    asked: Mapping[str, Any] | None = None  # the options of the request, the budget first
    before: Mapping[str, float] | None = None  # the amount of every cost, by its name
    after: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """From a plan's JSON; raises ``KeyError``, ``TypeError`` and the like for another's."""
        return cls(
            groups=tuple(map(GroupCut.from_json, data["groups"])),
            untouched=tuple((str(row[0]), str(row[1])) for row in data["untouched"]),
            asked=_table(data["asked"]),
            before=_amounts(data["before"]),
            after=_amounts(data["after"]),
            notes=tuple(map(str, data["notes"])),
        )

    def then(self, later: Outcome) -> Outcome:
        """That of both cuts as one: ``later`` is of what this one left."""
        notes = (*self.notes, *later.notes, "pruned in more than one step")
        return replace(
            later,
            groups=(*self.groups, *later.groups),
            before=self.before,
            notes=tuple(dict.fromkeys(notes)),
        )


def _amounts(row: Any) -> Mapping[str, float] | None:
    """MACs, parameters and bytes, and what plug-ins count."""
    table = _table(row)
    for name in ("macs", "params", "bytes") if table else ():
        whole_number(row[name])
    return table


def _table(row: Any) -> Mapping[str, Any] | None:
    """A dict of numbers and texts, as JSON holds it."""
    if row is not None and not isinstance(row, Mapping):
        raise TypeError(f"{row!r:.40} is no table")
    return row
