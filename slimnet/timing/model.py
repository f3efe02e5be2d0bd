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
        ms, parts, start = 0.0, [0, 0], 0
        for work in self.works:
            end = start + len(work.axes)
            now = tuple(lengths[start:end])
            start = end
            if work.form is not None:
                ms += self._convolution(work, now)
            else:
                parts[work.multiplies] += work.at(*(self._full(n, work) for n in now))
        elements, products = self._whole
        ms += self.rates.rest * parts[0] / elements + self.rates.products * parts[1] / products
        return ms * self.rates.scale

    def _convolution(self, work: Work, now: tuple[int, ...]) -> float:
        key = (work, now)
        if key not in self._memory:
            form, (reads, makes) = work.form, work.whole
            assert form is not None
            ms = self.table.ms(form, (reads, makes), *now)
            self._memory[key] = ms * self.rates.forms.get((form, reads, makes), 1.0)
        return self._memory[key]

    def _full(self, length: int, work: Work) -> int:
        block = self._block if work.multiplies and length >= self._block else 1
        return -(-length // block) * block

    @cached_property
    def _block(self) -> int:
        return self.table.block

    @cached_property
    def _memory(self) -> dict[tuple[Work, tuple[int, ...]], float]:
        return {}

    @cached_property
    def _whole(self) -> tuple[int, int]:
        """Elements, and MACs of other products, as they stand."""
        sums = [0, 0]
        for work in self.works:
            if work.form is None:
                sums[work.multiplies] += work.at(*(self._full(n, work) for n in work.whole))
        return max(sums[0], 1), max(sums[1], 1)


def rates_of(inputs: CostInputs, table: TimeTable, nodes: Sequence[Node], whole: float) -> Rates:
    """From the profile of the network as it stands, and the ``whole`` that one run takes in ms."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    others = {True: 0.0, False: 0.0}
    for node in nodes:
        if node.kind in ("Conv", "FusedConv") and len(node.outputs[0]) == 4:
            found[_shape(node)] += node.ms
        else:
            others[node.kind in _PRODUCTS] += node.ms
    listed = [(work.form, *work.whole) for work in works(inputs) if work.form is not None]
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
