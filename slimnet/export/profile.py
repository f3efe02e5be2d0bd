"""Where the milliseconds of an ONNX file go, node by node, as onnxruntime tells it.

Takes a file and inputs; gives the nodes that the runtime runs after its own optimisation, in their
order, each with the mean of the middle half of its times. Nodes that it has fused are one, and what
it adds to change layouts has nodes of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import onnx

from slimnet.export.inputs import Example
from slimnet.export.session import feed, open_session
from slimnet.output import scratch

RUNS, WARM = 20, 5
_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Node:
    """One node that the runtime ran."""

    name: str
    kind: str  # Conv | MatMul | ReorderInput | …
    ms: float
    inputs: tuple[tuple[int, ...], ...]  # shapes, weights among them
    outputs: tuple[tuple[int, ...], ...]


def profile(
    file: Path | bytes, inputs: Example, *, threads: int = 1, runs: int = RUNS
) -> tuple[Node, ...]:
    """The nodes of a file, or of one that is in memory, on these inputs.

    Raises :class:`~slimnet.errors.InputError` for what the runtime cannot run.
    """
    with scratch() as folder:
        session = open_session(file, threads=threads, profile=folder / "profile")
        arrays = feed(session, inputs)
        for _ in range(WARM + runs):
            session.run(None, arrays)
        events = json.loads(Path(session.end_profiling()).read_text())
    return tuple(_nodes(events))


def by_layer(file: Path, inputs: Example, *, threads: int = 1) -> dict[str, float]:
    """Milliseconds by layer, each with what follows it up to the next; all else by its kind.

    Layers are called as the file's weights are, which is as the network's modules are.
    """
    layers = _layers(onnx.load(str(file), load_external_data=False).graph)
    times: dict[str, float] = defaultdict(float)
    for node in profile(file, inputs, threads=threads):
        times[layers.get(node.name.removesuffix(_BLOCKED), node.kind)] += node.ms
    return dict(times)


_BLOCKED = "_nchwc"
"""What onnxruntime adds to the name of a node in its own layout, which is that of its result."""


def _layers(graph: onnx.GraphProto) -> dict[str, str]:
    """The layer of each node and of each tensor that it makes, by their names."""
    weights = {tensor.name for tensor in graph.initializer}
    layers: dict[str, str] = {}
    for node in graph.node:
        own = [name for name in node.input if name in weights and name.endswith(".weight")]
        from_before = [layers[name] for name in node.input if name in layers]
        found = [name.removesuffix(".weight").removeprefix("model.") for name in own] or from_before
        if found:
            layers |= dict.fromkeys((node.name, *node.output), found[0])
    return layers


def _nodes(events: Sequence[Any]) -> list[Node]:
    times: dict[str, list[float]] = defaultdict(list)
    first: dict[str, Any] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            times[name].append(event["dur"] / 1e3)
            first.setdefault(name, event["args"])
    return [
        Node(
            name,
            args["op_name"],
            _middle(times[name][WARM:]),
            _shapes(args.get("input_type_shape", ())),
            _shapes(args.get("output_type_shape", ())),
        )
        for name, args in first.items()
    ]


def _middle(times: Sequence[float]) -> float:
    """The mean of the middle half: finer than a median of what the clock counts in whole µs."""
    quarter = len(times) // 4
    return fmean(sorted(times)[quarter : len(times) - quarter])


def _shapes(listed: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Of ``[{"float": [1, 64, 56, 56]}, …]``."""
    return tuple(tuple(shape) for entry in listed for shape in entry.values())
