"""Every run says which torch it ran on: the suite must be green on each from pyproject's on."""

from slimnet.version import used


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"ran on {used()}")
