"""slimnet: structured channel pruning for PyTorch, with a proof of every cut."""

from slimnet import cost
from slimnet.errors import (
    CaptureError,
    CertificateError,
    InputError,
    PruneError,
    SlimnetError,
    UnknownNameError,
)
from slimnet.prune import Inspection, Pruned, inspect, prune

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "CertificateError",
    "InputError",
    "Inspection",
    "PruneError",
    "Pruned",
    "SlimnetError",
    "UnknownNameError",
    "__version__",
    "cost",
    "inspect",
    "prune",
]
