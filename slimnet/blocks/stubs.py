"""What has to stand in place of which modules for a branch to leave.

Best is a module that is the whole block, addition included: it becomes its shortcut. Else the
branch's own modules give their input, and the last gives zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from slimnet.blocks.silence import needed_by
from slimnet.capture.graph import Call, Calls, DataflowGraph, Ref, base
from slimnet.plan.shortcut import PASSED, RELU, ZERO, ZEROS, Stub


class Refused(Exception):
    """Why a branch cannot leave, in one sentence."""


@dataclass(frozen=True, eq=False)
class Branch:
    """An addition, its operands, and what is computed for either of them alone."""

    add: Call
    end: Ref  # of the branch
    shortcut: Ref
    calls: Calls  # of the branch
    projection: Calls  # empty where the shortcut is the identity
    sources: frozenset[int]  # what the branch reads


def stubs_of(
    graph: DataflowGraph, branch: Branch, modules: Sequence[str], pairs: Collection[str]
) -> tuple[Stub, ...]:
    """What stands where; ``pairs`` are modules that return two things.

    Raises :class:`Refused` where no replacement of modules takes the branch away.
    """
    whole = _whole(graph, branch)
    return (whole,) if whole is not None else _parts(graph, branch, modules, pairs)


def _whole(graph: DataflowGraph, branch: Branch) -> Stub | None:
    """The adding module as its shortcut; None where it does more than that."""
    path = branch.add.site.module
    own = graph.under(path)
    results = graph.leaving(own)
    if not path or not branch.calls | branch.projection <= own:
        return None
    if len(branch.sources) != 1 or len(results) != 1:
        return None
    (source,), (end,) = branch.sources, results
    after = own - branch.calls - branch.projection - {branch.add.index}
    before = _steps(graph, path, branch.projection, source, branch.shortcut.id)
    tail = _steps(graph, path, after, branch.add.outputs[0].id, end)
    if before is None or tail is None:
        return None
    if not before and tail == (RELU,) and _is_rectified(graph, source):
        tail = ()
    return Stub(path, PASSED, (*before, *tail))


def _steps(
    graph: DataflowGraph, path: str, calls: Calls, start: int, end: int
) -> tuple[str, ...] | None:
    """Children of a module that one after the other make ``end`` of ``start``, by these calls."""
    steps: list[str] = []
    done: set[int] = set()
    for index in sorted(calls):
        if index in done:
            continue
        step, group = _step(graph, path, index, calls)
        results = graph.leaving(group)
        if not step or graph.sources(group) != {start} or len(results) != 1:
            return None
        steps.append(step)
        done |= group
        (start,) = results
    return tuple(steps) if start == end else None


def _step(graph: DataflowGraph, path: str, call: int, calls: Calls) -> tuple[str, Calls]:
    """A child of the module, or a ReLU; no name for anything else."""
    child = graph.module_inside(call, calls, within=path) or ""
    name = child.removeprefix(f"{path}.")
    if name and "." not in name:
        return name, graph.under(child)
    return (RELU if base(graph.calls[call]) == "relu" else ""), frozenset((call,))


def _is_rectified(graph: DataflowGraph, ref: int) -> bool:
    """Whether a ReLU made it: one more changes nothing."""
    return ref in graph.made and base(graph.made[ref]) == "relu"


def _parts(
    graph: DataflowGraph, branch: Branch, modules: Sequence[str], pairs: Collection[str]
) -> tuple[Stub, ...]:
    """The branch's modules give what they get, and those at its end give zeros."""
    owner = {index: path for path in modules for index in graph.under(path)}
    _check_owned(graph, branch, owner)
    ends = _ends(graph, branch.end, branch.calls, owner)
    if not ends:
        raise Refused("what follows its last module does not keep zeros")
    _check_shapes(graph, branch, ends)
    zeros = ZERO if _is_added_as_it_is(graph, branch, owner) else ZEROS
    return tuple(
        Stub(path, zeros, paired=path in pairs) if path in ends else Stub(path, PASSED)
        for path in modules
    )


def _is_added_as_it_is(graph: DataflowGraph, branch: Branch, owner: Mapping[int, str]) -> bool:
    """Whether a module's output is added, and nothing is written into it."""
    in_place = branch.add.op._schema.is_mutable and branch.add.args[0] is branch.end
    return graph.made[branch.end.id].index in owner and not in_place


def _check_owned(graph: DataflowGraph, branch: Branch, owner: Mapping[int, str]) -> None:
    """Every product must be a module's that could be replaced."""
    for index in sorted(branch.calls - owner.keys()):
        call = graph.calls[index]
        if graph.is_product(call) and call.site.module == branch.add.site.module:
            raise Refused(f"{call.op} runs there on parameters of its own ({call.site})")
        if graph.is_product(call):
            raise Refused(f"{call.site.module} also runs elsewhere")


def _ends(
    graph: DataflowGraph, ref: Ref, calls: Calls, owner: Mapping[int, str]
) -> frozenset[str] | None:
    """The modules whose outputs must be zero for ``ref`` to be; None where that is not enough."""
    call = graph.made.get(ref.id)
    if call is None or call.index not in calls:
        return None
    if call.index in owner:
        return frozenset((owner[call.index],))
    for needed in needed_by(call):
        each = [_ends(graph, x, calls, owner) if isinstance(x, Ref) else None for x in needed]
        if all(paths is not None for paths in each):
            return frozenset(path for paths in each for path in paths or ())
    return None


def _check_shapes(graph: DataflowGraph, branch: Branch, ends: Collection[str]) -> None:
    """Zeros are as many as what the branch reads."""
    read = [
        ref
        for index in branch.calls
        for ref in graph.calls[index].reads
        if ref.id in branch.sources
    ]
    sizes = {prod(ref.shape) for ref in read}
    for path in ends:
        for number in graph.leaving(graph.under(path)):
            result = next(x for x in graph.made[number].outputs if x.id == number)
            if prod(result.shape) not in sizes:
                raise Refused(
                    f"{path} makes {_shape(result)} of {_shape(read[0])}, and its shortcut is no "
                    "module that could stay alone"
                )


def _shape(ref: Ref) -> str:
    return "x".join(map(str, ref.shape))
