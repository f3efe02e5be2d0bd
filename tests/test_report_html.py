"""The page holds what was found, needs no other file, and is safe to open."""

import dataclasses
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from test_report_table import LATENCY, results

from slimnet.errors import InputError
from slimnet.proof.certificate import Certificate
from slimnet.report import NetworkReport, Report, Slim, render, slim_networks, write_html
from slimnet.study import Facts

DENSE = Facts(900, 100, latency=LATENCY)

CERTIFICATE = Certificate(
    3.14e-15,
    1e-9,
    (),
    ({"layers": ["norm1", "norm2"], "reasons": ["LayerNorm over the channels"]},),
)
GROUPS = [
    {"layers": ["conv1", "layer1.0.conv2"], "before": 64, "after": 32},
    {"layers": ["fc"], "before": 10, "after": 10},
]


def slim(name="l1, ratio 0.5", **changes):
    facts = Facts(
        macs=450,
        params=50,
        channels_removed=0.48,
        certificate=CERTIFICATE,
        latency=dataclasses.replace(LATENCY, speedup=0.8),
        achieved={
            "groups": GROUPS,
            "remarks": ["Asked for 50 %, achieved 48 %: widths are multiples of 16."],
        },
    )
    return Slim(name, dataclasses.replace(facts, **changes))


def page(**changes):
    report = Report(
        title="A small study",
        command="slimnet demo -o <folder>",
        networks=[NetworkReport("resnet", DENSE, [slim()], results())],
        versions={"torch": "9.9"},
        measured=["Median of 20 rounds."],
        limits=["Digits are easy."],
    )
    return render(dataclasses.replace(report, **changes))


class Outside(HTMLParser):
    """Collects whatever a browser would fetch."""

    FETCHED = ("src", "href", "srcset", "data", "action", "poster")

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, name, value) for name, value in attributes if name in self.FETCHED]


def text_of(html):
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def html():
    return page()


def test_the_page_asks_for_nothing_from_outside(html):
    outside = Outside()
    outside.feed(html)
    assert outside.found == []
    assert not re.search(r"@import|url\(", re.search(r"<style>.*?</style>", html, re.DOTALL)[0])
    assert len(html.encode()) < 100_000


def test_the_page_prints_the_proof_and_its_error(html):
    text = text_of(html)
    assert "Largest relative error 3.1e-15, tolerance 1e-09 (float64)" in text
    assert "norm1, norm2 : LayerNorm over the channels" in text


def test_the_page_shows_groups_before_and_after(html):
    text = text_of(html)
    assert "1 of 2 groups cut, 74 → 42 channels" in text
    assert "conv1, layer1.0.conv2 64 32" in text


def test_the_page_says_what_was_done_measured_and_what_it_cannot_say(html):
    text = text_of(html)
    for part in (
        "slimnet demo -o <folder>",
        "torch 9.9",
        "Median of 20 rounds.",
        "1198 training and 599 test images",
        "Asked for 50 %, achieved 48 %",
        "Slower than the dense network",
        "97.0 ± 1.0",
        "not findings",
        "Digits are easy.",
    ):
        assert part in text


def test_both_pictures_are_there_and_only_where_there_is_something_to_draw(html):
    drawn = r'<figure class="(chart.*?)"'
    assert re.findall(drawn, html) == ["chart"] * 5 + ["chart bars"]  # four views, widths
    bare = page(networks=[NetworkReport("resnet", Facts(900, 100), [slim(latency=None)])])
    assert re.findall(drawn, bare) == ["chart"]  # widths
    assert "450 (50 %)" in text_of(bare)


def test_a_cut_without_a_proof_says_so():
    bare = page(networks=[NetworkReport("n", Facts(9, 9), [slim(certificate=None)])])
    assert "Not verified" in text_of(bare)


def test_names_from_outside_cannot_become_markup():
    evil = "<script>alert(1)</script>"
    said = slim(evil, achieved={"remarks": [evil]})
    html = page(title=evil, networks=[NetworkReport(evil, DENSE, [said])])
    assert "alert(1)" in html
    assert evil not in html


def test_a_studys_records_know_their_slim_networks():
    whole = results()
    achieved = {"groups": GROUPS, "remarks": ["Wider than asked."]}
    records = [
        dataclasses.replace(
            record,
            facts=dataclasses.replace(record.facts, certificate=CERTIFICATE, achieved=achieved),
        )
        for record in whole.records
    ]
    found = slim_networks(dataclasses.replace(whole, records=tuple(records)))
    assert [one.name for one in found] == ["bn-scale, ratio 0.3", "bn-scale, ratio 0.5"]
    assert found[0].facts.groups == GROUPS
    assert found[0].facts.remarks == ["Wider than asked."]
    assert found[1].facts.certificate == CERTIFICATE


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    report = Report("Title", "slimnet demo", [NetworkReport("n", Facts(9, 9))])
    path = write_html(tmp_path / "new" / "report.html", report)
    assert path.read_text(encoding="utf-8") == render(report)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(InputError, match="cannot be written"):
        write_html(path / "report.html", report)
