"""Studies: ratios x criteria x regimes x seeds, resumable, with means and spread."""

from slimnet.study.cells import Cell, Study
from slimnet.study.engines import ENGINES
from slimnet.study.facts import channels_removed, latency_facts, slim_candidate
from slimnet.study.results import Record, Results, Row
from slimnet.study.run import Candidate, Status, run_study
from slimnet.study.store import read_results, write_results

__all__ = [
    "ENGINES",
    "Candidate",
    "Cell",
    "Record",
    "Results",
    "Row",
    "Status",
    "Study",
    "channels_removed",
    "latency_facts",
    "read_results",
    "run_study",
    "slim_candidate",
    "write_results",
]
