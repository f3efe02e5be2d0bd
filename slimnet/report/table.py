"""The comparison as a table in the terminal, to be understood without any documentation."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from slimnet.report import columns
from slimnet.study import Results
from slimnet.text import legible


def table(results: Results, title: str | None = None) -> Table:
    """One row per network and regime, the dense network first; fits 80 characters."""
    shown = Table(
        title=_as_is(title or f"Dense and slim networks on {results.data['name']}"),
        caption=_as_is(columns.caption(results)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
    )
    chosen = columns.narrow(results)
    for column in chosen:
        shown.add_column(
            column.heading,
            justify="left" if column.left else "right",
            vertical="bottom",
            no_wrap=column.heading != "network",
        )
    for line in columns.lines(chosen, results.summary()):
        shown.add_row(*map(_as_is, line.cells), end_section=line.last)
    return shown


def _as_is(text: str | None) -> Text | None:
    """Without reading markup from names."""
    return None if text is None else Text(legible(text))
