"""A network without some of its residual branches, and the proof that it is that.

Takes a model, an example and which blocks to drop, gives a :class:`Shortened` network. What is cut
afterwards is cut in the shorter one; :func:`Shortened.whole` puts both plans and proofs together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import Tensor

from slimnet.blocks.blocks import Block, block_scores, few, find_blocks
from slimnet.capture.suitable import refuse_unsuitable
from slimnet.capture.trace import Trace, capture
from slimnet.costs.cost import cost_of
from slimnet.coupling.couple import couple
from slimnet.errors import InputError, PruneError
from slimnet.network import Network
from slimnet.plan.compose import compose
from slimnet.plan.plan import BlockCut, Plan
from slimnet.plan.rebuild import without_blocks
from slimnet.proof.certificate import Certificate, certify, join_certificates
from slimnet.proof.comparison import paired
from slimnet.proof.reference import CutContext
from slimnet.text import first_line

Wanted: TypeAlias = int | Sequence[str]
"""So many blocks, those of the smallest scale first; or names and patterns (``layer3.*``)."""


@dataclass(frozen=True, eq=False)
class Shortened:
    """A network without its blocks, on the tensors of the original."""

    dense: Network
    network: Network
    plan: Plan  # nothing but blocks
    certificate: Certificate | None

    def whole(self, plan: Plan, certificate: Certificate | None) -> tuple[Plan, Certificate | None]:
        """Plan and proof from the original on; both as they are where no block left."""
        if not self.plan.blocks:
            return plan, certificate
        both = compose(self.plan, plan, self.dense.shapes).reporting(notes=plan.notes)
        return both, certificate and join_certificates(self.certificate, certificate)


def shorten(
    network: Network,
    example: tuple[Any, ...],
    wanted: Wanted,
    *,
    seed: int = 0,
    verify: bool = True,
) -> Shortened:
    """Drop the wanted blocks; the network itself where none is wanted.

    Raises :class:`InputError` for a name that no block has, and :class:`PruneError` for a block
    that cannot leave.
    """
    if not wanted:
        return Shortened(network, network, Plan({}), None)
    refuse_unsuitable(network, example)
    trace = capture(network, example)
    chosen = choose(network.tensors, find_blocks(network, trace), wanted)
    cuts = tuple(BlockCut(block.name, block.stubs, block.last) for block in chosen)
    try:
        return _dropped(network, example, trace, cuts, seed=seed, verify=verify)
    except Exception as error:  # code between the modules may raise anything
        raise PruneError(_refusal(network, example, trace, cuts, error)) from error


def shorten_as(
    network: Network, example: tuple[Any, ...], plan: Plan, *, seed: int = 0
) -> Shortened:
    """Drop the blocks that a plan drops, and prove it."""
    if not plan.blocks:
        return Shortened(network, network, Plan({}), None)
    trace = capture(network, example)
    return _dropped(network, example, trace, plan.blocks, seed=seed, verify=True)


def choose(
    tensors: Mapping[str, Tensor], blocks: Sequence[Block], wanted: Wanted
) -> tuple[Block, ...]:
    """The blocks of these names, or so many of the smallest scale; raises as :func:`shorten`."""
    if not blocks:
        raise InputError("no block can be dropped: this network has no residual blocks")
    if isinstance(wanted, int):
        return _least(tensors, blocks, wanted)
    chosen: set[str] = set()
    for glob in wanted:
        named = [block for block in blocks if block.name == glob] or [
            block for block in blocks if fnmatchcase(block.name, glob)
        ]
        if not named:
            some = few([block.name for block in blocks])
            raise InputError(f"no residual block is called {glob!r}; they are called {some}")
        leaving = [block for block in named if not block.stays]
        if not leaving:
            raise PruneError(f"{named[0].name} cannot leave: {named[0].stays}")
        chosen |= {block.name for block in leaving}
    return tuple(block for block in blocks if block.name in chosen)


def _least(
    tensors: Mapping[str, Tensor], blocks: Sequence[Block], number: int
) -> tuple[Block, ...]:
    leaving = [block for block in blocks if not block.stays]
    if not 0 < number <= len(leaving):
        raise InputError(f"drop_blocks asks for {number} blocks, and {len(leaving)} could leave")
    scores = block_scores(tensors, leaving)
    least = sorted(leaving, key=lambda block: scores[block.name])[:number]
    return tuple(block for block in blocks if block in least)


def _dropped(
    network: Network,
    example: tuple[Any, ...],
    trace: Trace,
    cuts: tuple[BlockCut, ...],
    *,
    seed: int,
    verify: bool,
) -> Shortened:
    plan = Plan({}, blocks=cuts)
    shorter = without_blocks(network, plan)
    costs = [cost_of(each, example).to_json() for each in (network, shorter)]
    plan = plan.reporting(before=costs[0], after=costs[1])
    certificate = None
    if verify:
        pairs = paired(trace, capture(shorter, example), _gone(cuts))
        context = CutContext(trace, couple([trace]), plan)
        certificate = certify(network, shorter, context, example, seed=seed, shorter=pairs)
    return Shortened(network, shorter, plan, certificate)


def _gone(cuts: Sequence[BlockCut]) -> list[str]:
    """Modules whose calls are not those of the original."""
    return [name for cut in cuts for name in (cut.name, *(stub.module for stub in cut.stubs))]


def _refusal(
    network: Network,
    example: tuple[Any, ...],
    trace: Trace,
    cuts: Sequence[BlockCut],
    error: Exception,
) -> str:
    """Which block it is that cannot leave, and what happens when it does."""
    for cut in cuts if len(cuts) > 1 else ():
        try:
            _dropped(network, example, trace, (cut,), seed=0, verify=True)
        except Exception as alone:
            return _refusal(network, example, trace, (cut,), alone)
    names = ", ".join(cut.name for cut in cuts)
    why = first_line(error.__cause__ or error)
    return f"{names} cannot leave: without its modules, {network.name} fails ({why})"
