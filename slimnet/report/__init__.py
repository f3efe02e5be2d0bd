"""What a person reads: the table in the terminal and one self-contained HTML page."""

from slimnet.report.html import NetworkReport, Report, Slim, render, slim_networks, write_html
from slimnet.report.table import table

__all__ = ["NetworkReport", "Report", "Slim", "render", "slim_networks", "table", "write_html"]
