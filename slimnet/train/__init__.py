"""Training: one loop over any task, and the retraining regimes as rows over it.

The loop takes any ``nn.Module``. The regimes are for slim networks; what they need of the cut comes
in as arguments: the ratio of MACs, and a function that writes repaired weights.
"""

from slimnet.train.callback import Callback, Moment
from slimnet.train.init import reinitialise
from slimnet.train.loop import History, evaluate, measure, train
from slimnet.train.regimes import REGIMES, Regime, budget, start
from slimnet.train.schedule import Schedule
from slimnet.train.snapshot import Snapshot
from slimnet.train.starts import STARTS, Earlier, Repairer, Sources

__all__ = [
    "REGIMES",
    "STARTS",
    "Callback",
    "Earlier",
    "History",
    "Moment",
    "Regime",
    "Repairer",
    "Schedule",
    "Snapshot",
    "Sources",
    "budget",
    "evaluate",
    "measure",
    "reinitialise",
    "start",
    "train",
]
