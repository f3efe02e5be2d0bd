"""The public names of slimnet, from where each lives."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slimnet.costs.cost import cost
from slimnet.errors import (
    CaptureError,
    CertificateError,
    InputError,
    PruneError,
    SlimnetError,
    UnknownNameError,
)
from slimnet.files.access import apply, load, repair, save, verify
from slimnet.inspection import Inspection
from slimnet.operator import rule
from slimnet.plan.companions import cut_optimizer
from slimnet.plan.plan import Plan
from slimnet.proof.certificate import Certificate
from slimnet.pruning import Pruned, inspect
from slimnet.samples import Samples
from slimnet.task import LoaderTask, Measured, Metric, Task
from slimnet.timing.prune import prune
from slimnet.version import __version__

if TYPE_CHECKING:
    from slimnet.export import export_onnx, export_pt2, measure_latency
    from slimnet.retraining import Recipe, retrain
    from slimnet.study.curves import Sensitivity, sensitivity
    from slimnet.train.schedule import Schedule
else:
    _LATER = {
        **dict.fromkeys(("export_onnx", "export_pt2", "measure_latency"), "slimnet.export"),
        **dict.fromkeys(("Recipe", "retrain"), "slimnet.retraining"),
        **dict.fromkeys(("Sensitivity", "sensitivity"), "slimnet.study.curves"),
        "Schedule": "slimnet.train.schedule",
    }

    def __getattr__(name: str) -> Any:
        """ONNX and its runtime take a second to import: only who exports or studies waits."""
        if name not in _LATER:
            raise AttributeError(f"module 'slimnet' has no attribute {name!r}")
        return getattr(import_module(_LATER[name]), name)


__all__ = [
    "CaptureError",
    "Certificate",
    "CertificateError",
    "InputError",
    "Inspection",
    "LoaderTask",
    "Measured",
    "Metric",
    "Plan",
    "PruneError",
    "Pruned",
    "Recipe",
    "Samples",
    "Schedule",
    "Sensitivity",
    "SlimnetError",
    "Task",
    "UnknownNameError",
    "__version__",
    "apply",
    "cost",
    "cut_optimizer",
    "export_onnx",
    "export_pt2",
    "inspect",
    "load",
    "measure_latency",
    "prune",
    "repair",
    "retrain",
    "rule",
    "save",
    "sensitivity",
    "verify",
]
