"""The pictures are well-formed, stand alone, hold every layer, and no name leaves its place."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from test_report_graph import CASES, graph_of
from torch import nn

import slimnet
from slimnet import cli
from slimnet.capture.trace import capture
from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.report.drawing import draw
from slimnet.report.layout import lay_out
from slimnet.report.picture import render_html, render_svg, write_picture

HOSTILE = "</script><script>alert('&\"')</script>\x07\n--><!--"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def hostile():
    model = nn.Sequential()
    for name, layer in ((HOSTILE, nn.Linear(8, 16)), ("norm", nn.LayerNorm(16))):
        model.add_module(name, layer)
    model.add_module("head" + HOSTILE, nn.Linear(16, 4))
    return graph_of(model, torch.rand(2, 8))[0]


@pytest.mark.parametrize("case", CASES)
def test_the_svg_is_xml_and_holds_every_row(case):
    graph, _ = graph_of(*CASES[case]())
    root = ElementTree.fromstring(render_svg(graph, "net.pt & more"))
    rows = [x for x in root.iter(f"{SVG}g") if "row" in x.get("class", "").split()]
    assert len(rows) == len(lay_out(graph).rows)
    tips = [row.find(f"{SVG}title").text for row in rows]
    for node in graph.nodes:
        assert any(node.name in tip for tip in tips)
    assert root.find(f"{SVG}title").text == "net.pt & more"
    assert not list(root.iter(f"{SVG}script"))


def test_pinned_layers_look_different_and_say_why():
    graph, _ = graph_of(*CASES["one layer"]())
    root = ElementTree.fromstring(render_svg(graph, "net"))
    (row,) = [x for x in root.iter(f"{SVG}g") if x.get("class", "").startswith("row layer")]
    assert row.get("class") == "row layer pinned"
    assert "it is an output of the network" in [x.text for x in row.iter(f"{SVG}text")]
    assert any(x.get("class") == "rest" for x in row.iter(f"{SVG}rect"))


def test_a_reason_is_shortened_around_its_line_of_code():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 64, 4)

        def forward(self, x):
            return self.head(self.first(x).relu().view(-1, 1024))

    graph, _ = graph_of(Flat(), torch.rand(1, 3, 8, 8))
    (line,) = [x for x in draw(graph, lay_out(graph)).lines if x.label == "first"]
    assert re.search(r"literal size 1024 · test_report_picture\.py:\d+$", line.why)


class Page(HTMLParser):
    """Collects the elements, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_a_hostile_name_is_text_wherever_it_appears(hostile):
    page = Page(render_html(hostile, HOSTILE))
    assert len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    assert HOSTILE in [node["name"] for node in data["nodes"]]
    assert not any("alert" in script for script in page.scripts[1:])
    root = ElementTree.fromstring(render_svg(hostile, HOSTILE))
    assert not list(root.iter(f"{SVG}script"))
    assert any("alert('&\"')" in x.text for x in root.iter(f"{SVG}title"))


def test_the_page_fetches_nothing(hostile):
    text = render_html(hostile, "net")
    page = Page(text)
    fetched = {"src", "href", "srcset", "action", "poster", "data", "xlink:href"}
    assert not [tag for tag, given in page.tags if fetched & given.keys()]
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_page_sets_text_and_never_markup(hostile):
    script = Page(render_html(hostile, "net")).scripts[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_the_script_finds_the_rows_that_lines_belong_to():
    graph, _ = graph_of(*CASES["densenet"]())
    drawing = draw(graph, lay_out(graph))
    for path in drawing.paths:
        ys = [float(y) for y in re.findall(r",([\d.]+)", path.d)]
        assert {int(y // 20) for y in ys} == set(map(int, path.rows.split()))


def test_six_colours_take_turns_and_layers_alone_have_their_own():
    pairs = [
        layer
        for _ in range(8)
        for layer in (nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16))
    ]
    alone = [nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)]
    graph, _ = graph_of(nn.Sequential(*pairs, *alone), torch.rand(1, 16, 8, 8))
    drawing = draw(graph, lay_out(graph))
    colours = [path.colour for path in drawing.paths if path.kind == "rail"]
    assert len(colours) == 8
    assert len(set(colours)) == 6
    assert all(a != b for a, b in pairwise(colours))
    assert {line.colour for line in drawing.lines if line.label == "16"}.isdisjoint(colours)


@pytest.mark.parametrize("name", ["net.svg", "net.html", "NET.HTML"])
def test_a_picture_takes_its_place_whole(tmp_path, name):
    model, inputs = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), (torch.rand(1, 8),)
    found, trace = slimnet.inspect(model, inputs), capture(Network.of(model), inputs)
    write_picture(tmp_path / name, Network.of(model), trace, found, title="net")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.startswith("<svg" if name.endswith("svg") else "<!doctype html>")


def test_another_ending_is_refused_by_name(tmp_path):
    model, inputs = nn.Linear(8, 4), (torch.rand(1, 8),)
    found, trace = slimnet.inspect(model, inputs), capture(Network.of(model), inputs)
    with pytest.raises(InputError, match=r"net\.png must end in \.html .* or \.svg"):
        write_picture(tmp_path / "net.png", Network.of(model), trace, found, title="net")


def test_inspect_draws_beside_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(MODELS["digits_vgg"].make().state_dict(), "net.pt")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", "net.pt", "--graph", "net.svg"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("net.svg written")
    assert "digits_vgg" in ElementTree.parse("net.svg").getroot().find(f"{SVG}title").text


def test_inspect_refuses_a_picture_before_it_reads_the_network(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", "nowhere.pt", "--graph", "net.jpg"])
    assert stopped.value.code == 2
    assert "net.jpg must end in .html" in capsys.readouterr().err
