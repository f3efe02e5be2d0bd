"""The schedules that papers trained their dense networks by, each one row.

Sources: Liu et al., *Rethinking the Value of Network Pruning* (ICLR 2019), and Renda et al.,
*Comparing Rewinding and Fine-tuning in Neural Network Pruning* (ICLR 2020).
"""

from __future__ import annotations

from dataclasses import replace

from slimnet.registry import Registry
from slimnet.train.schedule import Schedule

PROTOCOLS: Registry[Schedule] = Registry("protocol")
_LIU = PROTOCOLS.add("liu-cifar", Schedule())
PROTOCOLS.add(
    "liu-imagenet", replace(_LIU, epochs=90, milestones=(1 / 3, 2 / 3), batch=256)
)  # VGG: lr 0.01
PROTOCOLS.add("sfp-cifar", replace(_LIU, batch=128, weight_decay=5e-4, nesterov=True))
PROTOCOLS.add(
    "renda-cifar",
    replace(_LIU, epochs=182, milestones=(91 / 182, 136 / 182), batch=128, weight_decay=2e-4),
)
