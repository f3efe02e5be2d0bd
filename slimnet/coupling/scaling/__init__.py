"""Which weights multiply a recorded tensor, so that a constant can be folded into them.

Takes a trace and an operand of one of its calls, gives for every parameter the indices of one of
its axes that have to be multiplied for the whole operand to be multiplied, and nothing that others
read. One walk backwards over the calls: what moves elements hands the demand on, a sum hands it to
both sides, a product to one side, and a convolution, matrix product or affine normalisation ends in
its weight and bias. Anything else: no answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from slimnet.capture.graph import Call, DataflowGraph, Ref
from slimnet.capture.trace import Trace
from slimnet.coupling.scaling.boxes import Box, NotLinear, meet, one_axis, union, whole
from slimnet.coupling.scaling.steps import Demands, Way
from slimnet.operator import of

Slices: TypeAlias = "dict[str, tuple[int, tuple[int, ...]]]"
"""Parameter → one of its axes, and indices along it."""


@dataclass(frozen=True, eq=False)
class ScalingPath:
    """How to multiply a tensor: which parameters to multiply, and what is then multiplied too."""

    slices: Slices
    boxes: Mapping[int, Box]  # recorded tensor → what of it is multiplied
    targets: frozenset[int]  # the calls that read it so: more than one where a module runs twice


def path_to(trace: Trace, call: Call, operand: Ref) -> ScalingPath | None:
    """How to multiply an operand of a call and nothing that others read; None where none is."""
    answers, key = trace.graph.answers, (path_to, call.index, operand.id)
    if key not in answers:
        answers[key] = _path(trace.graph, call, operand)
    path: ScalingPath | None = answers[key]
    return path


def _path(graph: DataflowGraph, call: Call, operand: Ref) -> ScalingPath | None:
    """By this call alone, else by all that the module makes of the operator."""
    argument = next(n for n, arg in enumerate(call.args) if arg is operand)
    alike = graph.by_place[call.op, call.site.module]
    walks = ((calls, side) for calls in ([call], alike) for side in (0, 1))
    paths = (_Walk(graph, side).path(calls, argument) for calls, side in walks)
    return next((path for path in paths if path is not None), None)


class _Walk:
    """From a tensor back to the parameters, the latest call first."""

    def __init__(self, graph: DataflowGraph, side: int) -> None:
        self.graph = graph
        self.way = Way(graph.varies, side)
        self.boxes: dict[int, Box] = {}  # recorded tensor → what of it is multiplied
        self.parameters: dict[str, int] = {}  # name → recorded tensor
        self.queue: list[tuple[int, int]] = []

    def path(self, targets: Sequence[Call], argument: int) -> ScalingPath | None:
        """The parameters that multiply this argument of all these calls, and nothing else."""
        try:
            for target in targets:
                operand = target.args[argument]
                if not isinstance(operand, Ref):
                    return None
                self._demand(operand, whole(operand.shape))
            while self.queue:
                _, number = heapq.heappop(self.queue)
                call = self.graph.made[number]
                place = [ref.id for ref in call.outputs].index(number)
                for ref, box in self._step(call, place, self.boxes[number]):
                    self._demand(ref, box)
            self._check_alone(targets)
            slices = {name: one_axis(self.boxes[n]) for name, n in self.parameters.items()}
        except NotLinear:
            return None
        return ScalingPath(slices, self.boxes, frozenset(target.index for target in targets))

    def _step(self, call: Call, place: int, box: Box) -> Demands:
        """What a call's operands must be for one of its results to be multiplied."""
        step = of(call.op).scaling
        if not step:
            raise NotLinear
        return step(self.way, call, box, place)

    def _demand(self, ref: Ref, box: Box) -> None:
        if not all(flags.any() for flags in box):
            return
        if ref.id in self.boxes:
            self.boxes[ref.id] = union(self.boxes[ref.id], box)
            return
        self.boxes[ref.id] = box
        if ref.kind == "parameter" and ref.name is not None:
            self.parameters[ref.name] = ref.id
        elif ref.id in self.graph.made:
            heapq.heappush(self.queue, (-self.graph.made[ref.id].index, ref.id))
        else:
            raise NotLinear  # an input, a buffer or a constant

    def _check_alone(self, targets: Sequence[Call]) -> None:
        """Nothing but the targets may read what is multiplied, except on the way to it."""
        for number in list(self.boxes):
            for call in self.graph.readers.get(number, ()):
                if call not in targets:
                    self._check_reader(call, number)

    def _check_reader(self, call: Call, number: int) -> None:
        """Each result takes the tensor's factor along, or is made of its other elements."""
        moves = of(call.op).moves
        if not moves and not any(ref.id in self.boxes for ref in call.outputs):
            raise NotLinear
        for place, ref in enumerate(call.outputs):
            multiplied = self.boxes.get(ref.id)
            if multiplied is None and not moves:
                continue  # the mean and the deviation, which a norm gives as well
            part = whole(ref.shape) if multiplied is None else multiplied
            demands = self._step(call, place, part)
            mine = [box for operand, box in demands if operand.id == number]
            if multiplied is not None and not mine:
                raise NotLinear
            if multiplied is None and any(meet(self.boxes[number], box) for box in mine):
                raise NotLinear
