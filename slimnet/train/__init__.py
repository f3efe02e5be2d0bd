"""Training: data by name, one loop, and the retraining regimes as rows over it.

It takes any ``nn.Module``; nothing here knows about pruning.
"""

from slimnet.train.data import DATA, NORMALIZE, load_data
from slimnet.train.dataset import Dataset, Normalize, check_fits, describe
from slimnet.train.init import reinitialise
from slimnet.train.loop import Callback, History, Moment, evaluate, train
from slimnet.train.regimes import REGIMES, STARTS, Regime, budget, start
from slimnet.train.schedule import Schedule

__all__ = [
    "DATA",
    "NORMALIZE",
    "REGIMES",
    "STARTS",
    "Callback",
    "Dataset",
    "History",
    "Moment",
    "Normalize",
    "Regime",
    "Schedule",
    "budget",
    "check_fits",
    "describe",
    "evaluate",
    "load_data",
    "reinitialise",
    "start",
    "train",
]
