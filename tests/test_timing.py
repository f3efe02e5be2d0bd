"""Time as a cost: tables, the model of a network, and a cut that is measured until it fits."""

import json
from dataclasses import replace
from math import prod

import pytest
import torch
from torch import nn

import slimnet
from slimnet.cli import main
from slimnet.costs.cost import cost_inputs
from slimnet.costs.quantity import COSTS, Quantity, quantities
from slimnet.errors import InputError, PruneError, UnknownNameError
from slimnet.export.profile import Node, by_layer, profile
from slimnet.network import Network
from slimnet.planning.request import TimeTarget
from slimnet.timing import aiming
from slimnet.timing.cache import VARIABLE, cache_folder
from slimnet.timing.chains import MIDDLE, chain
from slimnet.timing.model import TimeModel, rates_of
from slimnet.timing.table import Setting, TimeTable, setting_of
from slimnet.timing.work import Form, works

HERE = Setting("a machine", "a runtime 1", 1, 1)
PLAIN = Form((3, 3), (1, 1), (1, 1), (1, 1), False, (8, 8), (8, 8))
IMAGE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    """Dense, depthwise and grouped convolutions, norms, a product."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU())
        self.wide = nn.Conv2d(64, 128, 3, padding=1, stride=2)
        self.last = nn.Conv2d(128, 64, 1)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = self.wide(self.deep(self.first(x))).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


def stairs(block):
    """Times that follow full blocks, and MACs in them; depthwise ones their channels."""

    def measure(form, reads, makes):
        full = [-(-n // block) for n in (reads, makes)]
        area = form.out[0] * form.out[1] * form.kernel[0]
        return 1e-4 * area * (full[0] if form.depthwise else full[0] * full[1])

    return measure


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("block", [16, 8])
def test_the_block_of_a_runtime_is_found(block):
    assert TimeTable(HERE, None, stairs(block)).block == block


def test_where_time_follows_every_channel_there_are_no_blocks():
    assert TimeTable(HERE, None, lambda form, reads, makes: float(reads * makes)).block == 1


def test_between_what_was_measured_times_follow_full_blocks():
    table = TimeTable(HERE, None, stairs(16))
    known = [table.ms(PLAIN, (256, 128), reads, makes) for reads, makes in ((256, 128), (64, 32))]
    assert known == [pytest.approx(stairs(16)(PLAIN, *w)) for w in ((256, 128), (64, 32))]
    for reads, makes in ((100, 70), (1, 1), (255, 97), (17, 128)):
        assert table.ms(PLAIN, (256, 128), reads, makes) == pytest.approx(
            stairs(16)(PLAIN, reads, makes)
        )
    assert table.ms(PLAIN, (40, 40), 40, 40) == pytest.approx(stairs(16)(PLAIN, 40, 40))


def test_what_was_measured_is_kept_by_setting(tmp_path):
    def refuse(*what):
        raise AssertionError(what)

    table = TimeTable(HERE, tmp_path, stairs(16))
    before = table.ms(PLAIN, (64, 64), 48, 33)
    table.save()
    assert (
        table.measured and TimeTable(HERE, tmp_path, refuse).ms(PLAIN, (64, 64), 48, 33) == before
    )
    other = TimeTable(Setting("another", "a runtime 1", 1, 1), tmp_path, refuse)
    with pytest.raises(AssertionError):
        other.ms(PLAIN, (64, 64), 48, 33)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["setting"]["machine"] == "a machine"
    file.write_text("{")
    assert TimeTable(HERE, tmp_path, stairs(16)).ms(PLAIN, (64, 64), 48, 33) == before


def test_what_takes_time(net):
    found = list(works(cost_inputs(Network.of(net), (IMAGE,))))
    forms = [work.form for work in found if work.form]
    assert [form.depthwise for form in forms] == [False, True, False, False]
    assert forms[2] == Form((3, 3), (2, 2), (1, 1), (1, 1), False, (8, 8), (4, 4))
    products = [amount(work) for work in found if work.multiplies and not work.form]
    assert products == [64 * 5]
    elements = [amount(work) for work in found if not work.multiplies]
    assert 64 * 8 * 8 in elements  # of a ReLU


def amount(work):
    return work.factor * prod(work.whole)


def test_a_network_takes_what_was_measured_of_it(net):
    table = TimeTable(HERE, None, stairs(16))
    inputs = cost_inputs(Network.of(net), (IMAGE,))
    nodes = [
        node("Conv", 1.0, (64, 3, 3, 3), (1, 64, 8, 8)),
        node("Conv", 0.5, (64, 1, 3, 3), (1, 64, 8, 8)),
        node("Conv", 2.0, (128, 64, 3, 3), (1, 128, 4, 4)),
        node("Conv", 0.25, (64, 128, 1, 1), (1, 64, 4, 4)),
        node("Gemm", 0.1, (5, 64), (1, 5)),
        node("ReorderOutput", 0.15, (), (1, 64, 4, 4)),
    ]
    model = TimeModel(list(works(inputs)), table, rates_of(inputs, table, nodes, 8.0))
    whole = [length for _, length in model.axes]
    assert model.at(whole) == pytest.approx(8.0)  # twice what its nodes take
    half = [n // 2 if n in (64, 128) else n for n in whole]
    assert 2.0 < model.at(half) < 4.0


def node(kind, ms, weight, out):
    return Node(kind, kind, ms, ((1,), weight), (out,))


def test_nodes_are_timed_within_a_chain():
    file = chain(PLAIN, 32, 48, 1)
    nodes = profile(file, (torch.randn(1, 16, 8, 8),), runs=4)
    middle = [x for x in nodes if x.name.startswith(MIDDLE)]
    assert [x.kind for x in middle] == ["Conv"] and middle[0].ms > 0
    deep = Form((3, 3), (1, 1), (1, 1), (1, 1), True, (8, 8), (8, 8))
    thin = chain(PLAIN, 3, 16, 2)
    assert profile(chain(deep, 32, 32, 1), (torch.randn(1, 16, 8, 8),), runs=1)
    assert profile(thin, (torch.randn(2, 3, 8, 8),), runs=1)
    with pytest.raises(InputError, match="what is in memory: onnxruntime cannot run it"):
        profile(b"nothing", (IMAGE,))


@pytest.mark.parametrize(
    ("text", "ms"), [("4ms", 4.0), ("0.5x", 5.0), (" .25 X", 2.5), (3.5, 3.5), (1e-05, 1e-05)]
)
def test_what_a_time_is(text, ms):
    assert TimeTarget.of(text).ms(10.0) == ms


@pytest.mark.parametrize("text", ["", "x", "0x", "-1ms", "2x", "4s", "nanms", "infms", "1.2.3"])
def test_what_is_no_time(text, net):
    with pytest.raises(InputError, match="is no time: 4ms"):
        slimnet.prune(net, (IMAGE,), latency=text)


def test_a_name_may_stand_for_another_value_for_a_while():
    own = COSTS["latency"]
    other = Quantity("ms", lambda inputs: None, budget="amount")
    with COSTS.lent("latency", other):
        assert COSTS["latency"] is other and "latency" in quantities()
    assert COSTS["latency"] is own and "latency" not in quantities()
    with pytest.raises(UnknownNameError):
        COSTS["nothing"]


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """A machine on which time is what a formula says, and a whole network takes a third more."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    measure = stairs(16)

    def measured(self, files, whole=None):
        return {name: FILES[str(file)] for name, file in files.items()}

    def written(model, example, file, **how):
        inputs = cost_inputs(Network.of(model), example)
        found = [work for work in works(inputs) if work.form]
        FILES[str(file)] = 4 / 3 * sum(measure(x.form, *x.whole) for x in found)

    FILES = {}
    monkeypatch.setattr(aiming, "export_onnx", written)
    monkeypatch.setattr("slimnet.timing.measured.profile", lambda *what, **how: ())
    monkeypatch.setattr(aiming.Aiming, "_measured", measured)
    monkeypatch.setattr(TimeTable, "_timed", lambda self, *what: measure(*what))
    return measure


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_cut_takes_the_time_that_is_wanted(share, net, clock):
    slim = slimnet.prune(net, (IMAGE,), latency=f"{share}x")
    before, after = slim.plan.before["latency"], slim.plan.after["latency"]
    assert 0.6 * share * before < after <= share * before
    assert slim.certificate is not None
    assert all(row.after % 16 == 0 for row in slim.plan.groups)  # no block is half empty
    assert slim.plan.asked["wanted"] == f"{share}x"
    assert "measured" in slim.plan.notes[-1] and "batch 1" in slim.plan.notes[-1]


def test_narrow_groups_stay_whole_and_told_widths_do_not(clock):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 1))
    slim = slimnet.prune(nn.Sequential(*layers).eval(), (IMAGE,), latency="0.7x")
    assert next((row.before, row.after) for row in slim.plan.groups) == (16, 16)


def test_a_time_that_cannot_be_had_is_refused_or_the_nearest_is_taken(net, clock):
    with pytest.raises(PruneError, match=r"0.01x .* cannot be had here: the least of"):
        slimnet.prune(net, (IMAGE,), latency="0.01x")
    slim = slimnet.prune(net, (IMAGE,), latency="0.01x", best_effort=True)
    assert slim.plan.after["latency"] < 0.4 * slim.plan.before["latency"]


def test_blocks_compete_where_there_are_images(clock, monkeypatch):
    asked = []

    def cut(model, request):
        asked.append(request.drop_blocks)
        raise PruneError("enough")

    monkeypatch.setattr(aiming, "cut_down", cut)
    for more in ({"data": torch.randn(8, 3, 8, 8)}, {}, {"drop_blocks": ["a"]}):
        with pytest.raises(PruneError, match="enough"):
            slimnet.prune(Net().eval(), (IMAGE,), latency="0.5x", **more)
    assert asked == ["auto", (), ["a"]]


def test_what_is_measured_is_cut_as_the_last_one_is(clock, monkeypatch):
    asked, cut = [], aiming.cut_down

    def recorded(model, request):
        asked.append((request.criterion, request.scope, request.repair, request.verify))
        return cut(model, request)

    monkeypatch.setattr(aiming, "cut_down", recorded)
    torch.manual_seed(0)
    data = torch.randn(16, 3, 8, 8)
    slimnet.prune(Net().eval(), (IMAGE,), latency="0.6x", data=data, repair=True)
    *shots, last = asked
    assert set(shots) == {("obs", "harm", False, False)} and last == ("obs", "harm", True, True)


def test_what_the_proof_holds_back_is_measured_again(net, clock, monkeypatch):
    cut = aiming.cut_down

    def held(model, request):
        more = {"widths": {"wide": 128}} if request.verify else {}
        return cut(model, replace(request, **more))

    monkeypatch.setattr(aiming, "cut_down", held)
    slim = slimnet.prune(net, (IMAGE,), latency="0.6x", best_effort=True)
    inputs = cost_inputs(Network.of(slim.model), (IMAGE,))
    ms = 4 / 3 * sum(clock(x.form, *x.whole) for x in works(inputs) if x.form)
    assert slim.plan.after["latency"] == pytest.approx(ms)


def test_the_command_line_prunes_to_a_time(tmp_path, capsys, clock):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    torch.manual_seed(0)\n    return "
        "nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), "
        "nn.Conv2d(64, 4, 1))\n"
    )
    dense, slim = tmp_path / "dense.pt", tmp_path / "slim.pt"
    scope = {}
    exec((tmp_path / "mine.py").read_text(), scope)
    torch.save(scope["make"]().state_dict(), dense)
    words = f"prune {dense} --arch {tmp_path}/mine.py:make --input 1,3,8,8 --latency 0.6x -o {slim}"
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "ms" in said.out and "asked for: at most" in said.out


def test_tables_are_shown_and_removed(tmp_path, monkeypatch, capsys):
    def said(*words):
        with pytest.raises(SystemExit) as ended:
            main(["cache", *words])
        assert not ended.value.code
        return capsys.readouterr().out

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert "0 tables of times" in said()
    table = TimeTable(HERE, cache_folder(), stairs(16))
    table.ms(PLAIN, (64, 64), 64, 64)
    table.save()
    (cache_folder() / "other.json").write_text("{")
    assert "times of convolutions: machine a machine, runtime a runtime 1" in said()
    (one, other) = sorted(json.loads(said("--json")), key=lambda row: -row["readings"])
    assert one["readings"] == table.measured and "cannot be read" in other["setting"]
    assert "2 tables" in said("--clear") and "0 tables" in said()


def test_what_is_here():
    assert setting_of(4).batch == 4 and "onnxruntime" in setting_of(1).runtime


def test_what_no_width_meets_ends(clock):
    """Groups no wider than a block can be halved so often, and no more."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    with pytest.raises(PruneError, match="cannot be had here"):
        slimnet.prune(nn.Sequential(*layers).eval(), (IMAGE,), latency="0.5x")


def test_milliseconds_by_layer(net, tmp_path):
    slimnet.export_onnx(net, (IMAGE,), tmp_path / "net.onnx", verify=False)
    times = by_layer(tmp_path / "net.onnx", (torch.randn(1, 3, 8, 8),))
    assert {"first.0", "deep.0", "wide", "last", "head"} <= set(times)
    assert all(ms >= 0 for ms in times.values())
    whole = sum(node.ms for node in profile(tmp_path / "net.onnx", (torch.randn(1, 3, 8, 8),)))
    assert 0.2 * whole < sum(times.values()) < 5 * whole
