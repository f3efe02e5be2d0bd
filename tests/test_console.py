import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from slimnet import inspect, prune
from slimnet.cli import console, tables
from slimnet.plan.outcome import GroupCut, Outcome
from slimnet.plan.plan import Plan


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3)
        self.second = nn.Conv2d(32, 32, 3)
        self.norm = nn.GroupNorm(4, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.fft.fft(self.first(x), dim=1).real
        return self.head(self.norm(self.second(x)).mean((2, 3)))


EXAMPLE = (torch.randn(1, 3, 8, 8),)


@pytest.fixture
def printed(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(
        console, "out", Console(file=file, width=80, soft_wrap=True, emoji=False, highlight=False)
    )
    return file


def test_an_inspection_says_why_and_what_to_do(printed):
    tables.show_inspection(inspect(Mixer().eval(), EXAMPLE))
    text = printed.getvalue()
    assert "first (32 channels) cannot be pruned\n  because: " in text
    assert "has no rule (test_console.py:" in text
    assert (
        '  to do:   register one with @slimnet.rule (README, "Add an operator"), or leave' in text
    )
    assert "head (10 channels) cannot be pruned\n  because: it is an output of the network" in text
    assert text.count("to do:") == 1
    assert "group 0: a cut is approximate\n  because: " in text
    assert "1 of 3 layers can be pruned, in 1 group; " in text


def test_names_are_shown_as_they_are(printed):
    console.say("[bold]x[/bold] :smile: [N, classes]")
    console.note("[N, classes]")
    console.written("a[1].pt")
    assert printed.getvalue().splitlines() == [
        "[bold]x[/bold] :smile: [N, classes]",
        "[N, classes]",
        "a[1].pt written",
    ]


def test_a_cut_shows_asked_and_achieved(printed):
    pruned = prune(Mixer().eval(), EXAMPLE, ratio=0.4)
    tables.show_cut(pruned.plan)
    tables.show_proof(pruned.certificate)
    text = printed.getvalue()
    assert "asked for: 40% of the channels removed; achieved: 50.0%" in text
    assert "they differ because not every group could lose what was asked" in text
    assert "(1 group: 4 channels leave at a time)" in text
    assert "32      16       50%     40%   4 channels leave at a time   second" in text
    assert "--align off turns it off" in text
    assert "2 layers left alone: slimnet inspect says why" in text
    assert "proof: slim = original with the removed channels zeroed" in text
    assert "approximate in second: " in text


def test_many_groups_are_told_in_few_rows(printed):
    groups = [GroupCut((f"layer{n}",), 64, 32 + 16 * (n % 2), (), 0.5, "") for n in range(601)]
    costs = dict.fromkeys(("macs", "params", "bytes"), 9)
    tables.show_cut(Plan({}, outcome=Outcome(groups, (), {"macs": 1}, costs, costs)))
    text = printed.getvalue()
    assert "(301 groups alike)" in text and "(300 groups alike)" in text
    assert len(text.splitlines()) < 20
    groups = [GroupCut((f"layer{n}",), 999, n + 1) for n in range(100)]
    tables.show_cut(Plan({}, outcome=Outcome(groups, (), {"macs": 1}, costs, costs)))
    assert "and 40 more rows of groups: --json lists all" in printed.getvalue()


def test_no_proof_says_so(printed):
    tables.show_proof(None)
    assert printed.getvalue() == "proof: none, it was switched off\n"


def test_a_trained_networks_proof_says_what_it_does_not_cover(printed):
    pruned = prune(Mixer().eval(), EXAMPLE, ratio=0.5)
    tables.show_proof(replace(pruned.certificate, changed=("a.weight",)), trained=True)
    assert "(1 tensor of other numbers)" in printed.getvalue()
    assert "only the structure is proven, with random weights" in printed.getvalue()
    tables.show_proof(pruned.certificate, trained=True)
    assert "were trained after the cut, and all of them are the cut's" in printed.getvalue()


def test_plain_progress_comes_now_and_then(capsys):
    lines = console._Lines(seconds=1000)
    lines.say("cutting", 0.0)
    lines.say("cutting", 0.5)
    eager = console._Lines(seconds=0)
    eager.say("training [x]", 0.5)
    assert capsys.readouterr().err == "cutting\ntraining [x] (50%)\n"


def test_a_terminal_gets_a_bar_and_quiet_nothing(monkeypatch, capsys):
    file = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=file, force_terminal=True, width=80))
    with console.watching() as watch:
        watch("training [x]", 0.5)
    assert "training [x]" in file.getvalue()
    with console.watching(quiet=True) as watch:
        watch("training", 0.5)
    assert capsys.readouterr() == ("", "")


def test_no_name_moves_the_cursor_or_colours_anything(printed):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self._modules["[red]a\x1b[2J"] = nn.Conv2d(3, 32, 3)
            self._modules["b\u202e\r"] = nn.Conv2d(32, 4, 3)

        def forward(self, x):
            first, second = self._modules.values()
            return second(first(x))

    Odd.__name__ = "Odd[bold]\x1b]0;title\x07"
    model = Odd().eval()
    tables.show_inspection(inspect(model, EXAMPLE))
    tables.show_cut(prune(model, EXAMPLE, ratio=0.5).plan)
    console.note("a\x1b[2J\nb")
    console.written("a\x07[x]")
    text = printed.getvalue()
    assert text.replace("\n", "").isprintable()
    assert "[red]a\\x1b[2J" in text and "b\\u202e\\r" in text and "a\\x07[x] written" in text
