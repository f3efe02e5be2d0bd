"""Training: data by name, one loop, and the retraining regimes as rows over it.

It takes any ``nn.Module``; nothing here knows about pruning.
"""

from slimnet.train.callback import Callback, Moment
from slimnet.train.data import DATA, NORMALIZE, DataSpec, load_data, load_task
from slimnet.train.dataset import Dataset, Normalize, check_fits, describe
from slimnet.train.init import reinitialise
from slimnet.train.loop import History, evaluate, measure, train
from slimnet.train.regimes import REGIMES, STARTS, Regime, Repairer, budget, start
from slimnet.train.schedule import Schedule
from slimnet.train.snapshot import Snapshot

__all__ = [
    "DATA",
    "NORMALIZE",
    "REGIMES",
    "STARTS",
    "Callback",
    "DataSpec",
    "Dataset",
    "History",
    "Moment",
    "Normalize",
    "Regime",
    "Repairer",
    "Schedule",
    "Snapshot",
    "budget",
    "check_fits",
    "describe",
    "evaluate",
    "load_data",
    "load_task",
    "measure",
    "reinitialise",
    "start",
    "train",
]
