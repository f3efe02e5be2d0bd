"""Channels that nobody reads: whatever they hold, the network gives the same.

Code that takes a part of an axis leaves the rest unread. A channel is read where a call takes it in
and gives results without it (a product, a sum), or where a statistic counts it; calls that hand it
on, or take the slots beside it, do not read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from slimnet.capture.trace import Call, Ref, Trace
from slimnet.coupling.couple import Coupling
from slimnet.coupling.labels import Labelled, Labels
from slimnet.coupling.rules import load_rules

Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


def unread(traces: Sequence[Trace], coupling: Coupling) -> Flags:
    """[atoms]: which of those that may leave no recorded pass reads."""
    read = ~coupling.atoms.free
    for statistic in coupling.statistics:
        read[coupling.atoms.of[statistic.axis]] = True
    for trace, tensors in zip(traces, coupling.tensors, strict=True):
        weights: set[int] = set()
        for call in trace.calls:
            read[_read(call, tensors, coupling, weights)] = True
    return ~read


def _read(
    call: Call, tensors: Mapping[int, Labelled], coupling: Coupling, weights: set[int]
) -> Labels:
    """The atoms that a call reads; ``weights`` collects what is made of parameters alone."""
    given = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Ref)]
    made = {ref.id for ref in given if ref.name is not None or ref.id in weights}
    if given and len(made) == len({ref.id for ref in given}):
        weights |= {ref.id for ref in call.outputs}
    if _takes_a_part(call):
        return np.empty(0, np.int64)
    handed_on = _atoms(call.outputs, tensors, coupling)
    if _hands_on(call):
        return np.setdiff1d(_atoms(given, tensors, coupling), handed_on)
    inside = _atoms([ref for ref in given if ref.id not in made], tensors, coupling)
    rows = _atoms([ref for ref in given if ref.id in made], tensors, coupling)
    return np.union1d(inside, np.setdiff1d(rows, handed_on))


def _atoms(refs: Iterable[Ref], tensors: Mapping[int, Labelled], coupling: Coupling) -> Labels:
    axes = (axis for ref in refs if ref.id in tensors for axis in tensors[ref.id].axes)
    found = [coupling.atoms.of[axis] for axis in axes if axis is not None]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _takes_a_part(call: Call) -> bool:
    return _family(call) in ("slicing", "indexing")


def _hands_on(call: Call) -> bool:
    """Whether what its results hold of a slot is made of that slot alone."""
    if call.op == torch.ops.aten.convolution.default:  # a group for each channel
        return bool(call.args[8] > 1 and call.args[1].shape[1] == 1)
    return _family(call) in ("pointwise", "movement", "reshape", "reduction", "norm")


def _family(call: Call) -> str:
    """The file of the operator's rule."""
    rules = load_rules()
    if str(call.op) in rules:
        return rules[str(call.op)].__module__.rpartition(".")[2]
    return "pointwise" if torch.Tag.pointwise in call.op.tags else ""
