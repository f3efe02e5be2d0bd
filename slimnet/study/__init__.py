"""Studies: ratios x criteria x regimes x seeds, resumable, with means and spread.

From the data to the whole, each importing only from what stands before it: ``cells`` (what a study
consists of), ``facts`` (what is known of a network), ``results`` and ``results_file``, ``store``
and ``stores`` (where results are kept), ``candidate`` and ``masked`` (networks in memory),
``networks``, ``repaired`` and ``data`` (networks and images as files), ``work`` (one cell),
``engine`` and ``engines`` (where cells run), ``run`` (the study).
"""

import slimnet.study.engines
import slimnet.study.stores  # noqa: F401  (both fill their registries)
from slimnet.study.candidate import Candidate, slim_candidate
from slimnet.study.cells import Cell, Study
from slimnet.study.engine import ENGINES, Run
from slimnet.study.facts import Facts, LatencyFacts, channels_removed, facts_of, latency_facts
from slimnet.study.results import CellResult, Results, Row
from slimnet.study.results_file import read_results, write_results
from slimnet.study.run import Status, run_study
from slimnet.study.store import STORES, Store
from slimnet.study.stores.folder import FolderStore
from slimnet.study.work import Setup, run_cell

__all__ = [
    "ENGINES",
    "STORES",
    "Candidate",
    "Cell",
    "CellResult",
    "Facts",
    "FolderStore",
    "LatencyFacts",
    "Results",
    "Row",
    "Run",
    "Setup",
    "Status",
    "Store",
    "Study",
    "channels_removed",
    "facts_of",
    "latency_facts",
    "read_results",
    "run_cell",
    "run_study",
    "slim_candidate",
    "write_results",
]
