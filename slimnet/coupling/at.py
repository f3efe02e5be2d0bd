"""One call as the rule of its operator sees it: all that a rule can say and ask.

A rule is called as ``rule(at, *args, **kwargs)`` with the arguments of the ATen call, tensors
replaced by :class:`~slimnet.coupling.labels.Labelled`. It returns the labels of the output's axes
(a tuple), or a list of such tuples where there are several outputs. ``at`` is the :class:`At` of
this call: through it the rule ties, pins and asks for fresh labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from slimnet.capture.graph import Call, Ref
from slimnet.capture.sizes import SizeSource
from slimnet.capture.trace import source
from slimnet.coupling.constraints import Constraints, Grouped, Reason, Statistic
from slimnet.coupling.labels import Axis, Labelled, Labels
from slimnet.operator import of

Axes: TypeAlias = tuple[Axis, ...]
Outputs: TypeAlias = "Axes | list[Axes]"


@dataclass(frozen=True)
class At:
    """One call, as its rule sees it."""

    constraints: Constraints
    call: Call

    def fresh(self, length: int) -> Labels:
        """Labels tied to nothing yet."""
        return self.constraints.ledger.fresh(length)

    def fixed(self, length: int, because: str) -> Labels:
        """Labels of slots that always stay."""
        labels = self.fresh(length)
        self.pin(labels, because)
        return labels

    def pin(self, axis: Axis, because: str) -> None:
        """These slots must stay; ``because`` is a sentence's end: "…, which <because>"."""
        if axis is not None and len(axis):
            self.constraints.pin(axis, f"{self.name} {because}", self.call.site)

    def tie(self, left: Axis, right: Axis) -> None:
        """Slot by slot, both live and die together; a live axis tied to an inert one stays."""
        if left is not None and right is not None:
            self.constraints.ledger.tie(left, right)
        elif left is not None or right is not None:
            self.pin(left if left is not None else right, "meets it with an axis of fixed length")

    def tie_if_live(self, left: Axis, right: Axis) -> None:
        """Tie two axes of which both may be inert."""
        if left is not None or right is not None:
            self.tie(left, right)

    def tie_blocks(self, axis: Axis, blocks: int) -> None:
        """The axis is ``blocks`` equal parts end to end: the same positions leave each of them."""
        if axis is not None and blocks > 1:
            self.constraints.balanced.append(Statistic(axis, self._division(blocks)))
            rows = axis.reshape(blocks, -1)
            self.tie(np.tile(rows[0], blocks - 1), rows[1:].reshape(-1))

    def divides(self, channels: Axis, groups: int) -> bool:
        """A grouped convolution reads these channels; whether its groups lose other columns."""
        weight = self.call.args[1]
        if channels is None or weight.kind != "parameter":
            return False
        reason = self._division(groups)
        self.constraints.grouped.append(Grouped(str(weight.name), channels, groups, reason))
        apart = weight.name in self.constraints.apart
        if apart:
            self.constraints.counted.append(Statistic(channels, reason))
        return apart

    def _division(self, blocks: int) -> Reason:
        return Reason(f"{self.name} divides it into {blocks}", self.call.site)

    def need(self, size: SizeSource | int | None, axis: Axis, length: int) -> None:
        """The code gives this length as ``size``: it must agree with what the labels leave."""
        self.constraints.need(size, axis, length, self.name, self.call.site)

    def vanish(self, flag: bool) -> None:
        """Say whether the output's removed slots hold zeros in the zeroed original."""
        self.constraints.vanishing = flag

    def statistic(self, axis: Axis, because: str) -> None:
        """The output depends on *all* slots of this axis: removal is approximate for them."""
        if axis is not None:
            self.constraints.approximate(self.call, axis, f"{self.name} {because}")

    def share_out(self, axis: Axis) -> None:
        """The call makes a distribution over this axis."""
        if axis is not None:
            self.constraints.shared_out.append((self.call, axis))

    def fold(self, axis: Axis, because: str) -> None:
        """The call multiplies by a number that it computes from the length of ``axis``."""
        if axis is not None:
            self.constraints.folded.append((self.call, axis, f"{self.name} {because}"))

    def attend(self, *axes: Axis) -> None:
        """These are widths of heads, where the call may be a part of an attention."""
        self.constraints.attended += [axis for axis in axes if axis is not None]

    def survivors_only(self, axes: Sequence[Axis]) -> None:
        """Zeroing breaks it along these axes (0/0): the reference runs it on what survives."""
        self.constraints.restrict(self.call, axes, f"{self.name} gives no number")

    def remap(self, index: Labelled, axis: Labels) -> None:
        """The integer buffer ``index`` points into ``axis`` and has to be renumbered."""
        self.constraints.remaps.append((index, axis))

    def choose(self, candidates: dict[int, Labels]) -> int:
        """One of several readings, best first; reconsidered where its labels end up pinned."""
        return self.constraints.choose(self.call, candidates)

    @property
    def name(self) -> str:
        """The operator without its overload, e.g. ``aten.view``."""
        return str(self.call.op).rsplit(".", 1)[0]

    def asked(self, *names: str) -> tuple[Any, ...] | None:
        """Arguments after the tensor of the user's own call, if it was one of these functions."""
        request = self.call.request
        if request is None or request.name not in names:
            return None
        return (*request.args[1:], *request.kwargs.values())

    def sizes(self, lengths: Sequence[int]) -> list[SizeSource | int | None]:
        """Where each of these lengths came from: a source, a literal, or None (follows by itself).

        Only functions that are handed sizes are asked; inside any other, torch computes them.
        """
        request = self.call.request
        if request is None or request.name not in of(self.call.op).sizes:
            return [None] * len(lengths)
        if request.name == "unflatten":  # names only the new axes, after their place
            inner = _integers([*request.args[2:], *request.kwargs.values()])
            return _match_inside(inner, list(lengths))
        arguments = [*request.args, *request.kwargs.values()]
        lists = (_integers(argument) for argument in arguments if isinstance(argument, list))
        exact = next((numbers for numbers in lists if len(numbers) == len(lengths)), None)
        return _match(exact or _integers(arguments), list(lengths))

    def number(self, *names: str, place: int, key: str) -> SizeSource | int | None:
        """Where one integer argument of the user's call came from; None if torch chose it."""
        request = self.call.request
        if request is None or request.name not in names:
            return None
        value = request.kwargs.get(key, request.args[place] if len(request.args) > place else None)
        return None if not isinstance(value, int) else (source(value) or int(value))


def _integers(tree: Any) -> list[int]:
    """The integers among arguments; one that torch reads from a tensor may be any."""
    if isinstance(tree, Ref) and tree.shape == () and not tree.dtype.is_floating_point:
        return [-1]
    if isinstance(tree, bool):
        return []
    if isinstance(tree, int):
        return [tree]
    if isinstance(tree, (tuple, list)):
        return [number for entry in tree for number in _integers(entry)]
    return []


def _match(stated: list[int], lengths: list[int]) -> list[SizeSource | int | None]:
    """Find the lengths among stated integers (-1 fits any); else all are taken as literals."""
    width = len(lengths)
    for start in range(len(stated) - width, -1, -1):
        window = stated[start : start + width]
        if all(s in (n, -1) for s, n in zip(window, lengths, strict=True)):
            return [None if s == -1 else (source(s) or int(s)) for s in window]
    return list(lengths)


def _match_inside(stated: list[int], lengths: list[int]) -> list[SizeSource | int | None]:
    """As :func:`_match` for a run of the axes; the others follow by themselves."""
    for start in range(len(lengths) - len(stated) + 1):
        window = lengths[start : start + len(stated)]
        if all(s in (n, -1) for s, n in zip(stated, window, strict=True)):
            inside = _match(stated, window)
            return [None] * start + inside + [None] * (len(lengths) - start - len(stated))
    return list(lengths)
