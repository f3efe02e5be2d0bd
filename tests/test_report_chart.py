"""Charts show every value in its place, say it, and let nothing become markup."""

import csv
import io
import re
from html import unescape

import pytest

from slimnet.report import chart
from slimnet.report.chart import COLOURS, SYMBOLS, Axis, Bar, Mark, Series
from slimnet.report.templates import filled

EVIL = '"><script>alert(1)</script>'


def drawn(*series, level=None):
    return chart.lines(series, "share, %", "accuracy %", level)


def places(html):
    found = re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", html)
    return [tuple(map(float, pair)) for pair in found]


def test_points_lie_where_their_values_are():
    marks = tuple(Mark(x, y, f"{x}") for x, y in ((0.0, 1.0), (50.0, 3.0), (100.0, 2.0)))
    (x0, y0), (x1, y1), (x2, y2) = places(drawn(Series("one", marks)))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y0 - y1 == pytest.approx(2 * (y0 - y2), abs=0.03)  # upwards
    for x, y in ((x0, y0), (x1, y1), (x2, y2)):
        assert chart.LEFT <= x <= chart.WIDTH - chart.RIGHT
        assert chart.TOP <= y <= chart.HEIGHT - chart.BOTTOM


def test_the_whole_spread_and_the_level_are_inside():
    html = drawn(Series("one", (Mark(0.0, 5.0, "said", 100.0),)), level=-300.0)
    numbers = re.search(r'class="spread" d="M[\d.]+ ([\d.]+)V([\d.]+)', html)
    level = re.search(r'class="level".* y1="([\d.]+)"', html)
    for place in (*numbers.groups(), level[1]):
        assert chart.TOP <= float(place) <= chart.HEIGHT - chart.BOTTOM


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 100.0, ["0", "20", "40", "60", "80", "100"]),
        (-0.3, 0.3, ["−0.2", "0", "0.2"]),
        (0.0101, 0.0119, ["0.0105", "0.011", "0.0115"]),
        (1e6, 3e6, ["1e+06", "1.5e+06", "2e+06", "2.5e+06", "3e+06"]),
    ],
)
def test_ticks_are_round_values(low, high, texts):
    ticks = list(Axis(low, high, 0.0, 100.0).ticks())
    assert [text for _, text in ticks] == texts
    assert all(0 <= place <= 100 for place, _ in ticks)


def test_one_value_alone_is_drawn():
    assert places(drawn(Series("dense", (Mark(100.0, 0.0, "said"),))))


def test_every_colour_is_in_the_page_and_names_cannot_become_markup():
    css = filled("chart.css.jinja", colours=COLOURS) + filled("page.css.jinja")
    assert all(f"--c{n}:" in css and f".c{n} " in css for n in range(COLOURS))
    series = [Series(EVIL, (Mark(n, n, EVIL),), n, n) for n in range(COLOURS + len(SYMBOLS))]
    html = str(drawn(*series))
    assert EVIL not in html and "alert(1)" in html
    assert len({one.kind for one in series}) == COLOURS
    assert EVIL not in str(chart.bars([Bar(EVIL, 1.0, 1.0, 1.0, EVIL)], EVIL))


def test_bars_start_at_nothing_and_show_their_spread():
    html = chart.bars(
        [Bar("dense", 4.0, 3.0, 5.0, "4 ms", plain=True), Bar("slim", 1.0, 1.0, 1.0, "1 ms")], "ms"
    )
    widths = [float(width) for width in re.findall(r'width="([\d.]+)"', html)]
    assert widths == [0.8 * chart.WIDTH, 0.2 * chart.WIDTH]
    (ends,) = re.findall(r'class="range" d="M([\d.]+) [\d.]+H([\d.]+)', html)
    assert tuple(map(float, ends)) == (0.6 * chart.WIDTH, chart.WIDTH)


def test_equal_factors_lie_equally_far_apart():
    marks = tuple(Mark(x, 1.0, f"{x}") for x in (2.0, 8.0, 32.0))
    html = chart.lines([Series("one", marks)], "times", "accuracy %", log=True)
    (x0, _), (x1, _), (x2, _) = places(html)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    axis = Axis(0.9, 40.0, 0.0, 100.0, log=True)
    assert [text for _, text in axis.ticks()] == ["1", "2", "5", "10", "20"]


def test_a_point_that_is_not_shown_bends_the_line():
    html = drawn(Series("one", (Mark(0.0, 1.0, "a", shown=False), Mark(1.0, 2.0, "b"))))
    assert len(places(html)) == 1
    assert len(re.search(r'points="(.*?)"', html)[1].split()) == 2


def test_every_value_is_there_for_programs():
    html = str(drawn(Series('a, "b"', (Mark(0.5, 90.25, "said", 0.125),))))
    table = unescape(re.search(r"<template>(.*?)</template>", html, re.DOTALL)[1])
    lines = list(csv.reader(io.StringIO(table)))
    assert lines[0] == ["series", "share, %", "accuracy %", "spread"]
    assert lines[1:] == [['a, "b"', "0.5", "90.25", "0.125"]]
