"""Every run says which torch it ran on: the suite must be green on each from pyproject's on.

Where several processes run it (``-n``), each computes on one thread, and is interrupted as any
other process is, which what the tests start inherits.
"""

import os
import signal

from slimnet.version import used

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"ran on {used()}")
