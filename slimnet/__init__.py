"""slimnet: structured channel pruning for PyTorch, with a proof of every cut."""

from slimnet.prune import Inspection, Pruned, inspect, prune

__version__ = "0.1.0"

__all__ = ["Inspection", "Pruned", "__version__", "inspect", "prune"]
