"""The time of a network as a function of its widths.

The times of its convolutions at any widths are those of a table, times what each took in the
network itself, by its profile, over what the table says of it there: its neighbours differ, and
what is fused with it. Other products follow their MACs, in full blocks, and all else the elements
that it makes; both come to what the profile leaves for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from slimnet.costs.quantity import CostInputs, SizedAxis
from slimnet.export.profile import Node
from slimnet.timing.table import TimeTable
from slimnet.timing.work import Form, Work, works

_PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention", "MultiHeadAttention")


@dataclass(frozen=True, eq=False)
class Rates:
    """What measuring the network as it stands has corrected.

    ``forms`` by the form and the widths of a convolution, the others per part that remains.
    """

    forms: Mapping[tuple[Form, int, int], float]
    products: float  # ms of all other products
    rest: float  # ms of all else
    scale: float = 1.0  # the whole's own time over the sum of its nodes'


@dataclass(frozen=True, eq=False)
class TimeModel:
    """Milliseconds of one run at any lengths (:class:`slimnet.costs.quantity.Model`)."""

    works: Sequence[Work]
    table: TimeTable
    rates: Rates

    @cached_property
    def axes(self) -> Sequence[SizedAxis]:
        """Those of all works, end to end."""
        return [axis for work in self.works for axis in work.axes]

    def at(self, lengths: Sequence[int]) -> float:
        """Milliseconds when the axes are so long."""
        ms = sum(
            self._convolution(number, lengths[start], lengths[start + 1])
            for number, start in self._convolutions
        )
        padded = np.array([*lengths, 1], np.int64)
        for ms_whole, sums, whole in self._parts:
            ms += ms_whole * sums.at(padded) / whole
        return ms * self.rates.scale

    def _convolution(self, number: int, reads: int, makes: int) -> float:
        key = (number, reads, makes)
        if key not in self._memory:
            work = self.works[number]
            form, whole = work.form, (work.whole[0], work.whole[1])
            assert form is not None  # as _convolutions says
            ms = self.table.ms(form, whole, reads, makes)
            self._memory[key] = ms * self.rates.forms.get((form, *whole), 1.0)
        return self._memory[key]

    @cached_property
    def _memory(self) -> dict[tuple[int, int, int], float]:
        return {}

    @cached_property
    def _starts(self) -> list[int]:
        """Where the axes of each work begin."""
        return [0, *accumulate(len(work.axes) for work in self.works)]

    @cached_property
    def _convolutions(self) -> list[tuple[int, int]]:
        """Those with a form: their number, and where their two axes begin."""
        return [(n, self._starts[n]) for n, work in enumerate(self.works) if work.form is not None]

    @cached_property
    def _parts(self) -> list[tuple[float, _Sums, float]]:
        """What is no convolution: its ms as it stands, how it grows, and what that comes to now."""
        whole = np.array([*(length for _, length in self.axes), 1], np.int64)
        parts = []
        for multiplies, ms in ((False, self.rates.rest), (True, self.rates.products)):
            places = [
                (work.factor, range(start, start + len(work.axes)))
                for work, start in zip(self.works, self._starts, strict=False)
                if work.form is None and work.multiplies is multiplies
            ]
            sums = _Sums.of(places, len(whole) - 1, self.table.block if multiplies else 1)
            parts.append((ms, sums, max(sums.at(whole), 1.0)))
        return parts


@dataclass(frozen=True, eq=False)
class _Sums:
    """A sum of products of lengths, each length in full blocks where it has one at least."""

    factors: np.ndarray[Any, np.dtype[np.float64]]  # [works]
    places: np.ndarray[Any, np.dtype[np.int64]]  # [works, axes]: which lengths
    block: int

    @classmethod
    def of(cls, works: Sequence[tuple[int, range]], one: int, block: int) -> _Sums:
        """``one`` is the place of a length of one, with which works of fewer axes are padded."""
        most = max((len(places) for _, places in works), default=0)
        padded = [[*places, *[one] * (most - len(places))] for _, places in works]
        factors = np.array([factor for factor, _ in works], np.float64)
        return cls(factors, np.array(padded, np.int64).reshape(len(works), most), block)

    def at(self, lengths: np.ndarray[Any, np.dtype[np.int64]]) -> float:
        """``lengths`` [axes + 1], the last one is one."""
        full = np.where(lengths < self.block, lengths, -(-lengths // self.block) * self.block)
        return float(self.factors @ full[self.places].prod(axis=1, dtype=np.float64))


def rates_of(inputs: CostInputs, table: TimeTable, nodes: Sequence[Node], whole: float) -> Rates:
    """From the profile of the network as it stands, and the ``whole`` that one run takes in ms."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    others = {True: 0.0, False: 0.0}
    for node in nodes:
        if node.kind in ("Conv", "FusedConv") and len(node.outputs[0]) == 4:
            found[_shape(node)] += node.ms
        else:
            others[node.kind in _PRODUCTS] += node.ms
    listed = [(x.form, x.whole[0], x.whole[1]) for x in works(inputs) if x.form is not None]
    told: dict[tuple[int, ...], float] = defaultdict(float)
    for form, reads, makes in listed:
        told[_key(form, makes)] += table.ms(form, (reads, makes), reads, makes)
    forms = {
        (form, reads, makes): found[key] / told[key]
        for form, reads, makes in listed
        if (key := _key(form, makes)) in found and told[key] > 0
    }
    others[True] += sum(ms for key, ms in found.items() if key not in told)  # grouped ones, say
    total = sum(node.ms for node in nodes)
    return Rates(forms, others[True], others[False], whole / total if total else 1.0)


def _key(form: Form, makes: int) -> tuple[int, ...]:
    """What a runtime's profile tells of a convolution."""
    return (*form.kernel, makes, *form.out)


def _shape(node: Node) -> tuple[int, ...]:
    weight, out = node.inputs[1], node.outputs[0]
    return (*weight[-2:], out[1], *out[-2:])
