"""Names in files: with code, with markup, with what a terminal obeys.

A name that stands in many places of a file is replaced in all of them, so that the file stays whole
and the name gets as far as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import CANARY, SAFE, Fault, command, family
from faultlab.planting import change_json, change_payload, renamed
from faultlab.shelf import OWN

_CALL = f"open('{CANARY}','w')"  # without a dot: names are split at dots
WORST = f'a" + (str({_CALL}) and "") + "'
CODE = (
    WORST,
    f"a' + (str({_CALL})) + '",
    f"x); {_CALL}; (x",
    f"x = {_CALL}",
    f"x\n    {_CALL}\n    y",
    f"x[{_CALL}]",
    f"{{{_CALL}}}",
    f"x: {_CALL}",
    f"x, y={_CALL}",
    f'"""\n{_CALL}\n"""',
    f"x\\\n+{_CALL}",
    "__class__",
    "forward",
    "None",
    "_modules",
    "a.b..c",
    "",
)
"""What runs where a name reaches source text, and names that Python or torch hold already."""
SEEN = (
    "\x1b]0;owned\x07\x1b[2Jlayer",
    "layer\r\x1b[2Kslimnet: all is well",
    "layer\u202efdp",
    "layer\nslimnet: a second sentence",
    "layer\x00\x08",
    "[red]layer[/red][/]",
    f"<script>/*{CANARY}*/</script>",
    "layer" * 20_000,
    "\ud800",
)
"""What a terminal, rich's markup or a browser obeys."""

PROGRAM = {
    "a result": "relu",
    "an input": "x",
    "a weight's node": "p_first_weight",
    "a parameter": "first.weight",
    "a buffer": "norm.running_mean",
    "an argument of an operator": "stride",
    "the output": "linear",
    "an operator": "torch.ops.aten.relu.default",
}
"""Strings of model.json and what they name."""
COMMANDS = {
    "prune": "prune {file} --ratio 0.5 -o out.pt2",
    "prune to slim.pt": "prune {file} --ratio 0.5 -o out.pt",
    "export --pt2": "export {file} out.pt2 --pt2",
    "export --onnx": "export {file} out.onnx --onnx --no-latency",
    "inspect": "inspect {file}",
    "inspect --json": "inspect {file} --json",
    "inspect --graph": "inspect {file} --graph out.html",
    "sensitivity": "sensitivity {file} -o out.html --points 1",
    "load": "load {file}",
}


def _fault(name: str, file: str, meet: str, plant: Callable[[Path], Any], *more: str) -> Fault:
    return Fault(
        name=name,
        command=command(COMMANDS[meet].format(file=file)),
        needs=(file, *more),
        plant=plant,
        allows=SAFE,
    )


def _shown(name: str) -> str:
    return repr(name[:40])


def in_program(old: str, new: str) -> Callable[[Path], None]:
    """In every JSON of a .pt2, wherever it stands."""

    def plant(folder: Path) -> None:
        for ending in ("models/model.json", "_weights_config.json"):
            change_json(folder / "program.pt2", ending, lambda tree: renamed(tree, old, new))

    return plant


@family("crafted")
def names_in_programs(random: Random) -> Iterator[Fault]:
    """The first door that was found open: a name in a .pt2 was put into source text."""
    for what, old in PROGRAM.items():
        for new, meet in _met(random, tuple(COMMANDS)):
            name = f"{meet}: {what} of a .pt2 is called {_shown(new)}"
            yield _fault(name, "program.pt2", meet, in_program(old, new))


def _met(random: Random, meets: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names, and commands that meet them; the worst meets those that write programs."""
    yield from ((WORST, meet) for meet in ("prune", "export --pt2") if meet in meets)
    yield from ((new, random.choice(meets[:3])) for new in random.sample(CODE[1:], 3))
    yield from ((new, random.choice(meets)) for new in random.sample(CODE[1:] + SEEN, 2))


EMBEDDED = {
    "a result": "relu",
    "an input": "x",
    "a weight's node": "p_first_weight",
    "a parameter": "first.weight",
    "an operator": "aten.relu.default",
    "the class": "Net",
}


def in_slim(old: str, new: str) -> Callable[[Path], None]:
    """Everywhere in a slim.pt with a program."""

    def change(payload: Any) -> Any:
        if old == "Net":
            return {**payload, "class": new, "arch": None}
        return renamed(payload, old, new)

    return lambda folder: change_payload(folder / "slimown.pt", change)


@family("crafted")
def names_in_slim_files(random: Random) -> Iterator[Fault]:
    for what, old in EMBEDDED.items():
        for new, meet in _met(random, ("load", "export --pt2", "export --onnx", "inspect")):
            name = f"{meet}: {what} of a slim.pt's program is called {_shown(new)}"
            yield _fault(name, "slimown.pt", meet, in_slim(old, new))


def _changed(path: tuple[Any, ...], value: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Set a part of a nested value in place."""

    def change(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value(tree[path[-1]])

    return change


_GRAPH = ("graph_module", "graph")
_SIGNATURE = ("graph_module", "module_call_graph", 0, "signature")
_METADATA = (*_GRAPH, "nodes", 0, "metadata")
SINGLE: Mapping[str, tuple[tuple[Any, ...], Callable[[str], Callable[[Any], Any]]]] = {
    "forward's argument": ((*_SIGNATURE, "forward_arg_names"), lambda new: lambda old: [new]),
    "a key of the inputs' containers": (
        (*_SIGNATURE, "in_spec"),
        lambda new: lambda old: old.replace('"context": "null"', f'"context": {new!r}'),
    ),
    "a key of the outputs' containers": (
        (*_SIGNATURE, "out_spec"),
        lambda new: lambda old: _dict_spec(new),
    ),
    "the module that a call stands in": (
        (*_METADATA, "nn_module_stack"),
        lambda new: lambda old: f"L__self__,,net.Net;L__self__first,{new},net.{new}",
    ),
    "the line that a call stands in": (
        (*_METADATA, "stack_trace"),
        lambda new: lambda old: f'File "{new}", line 9, in forward\n    {new}',
    ),
}
"""Texts that stand in one place of model.json."""


def _dict_spec(key: str) -> str:
    import json

    leaf = {"type": None, "context": None, "children_spec": []}
    spec = {
        "type": "builtins.dict",
        "context": json.dumps([key]),
        "children_spec": [leaf],
    }
    return json.dumps([1, spec])


@family("crafted")
def texts_in_programs(random: Random) -> Iterator[Fault]:
    for what, (path, value) in SINGLE.items():
        for new in [*random.sample(CODE[:11], 2), *random.sample(SEEN, 2)]:
            meet = random.choice(list(COMMANDS))
            change = _changed(path, value(new))
            yield _fault(
                f"{meet}: {what} of a .pt2 is {_shown(new)}",
                "program.pt2",
                meet,
                lambda folder, change=change: change_json(
                    folder / "program.pt2", "models/model.json", change
                ),
            )


def _states(new: str) -> Callable[[Path], None]:
    return lambda folder: change_payload(
        folder / "own.pt", lambda state: renamed(state, "first.weight", new)
    )


@family("crafted")
def names_in_state_dicts(random: Random) -> Iterator[Fault]:
    """They do not fit the network: the refusal that says so holds them."""
    for new in (*random.sample(CODE, 3), *SEEN):
        yield Fault(
            name=f"a tensor of a state dict is called {_shown(new)}",
            command=command(f"inspect own.pt {OWN}" if random.random() < 0.7 else "inspect own.pt"),
            needs=("own.pt", "net.py"),
            plant=_states(new),
            allows=SAFE,
        )


@family("crafted")
def paths_in_archives(random: Random) -> Iterator[Fault]:
    """Members that lead out of an archive, or stand in it twice."""
    ways = {
        "leads out": lambda name: f"archive/../../{name}",
        "is absolute": lambda name: f"/{name}",
        "has a newline": lambda name: name.replace("model", "mo\ndel"),
        "has a backslash": lambda name: name.replace("/", "\\"),
        "has an ESC": lambda name: f"\x1b[2J{name}",
    }
    for what, way in ways.items():
        for file, meet in (("program.pt2", "inspect"), ("slim.pt", "load")):
            yield _fault(
                f"{meet}: a member of {file} {what}",
                file,
                meet,
                lambda folder, file=file, way=way: _rename_members(folder / file, way),
            )


def _rename_members(path: Path, way: Callable[[str], str]) -> None:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(way(name), content)


@family("crafted")
def texts_beside_programs(random: Random) -> Iterator[Fault]:
    """A weight's file name leads elsewhere."""
    for new in ("../../../../etc/hostname", "/dev/zero", "decoy.pt", CODE[0], SEEN[0]):

        def change(tree: Any, new: str = new) -> None:
            next(iter(tree["config"].values()))["path_name"] = new

        yield _fault(
            f"load: a weight of a .pt2 lies in {_shown(new)}",
            "program.pt2",
            "load",
            lambda folder, change=change: change_json(
                folder / "program.pt2", "_weights_config.json", change
            ),
        )
