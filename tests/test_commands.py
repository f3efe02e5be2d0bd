"""What commands take: texts and what they stand for, and one row for what several have."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import typer

from slimnet import cli
from slimnet.cli import commands
from slimnet.cli.commands import COMMANDS, shapes
from slimnet.cli.compare import names
from slimnet.cli.shared import device_called
from slimnet.cli.typed import built, part, signature
from slimnet.errors import InputError, UnknownNameError
from slimnet.signature import options_of
from slimnet.sparsity import SPARSIFIERS
from slimnet.study.budget import listed, ratios
from slimnet.tasks.data import DATA
from slimnet.train import REGIMES


def test_texts_and_what_they_stand_for():
    assert shapes(["1,3,224,224", "1x3"]) == ((1, 3, 224, 224), (1, 3))
    assert listed("ratio", "0.3,0.5") == ratios(0.3, 0.5)
    assert names("finetune, scratch-e", REGIMES) == ("finetune", "scratch-e")
    assert device_called("cpu") == torch.device("cpu")


@pytest.mark.parametrize("text", ["", "x", "1,,3", "0,3", "1,-3", "1.5", "1,3,"])
def test_what_is_no_shape(text):
    with pytest.raises(InputError, match=r"--input .* as 1,3,224,224"):
        shapes([text])


@pytest.mark.parametrize("text", ["", "x", "0.5,", "0.5;0.6"])
def test_what_are_no_numbers(text):
    with pytest.raises(InputError, match=r"--ratio .* is no number"):
        listed("ratio", text)


@pytest.mark.parametrize("text", ["", "foo", "finetune,foo"])
def test_an_unknown_name_lists_the_known_ones(text):
    with pytest.raises(
        UnknownNameError, match="finetune, lr-rewind, repair, repair-finetune, scratch-b, scratch-e"
    ):
        names(text, REGIMES)


@pytest.mark.parametrize("name", ["", "foo", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_here(name):
    with pytest.raises(InputError, match=r"there is no device .* the known ones are cpu"):
        device_called(name)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_no_option_is_shown_that_the_command_does_not_read(name):
    folder = Path(commands.__file__).parent
    source = (folder / f"{name}.py").read_text()
    if "slimnet.cli.whole" in source:
        source += (folder / "whole.py").read_text()
    unread = [o for o in options_of(COMMANDS[name]) if not re.search(rf"\b{o}\b", source)]
    assert unread == []


def test_names_in_help_are_those_of_the_registries():
    compare, sparsify = options_of(commands.Compare), options_of(commands.Sparsify)
    assert ", ".join(REGIMES) in compare["regime"].help
    assert ", ".join(SPARSIFIERS) in sparsify["method"].help
    assert sorted(commands.KINDS.split(", ")) == sorted(DATA[name].usage for name in DATA)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "retrain slim.pt --data digits --temperature 4",
            "--temperature means nothing without --distill",
        ),
        (
            "retrain slim.pt --data digits --teacher-weight 1",
            "--teacher-weight means nothing without --distill",
        ),
        (
            "retrain slim.pt --data digits --epochs 3 --minutes 2",
            "--minutes and --epochs say the same in two ways",
        ),
        (
            "auto net.pt --data digits --macs 0.5 --epochs 3 --minutes 2 -o out",
            "--epochs and --minutes say the same in two ways",
        ),
        ("export slim.pt --pt2 --against net.pt", "is not timed: leave --against"),
        ("export slim.pt --safetensors --batch 2", "is not timed: leave --against"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", list(COMMANDS))
def test_options_that_go_or_do_not_go_together_are_there(name):
    rows = options_of(COMMANDS[name])
    assert {x for row in rows.values() for x in (row.needs, row.replaces) if x} <= set(rows)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_command_and_its_options_have_their_words(name):
    command = typer.main.get_command(cli.app).commands[name]
    assert COMMANDS[name].__doc__.split("\n")[0] in command.help
    assert [row.name for row in command.params] == list(signature(COMMANDS[name]).parameters)
    assert all(row.help for row in command.params)


def test_what_is_not_typed_is_as_it_is_by_default():
    assert built(commands.Demo, {"json": True, "device": None, "threads": None}) == commands.Demo(
        run=commands.Run(json=True)
    )
    typed = dict.fromkeys(signature(commands.Compare).parameters)
    compare = built(commands.Compare, {**typed, "model": "m", "data": "d", "output": "o"})
    assert compare.files == commands.Files() and compare.training == commands.Training()


def test_a_command_may_have_some_options_of_a_part_and_other_defaults():
    shown = signature(commands.Compare).parameters
    assert shown["align"].default == "auto"
    assert not {"steps", "repair", "verify", "example"} & set(shown)
    assert [row.name for row in fields(commands.Demo)] == ["output", "seeds", "run"]
    assert "seed" not in signature(commands.Demo).parameters
    assert part("a", b=1).metadata["part"].defaults == {"b": 1}
