"""The pictures of reports, as HTML fragments for a page that holds plotly.js."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from slimnet.report import words
from slimnet.study import LatencyFacts, Results, Row
from slimnet.study.curves import Sensitivity

# Okabe and Ito's palette: told apart with any colour vision and in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "x", "star")
INK = "#1f2328"


def metric_plot(results: Results) -> str:
    """The metric that counts against the MACs that remain: a series per criterion and regime."""
    rows, metric = results.summary(), results.metric
    title = words.label(metric)
    figure = go.Figure(layout=_layout("MACs remaining, % of the dense network", title))
    figure.add_hline(
        y=results.dense.metrics[metric.name], line={"dash": "dot", "width": 1, "color": INK}
    )
    figure.add_trace(_points([rows[0]], "dense", INK, "diamond", 0.0))
    for number, (criterion, regime) in enumerate(_series(rows)):
        chosen = [row for row in rows if (row.criterion, row.regime) == (criterion, regime)]
        name = f"{criterion or 'dense'}, {words.retraining(chosen[0])}"
        colour, symbol = _look(rows, criterion, regime)
        # side by side, or their bars would hide one another
        shift = 0.6 * (number - (len(_series(rows)) - 1) / 2)
        figure.add_trace(_points(chosen, name, colour, symbol, shift))
    return _fragment(figure)


def latency_plot(bars: Sequence[tuple[str, LatencyFacts]]) -> str:
    """A bar per network with its median, and the spread where it is known."""
    names = [name for name, _ in bars]
    medians = [latency.median_ms for _, latency in bars]
    above = [x.median_ms if x.high_ms is None else x.high_ms for _, x in bars]
    below = [x.median_ms if x.low_ms is None else x.low_ms for _, x in bars]
    figure = go.Figure(
        go.Bar(
            x=medians,
            y=names,
            orientation="h",
            marker={"color": [INK if name == "dense" else COLOURS[0] for name in names]},
            width=0.55,
            error_x={
                "array": [high - median for high, median in zip(above, medians, strict=True)],
                "arrayminus": [median - low for low, median in zip(below, medians, strict=True)],
                "thickness": 1.5,
                "color": "#57606a",
            },
            hovertemplate="%{y}: %{x:.3g} ms<extra></extra>",
        ),
        layout=_layout("ms per run, shorter is better", ""),
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(rangemode="tozero")
    figure.update_layout(height=110 + 44 * len(names), showlegend=False)
    return _fragment(figure)


def sensitivity_plot(measured: Sensitivity) -> str:
    """A line per group: accuracy (else the outputs' relative change) against channels removed."""
    labelled = measured.accuracy is not None
    y_title = "accuracy, %" if labelled else "relative change of the outputs"
    figure = go.Figure(layout=_layout("channels of the group removed, %", y_title))
    for number, curve in enumerate(measured.curves):
        values = [point.accuracy if labelled else point.error for point in curve.points]
        figure.add_trace(
            go.Scatter(
                x=[0.0, *(100 * point.removed for point in curve.points)],
                y=[measured.accuracy if labelled else 0.0, *values],
                customdata=[curve.width, *(point.channels for point in curve.points)],
                mode="lines+markers",
                name=curve.layers[0],
                line={"color": COLOURS[number % len(COLOURS)], "width": 1.5},
                marker={"symbol": SYMBOLS[number // len(COLOURS) % len(SYMBOLS)], "size": 6},
                hovertemplate="%{fullData.name}<br>%{customdata} channels: %{y:.4g}<extra></extra>",
            )
        )
    figure.update_layout(
        height=560,
        hovermode="closest",
        legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top", "font": {"size": 11}},
    )
    return _fragment(figure)


def _series(rows: Sequence[Row]) -> list[tuple[str | None, str]]:
    """Each criterion with each regime, as they first appear."""
    return list(dict.fromkeys((row.criterion, row.regime) for row in rows if row.regime))


def _look(rows: Sequence[Row], criterion: str | None, regime: str) -> tuple[str, str]:
    """A colour for the regime and a symbol for the criterion."""
    criteria = list(dict.fromkeys(criterion for criterion, _ in _series(rows)))
    regimes = list(dict.fromkeys(regime for _, regime in _series(rows)))
    colour = COLOURS[regimes.index(regime) % len(COLOURS)]
    return colour, SYMBOLS[criteria.index(criterion) % len(SYMBOLS)]


def _points(rows: Sequence[Row], name: str, colour: str, symbol: str, shift: float) -> go.Scatter:
    ordered = sorted(rows, key=lambda row: row.macs_ratio)
    return go.Scatter(
        x=[100 * row.macs_ratio + shift for row in ordered],
        y=[row.first.mean for row in ordered],
        error_y={"array": [row.first.std or 0 for row in ordered], "thickness": 1.5, "width": 4},
        customdata=[[100 * row.macs_ratio, row.n] for row in ordered],
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1},
        marker={"color": colour, "symbol": symbol, "size": 9},
        hovertemplate=f"{name}<br>%{{customdata[0]:.1f}} % of the MACs: %{{y:.4g}} "
        "(%{customdata[1]} runs)<extra></extra>",
    )


def _layout(x_title: str, y_title: str) -> dict[str, Any]:
    axis = {"gridcolor": "#e6e8eb", "zeroline": False, "linecolor": "#8c959f", "fixedrange": True}
    return {
        "template": "none",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "height": 460,
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
    }


def _fragment(figure: go.Figure) -> str:
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))
