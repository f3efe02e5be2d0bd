"""What becomes of outputs that nobody reads: how a plan's notes tell it, and what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slimnet.capture.graph import Ref
from slimnet.capture.trace import Trace
from slimnet.coupling.couple import Coupling
from slimnet.coupling.survival import Survival
from slimnet.errors import InputError
from slimnet.example import is_read


def still_read(names: Sequence[str], left: Sequence[str]) -> tuple[str, ...]:
    """The outputs that are named, else all that earlier cuts ``left`` to read; all where empty.

    Raises :class:`InputError` for one that nobody read when the network was cut.
    """
    for name in names:
        if not is_read(name, left):
            raise InputError(
                f"the output {name} was not read when this network was cut, and may have changed "
                f"since: what is left to read is {', '.join(left)}"
            )
    return tuple(names or left)


def changed_outputs(trace: Trace, coupling: Coupling, survival: Survival) -> Iterator[str]:
    """Which outputs are read, and which of the others give fewer numbers after a cut."""
    if not trace.wanted:
        return
    others = [
        f"{name} {_size(ref.shape)} → {_size(after)}"
        for name, ref in zip(trace.names, trace.outputs, strict=True)
        if not is_read(name, trace.wanted) and (after := _after(ref, coupling, survival))
    ]
    more = f" and {len(others) - _FEW} more" if len(others) > _FEW else ""
    rest = f"; smaller by the cut: {', '.join(others[:_FEW])}{more}" if others else ""
    yield f"outputs that are read: {', '.join(trace.wanted)}; the others may have changed{rest}"


_FEW = 4


def _after(ref: Ref, coupling: Coupling, survival: Survival) -> tuple[int, ...] | None:
    """The shape after the cut; None where it stays."""
    labelled = coupling.tensors[0].get(ref.id)
    if labelled is None:
        return None
    lengths = tuple(
        n if axis is None else int(survival.along(axis).sum())
        for n, axis in zip(ref.shape, labelled.axes, strict=True)
    )
    return None if lengths == ref.shape else lengths


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
