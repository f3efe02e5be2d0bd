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
from slimnet.export import export_onnx, measure_latency
from slimnet.files import load, save, verify
from slimnet.plan import Plan
from slimnet.prune import Inspection, Pruned, inspect, prune
from slimnet.rules import rule
from slimnet.verify import Certificate
from slimnet.version import __version__

__all__ = [
    "CaptureError",
    "Certificate",
    "CertificateError",
    "InputError",
    "Inspection",
    "Plan",
    "PruneError",
    "Pruned",
    "SlimnetError",
    "UnknownNameError",
    "__version__",
    "cost",
    "export_onnx",
    "inspect",
    "load",
    "measure_latency",
    "prune",
    "rule",
    "save",
    "verify",
]
