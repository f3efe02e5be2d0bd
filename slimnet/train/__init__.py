"""Training: data by name, one loop, and the retraining regimes as rows over it.

The loop takes any ``nn.Module``. The regimes are for slim networks; what they need of the cut comes
in as arguments: the ratio of MACs, and a function that writes repaired weights.
"""

from slimnet.train.callback import Callback, Moment
from slimnet.train.data import DATA, NORMALIZE, DataSpec, load_data
from slimnet.train.dataset import Dataset, Normalize, check_fits, describe
from slimnet.train.init import reinitialise
from slimnet.train.loop import History, evaluate, train
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
    "reinitialise",
    "start",
    "train",
]
