"""Residual branches that can leave whole, found in a recorded pass.

Takes a model and its :class:`~slimnet.capture.trace.Trace`, gives a :class:`Block` for each
addition one of whose operands (the branch) is computed from the other, or from what a projection
makes the other of, and is read nowhere else. Without the branch the block is its shortcut (Huang &
Wang, *Data-Driven Sparse Structure Selection*, ECCV 2018).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from slimnet.blocks.silence import gains, silencers
from slimnet.blocks.stubs import Branch, Refused, stubs_of
from slimnet.capture.graph import Call, DataflowGraph, Ref
from slimnet.capture.trace import Trace
from slimnet.network import Network
from slimnet.plan.shortcut import Stub
from slimnet.program.program import Program


@dataclass(frozen=True)
class Block:
    """A residual branch beside a shortcut.

    ``last`` are the parameters which, all zero, make the branch's contribution exactly zero, and
    ``scales`` those of them that multiply (γ of a norm, a layer scale, rows of a weight).
    """

    name: str  # "layer3.1" | "blocks.4.mlp"
    modules: tuple[str, ...]  # wholly inside the branch, in the order in which they run
    last: tuple[str, ...]
    scales: tuple[str, ...]
    stubs: tuple[Stub, ...] = ()  # what stands there when the branch has left
    stays: str = ""  # why it cannot leave; empty where it can


def find_blocks(network: Network, trace: Trace) -> tuple[Block, ...]:
    """Every residual branch of a network, in the order in which they run."""
    modules, graph = network.modules.items(), trace.graph
    pairs = {path for path, module in modules if isinstance(module, nn.MultiheadAttention)}
    blocks = [(branch, _block(graph, branch, pairs)) for branch in _branches(graph)]
    if isinstance(network.model, Program):
        stays = "an exported program has no modules that could be replaced"
        blocks = [(branch, replace(block, stubs=(), stays=stays)) for branch, block in blocks]
    return _named(blocks, network.tensors)


def block_scores(tensors: Mapping[str, Tensor], blocks: Sequence[Block]) -> dict[str, float]:
    """How much each branch's last affine layers amplify: the mean over their channels.

    Per channel |γ| of a norm or a layer scale, and the Euclidean norm of a weight's row: both are
    the deviation that the channel has where the layer's input has independent unit variance.
    """
    return {
        block.name: sum(
            float(tensors[name].detach().double().flatten(1).norm(dim=1).mean())
            if tensors[name].dim() > 1
            else float(tensors[name].detach().double().abs().mean())
            for name in block.scales
        )
        for block in blocks
    }


def blocks_line(blocks: Sequence[Block]) -> Iterator[str]:
    """Which blocks could leave whole, and why the others stay; nothing where there are none."""
    leaving = [block.name for block in blocks if not block.stays]
    if leaving:
        number = f"{len(leaving)} residual block{'s' * (len(leaving) != 1)}"
        yield f"{number} could leave whole (--drop-blocks): {few(leaving)}"
    for why in dict.fromkeys(block.stays for block in blocks if block.stays):
        names = [block.name for block in blocks if block.stays == why]
        yield f"residual block{'s' * (len(names) != 1)} {few(names)} cannot\n    because: {why}"


def few(names: Sequence[str]) -> str:
    """All of a few names, or some of many."""
    return ", ".join(names if len(names) < 7 else [*names[:4], f"…, {names[-1]}"])


def _branches(graph: DataflowGraph) -> Iterator[Branch]:
    """Additions of two tensors of one shape, one of which is a branch beside the other."""
    for call in graph.calls:
        if _adds_two(call):
            first, second = call.args[:2]
            for end, shortcut in ((first, second), (second, first)):
                if (branch := _branch(graph, call, end, shortcut)) is not None:
                    yield branch
                    break


def _adds_two(call: Call) -> bool:
    operands = [x for x in call.args[:2] if isinstance(x, Ref)]
    return (
        call.op._schema.name in ("aten::add", "aten::add_")
        and len(operands) == 2
        and operands[0].shape == operands[1].shape == call.outputs[0].shape
        and call.kwargs.get("alpha", 1) == 1
    )


def _branch(graph: DataflowGraph, add: Call, branch: Ref, shortcut: Ref) -> Branch | None:
    """``branch`` as what leaves, where it is computed beside ``shortcut`` and read only here."""
    cone = graph.only_for(branch, shortcut)
    if not cone or not graph.parameters(cone) or not graph.enclosed(cone, branch, add.index):
        return None
    sources = graph.sources(cone)
    if shortcut.id in sources:
        return Branch(add, branch, shortcut, cone, frozenset(), sources)
    projection = graph.only_for(shortcut, branch)
    beside = graph.sources(projection) == sources and len(sources) == 1
    closed = graph.enclosed(projection, shortcut, add.index)
    longer = graph.products(cone) > graph.products(projection)
    if projection and beside and closed and longer:
        return Branch(add, branch, shortcut, cone, projection, sources)
    return None


def _block(graph: DataflowGraph, branch: Branch, pairs: Collection[str]) -> Block:
    last = silencers(graph, branch.end, branch.calls)
    modules = graph.modules_inside(branch.calls)
    names = tuple(last or ())
    stubs: tuple[Stub, ...] = ()
    stays = "" if last else "no parameters of it could be zeroed to make it zero"
    try:
        stubs = stubs_of(graph, branch, modules, pairs)
    except Refused as why:
        stays = stays or str(why)
    return Block("", modules, names, gains(graph, names), stubs, stays)


def _named(
    unnamed: Sequence[tuple[Branch, Block]], tensors: Mapping[str, Tensor]
) -> tuple[Block, ...]:
    """Blocks by the module that adds; where one adds more than once, by the branch's largest."""
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    adders = Counter(branch.add.site.module for branch, _ in unnamed)
    names: Counter[str] = Counter()
    blocks = []
    for branch, block in unnamed:
        name = branch.add.site.module
        if not name or adders[name] > 1:
            name = _largest(block.modules, sizes) or name or "the model"
        names[name] += 1
        number = f"#{names[name]}" if names[name] > 1 else ""
        blocks.append(replace(block, name=name + number))
    return tuple(blocks)


def _largest(modules: Sequence[str], sizes: Mapping[str, int]) -> str:
    """The module with most parameters."""

    def size(path: str) -> int:
        return sum(n for name, n in sizes.items() if name.startswith(f"{path}."))

    return max(modules, key=size, default="")
