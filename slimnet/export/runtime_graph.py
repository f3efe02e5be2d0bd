"""What onnxruntime makes of a file before it runs it: which kinds of nodes are left.

The runtime folds batch norms and constants and joins operators when it opens a file. It is asked to
write down what it would run, and that is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from slimnet.export.session import open_session
from slimnet.output import scratch
from slimnet.text import count


@dataclass(frozen=True)
class RuntimeGraph:
    """The nodes that run, by kind."""

    kinds: Mapping[str, int]  # "Conv" → how many; the most frequent first

    def number(self, *kinds: str) -> int:
        """How many nodes are of these kinds."""
        return sum(self.kinds.get(kind, 0) for kind in kinds)

    @property
    def batch_norms(self) -> int:
        """Batch norms that run as such."""
        return self.number("BatchNormalization")

    @property
    def constants(self) -> int:
        """Nodes that give a constant."""
        return self.number("Constant", "ConstantOfShape")

    def sentence(self) -> str | None:
        """What is left that costs time; None where nothing is."""
        if not self.batch_norms:
            return None
        left = count(self.batch_norms, "batch norm")
        return f"onnxruntime runs {left} as such: no convolution stands before to fold into"


def runtime_graph(path: Path) -> RuntimeGraph:
    """What onnxruntime runs of the file on a CPU; raises InputError where it cannot."""
    with scratch() as folder:
        optimised = folder / "optimised.onnx"
        open_session(path, optimised=optimised)
        graph = onnx.load(str(optimised), load_external_data=False).graph
    return RuntimeGraph(dict(Counter(node.op_type for node in graph.node).most_common()))
