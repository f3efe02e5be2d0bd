"""An exported program needs no class: it runs, is cut and is proven like the network itself."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from functools import partial

import pytest
import torch
from oracle import float64, outputs, relative_error, zeroed
from random_networks import Network, example, program_of
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_leaves

import slimnet
from slimnet.errors import InputError
from slimnet.program.exported import export
from slimnet.program.pt2 import read_pt2

WIDTH = 32


class Attention(nn.Module):
    """Attention by hand: every size is a number in the exported graph."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (c // 4) ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, c))


class Fused(Attention):
    """The same with torch's fused attention, split by sizes."""

    def forward(self, x):
        b, n, c = x.shape
        parts = self.qkv(x).split_with_sizes([c, c, c], -1)
        q, k, v = (part.view(b, n, 4, c // 4).transpose(1, 2) for part in parts)
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Multihead(nn.Module):
    """torch's own multi-head attention between two linear layers, with a class token."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, WIDTH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.last = nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.first(x)], 1)
        y = self.norm(x)
        return self.last((x + self.attention(y, y, y, need_weights=False)[0])[:, 0])


class Sizes(nn.Module):
    """Literals of many operators: slices from both ends, groups, a view, an expand, zeros."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.grouped = nn.Conv2d(WIDTH, WIDTH, 1, groups=2)
        self.last = nn.Conv2d(WIDTH, 5, 1)

    def forward(self, x):
        x = self.depthwise(self.norm(self.stem(x)))
        x = torch.cat([x[:, -WIDTH // 2 :], x[:, : WIDTH // 2]], 1)
        x = x.view(x.shape[0], 2, WIDTH // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        x = self.grouped(x) + torch.zeros(1, WIDTH, 1, 1, dtype=x.dtype)
        return self.last(x * x.mean((2, 3), keepdim=True).expand(-1, WIDTH, 1, 1).sigmoid())


class Holder(nn.Module):
    """What gets lost: a tie, a frozen scale, buffers, a constant, containers, inputs by name."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.rand(WIDTH), requires_grad=False)
        self.register_buffer("shift", torch.rand(WIDTH), persistent=False)

    def forward(self, data, *, mask=None, times=2):
        x = data["x"]
        with torch.no_grad():
            gate = x.sum(1, keepdim=True).sigmoid()
        for _ in range(times):
            x = self.second(self.first(x)) * self.frozen + self.shift
        x = x.masked_fill(mask, float("-inf")).clamp_min(torch.tensor([-2.0, 0.5]).sum()) * gate
        return {"best": tuple(x.max(1)), "all": [x, x.chunk(2, 1)]}


def write(tmp_path, model, args, kwargs=None, shapes=None, name="net.pt2"):
    path = tmp_path / name
    exported = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    torch.export.save(exported, path)
    return path


def free(count=1):
    return tuple({0: torch.export.Dim.AUTO} for _ in range(count))


def equal(left, right):
    pairs = zip(tree_leaves(left), tree_leaves(right), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def image(batch=2):
    return (torch.randn(batch, 3, 6, 6),)


def tokens(batch=2, width=WIDTH):
    return (torch.randn(batch, 7, width),)


CUTS = {
    "by hand": (lambda: nn.Sequential(nn.Linear(6, WIDTH), Attention(), nn.Linear(WIDTH, 5)), 6),
    "fused": (lambda: nn.Sequential(nn.Linear(6, WIDTH), Fused(), nn.Linear(WIDTH, 5)), 6),
    "multihead": (Multihead, 6),
    "sizes": (Sizes, None),
}


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch 2.11's own code
@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("name", CUTS)
def test_literals_are_rewritten_exactly(name, decomposed, tmp_path):
    make, width = CUTS[name]
    sample = image if width is None else lambda: tokens(width=width)
    model, inputs = float64(make, sample, seed=0)
    exported = torch.export.export(model, inputs, dynamic_shapes=free(), strict=False)
    if decomposed:
        exported = exported.run_decompositions()
    torch.export.save(exported, tmp_path / "net.pt2")
    opened = read_pt2(tmp_path / "net.pt2")
    pruned = slimnet.prune(opened.program, opened.example, ratio=0.5, align=None)
    if pruned.certificate.exact:
        reference = zeroed(make, model, pruned.plan.removed, pruned.plan.grouped)
        assert relative_error(outputs(pruned.model, inputs), outputs(reference, inputs)) < 1e-9
    share = pruned.plan.after["params"] / pruned.plan.before["params"]
    assert share < 0.45
    with torch.no_grad():
        assert len(pruned.model(*(x.repeat(3, *[1] * (x.dim() - 1)) for x in inputs))) == 6


def test_a_program_removes_what_its_class_does(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3),
        nn.Conv2d(24, 4, 1),
    ).eval()
    opened = read_pt2(write(tmp_path, model, image(), shapes=free()))
    by_class = slimnet.prune(model, image(), ratio=0.5, criterion="bn-scale")
    by_program = slimnet.prune(opened.program, opened.example, ratio=0.5, criterion="bn-scale")
    assert by_program.plan.removed == by_class.plan.removed
    assert by_program.plan.groups == by_class.plan.groups


@pytest.mark.parametrize("part", range(4))
def test_random_networks_are_cut_right_as_programs(part, tmp_path):
    outcomes = [exported_outcome(seed, tmp_path) for seed in range(part * 10, part * 10 + 10)]
    assert sum(outcome != "refused" for outcome in outcomes) > 5


def exported_outcome(seed, tmp_path):
    """As the class of the same network is judged: "exact", "approximate" or "refused"."""
    make = partial(Network, program_of(seed))
    model, sample = float64(make, example, seed)
    path = write(tmp_path, model, sample)
    opened = read_pt2(path)
    try:
        pruned = slimnet.prune(opened.program, sample, ratio=0.5, align=None, seed=seed)
    except slimnet.PruneError:
        return "refused"
    if not pruned.certificate.exact:
        return "approximate"
    reference = zeroed(make, model, pruned.plan.removed, pruned.plan.grouped)
    error = relative_error(outputs(pruned.model, sample), outputs(reference, sample))
    assert error < 1e-9, f"seed {seed}"
    return "exact"


def test_what_is_around_the_calls_survives(tmp_path):
    model = Holder().eval()
    data, mask = {"x": torch.randn(2, WIDTH)}, torch.rand(2, WIDTH) > 0.8
    auto = {0: torch.export.Dim.AUTO}
    shapes = {"data": {"x": auto}, "mask": auto, "times": None}
    path = write(tmp_path, model, (data,), {"mask": mask, "times": 2}, shapes)
    opened = read_pt2(path)
    for batch in (2, 5):
        data, mask = {"x": torch.randn(batch, WIDTH)}, torch.rand(batch, WIDTH) > 0.8
        expected = model(data, mask=mask)
        assert equal(opened.program(data, mask, 2), expected)
        found = opened.program(data, mask=mask, times=2)
        assert equal(found, expected)
        assert found.keys() == expected.keys() and type(found["all"][1]) is tuple
    named = dict(opened.program.named_parameters(remove_duplicate=False))
    assert named["first.weight"] is named["second.weight"]
    assert not named["frozen"].requires_grad
    assert not opened.program.training


def test_the_stored_inputs_are_the_example(tmp_path):
    words = torch.tensor([[1, 2, 3], [3, 2, 1]])
    path = write(tmp_path, nn.Embedding(4, 8).eval(), (words,), shapes=free())
    assert torch.equal(read_pt2(path).example[0], words)


def test_a_fixed_batch_stays_fixed_and_a_free_one_free(tmp_path):
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 3)).eval()
    fixed = read_pt2(write(tmp_path, model, (torch.randn(2, 6),)))
    assert fixed.program.free_axes() == [()]
    with pytest.raises(InputError, match="recorded for the inputs 2x6"):
        fixed.program(torch.randn(3, 6))
    opened = read_pt2(write(tmp_path, model, (torch.randn(2, 6),), shapes=free()))
    assert opened.program.free_axes() == [(0,)]


def test_reasons_name_the_users_line_and_layer(tmp_path):
    opened = read_pt2(write(tmp_path, Multihead().eval(), tokens(width=6), shapes=free()))
    found = slimnet.inspect(opened.program, opened.example)
    kinds = {layer.name: layer.kind for layer in found.layers}
    assert kinds["first"] == "Linear" and kinds["last"] == "Linear"
    assert "test_pt2.py:" in str(found.groups[0].approximate[0])


def test_a_program_exported_again_names_no_line_of_slimnet(tmp_path):
    opened = read_pt2(write(tmp_path, nn.Linear(6, 16).eval(), (torch.randn(2, 6),)))
    exported = export(slimnet.network.Network.of(opened.program), opened.example)
    torch.export.save(exported, tmp_path / "again.pt2")
    again = read_pt2(tmp_path / "again.pt2")
    assert {call.site.file for call in again.program.calls} == {""}


class _Trains(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class _Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        return x + self.calls


class _Branches(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (_Trains(), r"aten.dropout.default runs in training mode: export model.eval\(\)"),
        (nn.BatchNorm1d(3), "training mode|writes into"),
        (_Counts(), "writes into a weight or an input: export"),
        (_Branches(), "calls cond, whose body cannot be followed"),
    ],
    ids=["dropout", "batch norm", "counter", "branches"],
)
def test_what_a_program_cannot_say_is_refused_by_name(model, why, tmp_path):
    path = write(tmp_path, model, (torch.randn(4, 3),))
    with pytest.raises(InputError, match=why):
        read_pt2(path)


CODE = 'a" + (str(exec("import sys; sys.touched = 1")) and "") + "'


def edited(path, change):
    """The archive with the text of each of its JSON members changed."""
    made = path.with_name("edited.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            new.writestr(name, change(raw) if name.endswith(".json") else raw)
    return made


class Named(nn.Module):
    """Its parts and its output have names of their own."""

    def __init__(self):
        super().__init__()
        self.module_name = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3))

    def forward(self, argument_name):
        return {"output_name": self.module_name(argument_name)}


@pytest.mark.parametrize("name", ["module_name", "output_name", "argument_name", "conv2d_1"])
@pytest.mark.parametrize("evil", [CODE, "a\x1b[2Jb", "a\nb"])
def test_no_name_in_a_file_reaches_source_text_or_a_terminal(name, evil, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "touched", 0, raising=False)
    told = json.dumps(json.dumps(evil)[1:-1])[1:-1] if name == "output_name" else evil
    written = json.dumps(told)[1:-1].encode()
    path = edited(
        write(tmp_path, Named(), image()), lambda raw: raw.replace(name.encode(), written)
    )
    with pytest.raises(InputError, match=r"names may hold|embedded program|damaged"):
        slimnet.export_pt2(read_pt2(path).program, image(), tmp_path / "out.pt2")
    assert sys.touched == 0


def test_an_infinite_size_is_no_size(tmp_path):
    path = write(tmp_path, Named(), image())
    endless = edited(path, lambda raw: raw.replace(b'"as_int": 6}', b'"as_int": Infinity}'))
    with pytest.raises(InputError, match="damaged"):
        read_pt2(endless)


def test_described_inputs_are_not_of_any_size(tmp_path):
    path = write(tmp_path, Named(), image())
    huge = edited(path, lambda raw: raw.replace(b'"as_int": 6}', b'"as_int": 80000000}'))
    with pytest.raises(InputError, match="a file may describe"):
        read_pt2(huge)


def test_what_a_file_says_is_not_nested_without_end(tmp_path):
    path = write(tmp_path, Named(), image())
    for deep in (b"[" * 5000 + b"]" * 5000, b"[" * 200 + b"]" * 200):
        with pytest.raises(InputError, match="nested more than 60 deep"):
            read_pt2(edited(path, lambda raw, deep=deep: deep))
    spec = b'"in_spec": ' + json.dumps("[1, " + "[" * 5000 + "]" * 5000 + "]").encode()
    stated = re.compile(rb'"in_spec": "(\\.|[^"])*"')
    with pytest.raises(InputError, match="nested more than 60 deep"):
        read_pt2(edited(path, lambda raw: stated.sub(lambda _: spec, raw)))
