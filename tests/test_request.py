"""A cut's options: one field each, from which signature, help, checks and what was asked come."""

import inspect
import re
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

import slimnet
from slimnet.cli.commands import COMMANDS, COMPARED
from slimnet.cli.typed import built, part, signature
from slimnet.criteria import ACROSS, REDUCE, load_criteria
from slimnet.errors import InputError, UnknownNameError
from slimnet.planning import request
from slimnet.planning.budget import Budget, Limits
from slimnet.planning.request import (
    CutRequest,
    Scope,
    SensitivityRequest,
    parse_align,
    parse_blocks,
    parse_ratios,
)
from slimnet.pruning import PruneArguments
from slimnet.signature import keywords, option, options_of, required


def test_texts_and_what_they_stand_for():
    assert [parse_align(text) for text in ("auto", "off", "12")] == ["auto", None, 12]
    assert parse_ratios(["a.*=0.5", "b=x=0"]) == {"a.*": 0.5, "b=x": 0.0}
    assert parse_blocks(["3"]) == 3 and parse_blocks(["a", "3"]) == ["a", "3"]


@pytest.mark.parametrize("text", ["", "on", "0", "-4", "1.5", "²"])
def test_what_is_no_alignment(text):
    with pytest.raises(InputError, match="--align must be auto, off or a number"):
        parse_align(text)


@pytest.mark.parametrize("text", ["conv", "=0.5", "conv=", "conv=x", "conv=0.1,0.2"])
def test_what_is_no_ratio_of_a_layer(text):
    with pytest.raises(InputError, match="must be LAYER=RATIO"):
        parse_ratios([text])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ratio": 0.5, "macs": 0.5},
        {"ratio": 1.0},
        {"ratio": float("nan")},
        {"macs": 0.0},
        {"params": 1.1},
        {"bytes": 0.5},
        {"ratio": 0.5, "criterion": "foo"},
        {"ratio": 0.5, "across": "foo"},
        {"ratio": 0.5, "reduce": "foo"},
        {"ratio": 0.5, "scope": "foo"},
        {"ratio": 0.5, "align": 0},
        {"ratio": 0.5, "align": "off"},
        {"ratio": 0.5, "min_channels": 0},
        {"ratio": 0.5, "layer_ratio": {"conv": 1.0}},
        {"ratio": 0.5, "steps": 0},
        {"ratio": 0.5, "repair": True},
        {"ratio": 0.5, "criterion": "taylor"},
    ],
    ids=str,
)
def test_a_cut_that_no_network_could_have_is_refused_at_once(arguments):
    with pytest.raises(InputError):
        CutRequest(**arguments).check(data=False, init=False)
    fine = CutRequest(ratio=0.5, align=8, keep=["a"], layer_ratio={"a": 0.2}, min_channels=3)
    fine.check(data=False, init=False)


def test_what_is_left_to_slimnet_is_settled():
    assert CutRequest(ratio=0.5).settled() == CutRequest(ratio=0.5, criterion="l1", scope="local")
    repaired = CutRequest(macs=0.5, repair=True).settled()
    assert (repaired.criterion, repaired.scope) == ("obs", "harm")
    assert CutRequest(drop_blocks=2).settled().ratio == 0.0
    assert CutRequest(drop_blocks=2, macs=0.5).settled().ratio is None


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"ratio": 0.5, "macs": 0.5},
        {"macs": 0.5, "bytes": 1e6},
        {"macs": 0.5, "budget": {"params": 0.5}},
    ],
)
def test_exactly_one_budget_is_named(named):
    with pytest.raises(InputError, match="give exactly one budget: a ratio of channels, of macs"):
        CutRequest(**named).settled()


def test_a_cost_without_an_option_of_its_own_is_named_in_budget():
    asked = CutRequest(budget={"energy": 0.5})
    assert asked.settled().the_budget == ("energy", 0.5)
    assert list(asked.asked(None)).index("energy") == 0 and "budget" not in asked.asked(None)
    assert CutRequest(budget={"macs": 0.5}).asked(None) == CutRequest(macs=0.5).asked(None)
    with pytest.raises(
        UnknownNameError, match="unknown cost 'energy': the known ones are bytes, latency, m"
    ):
        Budget.of(asked)


def test_what_the_caller_changes_later_changes_nothing():
    keep, ratios = ["a"], {"b": 0.2}
    asked = CutRequest(keep=keep, layer_ratio=ratios)
    keep.append("c"), ratios.update(d=0.1)
    assert asked.keep == ("a",) and asked.layer_ratio == {"b": 0.2}


def test_budget_and_limits_are_those_of_the_request():
    asked = CutRequest(macs=0.5, align=None, keep=["a"], layer_ratio={"b": 0.2}, min_channels=3)
    assert Budget.of(asked) == Budget("macs", 0.5)
    assert Limits.of(asked) == Limits("local", None, 3, ("a",), {"b": 0.2})
    assert Limits.of(CutRequest(ratio=0.5)) == Limits()


def test_names_in_help_are_those_of_the_registries():
    assert ", ".join(load_criteria()) == request.CRITERIA
    assert ", ".join(ACROSS) == request.ACROSS and ", ".join(REDUCE) == request.REDUCE
    assert set(get_args(Scope)) == set(re.findall(r"(\w+): ", options_of(CutRequest)["scope"].help))


def test_prune_takes_every_option_by_its_name_type_and_default():
    parameters = inspect.signature(slimnet.prune).parameters
    assert list(parameters)[:2] == ["model", "example"]
    for row in fields(CutRequest):
        assert parameters[row.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[row.name].default == row.default
    assert parameters["ratio"].annotation == float | None
    assert set(parameters) == {"model", *(row.name for row in fields(PruneArguments))}


def test_every_option_is_in_the_help_of_prune():
    listed = re.findall(r"^        (\w+): \w", slimnet.prune.__doc__, re.MULTILINE)
    named = [name for name in listed if not name.endswith("Error")]
    assert named == list(inspect.signature(slimnet.prune).parameters)
    assert "``repair``" in slimnet.prune.__doc__ and "{" not in slimnet.prune.__doc__
    assert all(len(line) <= 100 for line in slimnet.prune.__doc__.splitlines())


def test_an_argument_that_prune_does_not_have():
    with pytest.raises(TypeError, match=r"^prune\(\) got an unexpected keyword argument 'rato'$"):
        slimnet.prune(None, rato=0.5)
    with pytest.raises(TypeError, match=r"^prune\(\) missing a required argument: 'model'$"):
        slimnet.prune(ratio=0.5)


def test_every_option_of_a_cut_is_one_of_the_command():
    shown = set(signature(COMMANDS["prune"]).parameters)
    assert {row.name for row in fields(CutRequest)} - shown == {"strict", "budget", "whole_blocks"}
    assert set(COMPARED) < set(signature(COMMANDS["compare"]).parameters)


@dataclass(frozen=True, kw_only=True)
class Sparkling(CutRequest):
    """A cut with one option more, said in one place."""

    sparkle: int = option(3, "how much it shines, beside {keep}", check=request._from_one)


def test_one_more_field_arrives_everywhere():
    @dataclass(frozen=True)
    class Arguments(Sparkling):
        example: Any = option(None, "an input", asked=False)
        _: KW_ONLY

    @keywords(Arguments)
    def cut(model: int, arguments: Arguments) -> dict[str, Any]:
        """Cut.

        Args:
            {options}
        """
        return arguments.settled().asked(samples=None)

    assert inspect.signature(cut).parameters["sparkle"].default == 3
    assert "sparkle: how much it shines, beside ``keep``." in cut.__doc__
    assert cut(1, ratio=0.5)["sparkle"] == 3
    assert cut(1, None, ratio=0.5, sparkle=7)["sparkle"] == 7
    with pytest.raises(InputError, match="sparkle must be at least 1, and 0 is not"):
        cut(1, ratio=0.5, sparkle=0)


def test_one_more_field_arrives_on_the_command_line():
    @dataclass(frozen=True, kw_only=True)
    class Command:
        model: str = required("the network", positional=True)
        cut: Sparkling = part()

    app, seen = typer.Typer(), []

    def run(**typed):
        seen.append(built(Command, typed))

    run.__signature__ = signature(Command)
    app.command()(run)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "how much it shines, beside --keep" in shown and "[default: 3]" in shown
    CliRunner().invoke(app, ["net.pt", "--sparkle", "5", "--keep", "a", "--align", "off"])
    assert seen == [Command(model="net.pt", cut=Sparkling(sparkle=5, keep=("a",), align=None))]
    assert replace(seen[0].cut, ratio=0.5).settled().asked(None)["sparkle"] == 5


@pytest.mark.parametrize("function", [slimnet.inspect, slimnet.sensitivity])
def test_what_other_functions_share_with_a_cut_is_the_same_option(function):
    parameters = inspect.signature(function).parameters
    shared = parameters.keys() & {"heads", "across", "reduce"}
    assert shared and all(
        parameters[row.name].default == row.default
        for row in fields(CutRequest)
        if row.name in shared
    )
    assert "heads: attention loses whole heads, not a part of each." in function.__doc__
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) missing a required argument"):
        function(None)


def test_the_options_of_sensitivity_are_those_of_its_command():
    shown = set(signature(COMMANDS["sensitivity"]).parameters)
    assert {row.name for row in fields(SensitivityRequest)} - shown == set()
