"""The papers' CIFAR networks and two for the 8x8 digits, by name.

``MODELS["resnet56"].make(num_classes=100)`` builds one with fresh weights.
"""

from __future__ import annotations

from slimnet.models.common import MODELS, ModelRow
from slimnet.registry import import_all

__all__ = ["MODELS", "ModelRow"]

import_all(__name__, list(__path__))
