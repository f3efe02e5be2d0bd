"""Studies: budgets x criteria x scopes x regimes x seeds, resumable, with means and spread.

:mod:`.budget` is what a cut is asked for, :mod:`.cells` says what a study consists of,
:mod:`.facts` what was measured of a network,
:mod:`.results` what comes out, in one file by :mod:`.results_file`. :mod:`.questions` says which
rows are compared, :mod:`.paired` does the statistics, :mod:`.verdicts` what may be concluded. A
:mod:`.store` keeps results and says who runs which cell; :mod:`.stores` has one file for each kind.
A :mod:`.candidate`, or a :mod:`.masked` one, is a network in memory; :mod:`.networks`,
:mod:`.repaired` and :mod:`.data` keep networks and data as files, and a worker holds the
:mod:`.recent` ones; what was trained may be :mod:`.kept`, and tested after each of its
:mod:`.epochs`. :mod:`.work` runs one cell from these files, an :mod:`.engine` all of them;
:mod:`.engines` has one file for each kind. :mod:`.run` is the whole. :mod:`.curves` stands by
itself: each group cut alone.
"""

from slimnet.study.candidate import Candidate, slim_candidate
from slimnet.study.cells import Cell, Study
from slimnet.study.engine import ENGINES, Run
from slimnet.study.facts import Facts, LatencyFacts, channels_removed, facts_of, latency_facts
from slimnet.study.kept import KEEP
from slimnet.study.results import CellResult, Kept, Results, Row, Spread
from slimnet.study.results_file import read_results, write_results
from slimnet.study.run import Status, run_study
from slimnet.study.store import STORES, Store
from slimnet.study.stores.folder import FolderStore
from slimnet.study.verdicts import Verdict, conclude
from slimnet.study.work import Setup, run_cell

__all__ = [
    "ENGINES",
    "KEEP",
    "STORES",
    "Candidate",
    "Cell",
    "CellResult",
    "Facts",
    "FolderStore",
    "Kept",
    "LatencyFacts",
    "Results",
    "Row",
    "Run",
    "Setup",
    "Spread",
    "Status",
    "Store",
    "Study",
    "Verdict",
    "channels_removed",
    "conclude",
    "facts_of",
    "latency_facts",
    "read_results",
    "run_cell",
    "run_study",
    "slim_candidate",
    "write_results",
]
