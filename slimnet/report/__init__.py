"""What a person reads: the table in the terminal and one self-contained HTML page."""

from slimnet.report.conclusions import verdict_lines
from slimnet.report.html import NetworkReport, Report, Slim, render, slim_networks, write_html
from slimnet.report.table import table

__all__ = [
    "NetworkReport",
    "Report",
    "Slim",
    "render",
    "slim_networks",
    "table",
    "verdict_lines",
    "write_html",
]
