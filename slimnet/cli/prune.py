"""``slimnet prune``: cut, prove, and repair where asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from slimnet.cli import commands, console, tables
from slimnet.cli.calibration import calibration_of, check_recognised, network_before, outputs_asked
from slimnet.cli.shared import (
    built_by,
    inputs_of,
    on_device,
    open_any,
    place_of,
    print_json,
    shape_text,
    write_slim,
)
from slimnet.cli.targets import PLAN, SLIM, check_target
from slimnet.errors import InputError
from slimnet.output import write_json
from slimnet.planning.request import CutRequest
from slimnet.planning.review import read_review, review_of
from slimnet.pruning import Pruned
from slimnet.timing.prune import prune as prune_network


def prune(options: commands.Prune) -> None:
    """Refuse, read, cut, write, show."""
    files, run = options.files, options.run
    request, output = _request(options), options.output or Path(_OUTPUTS[options.dry_run])
    request.check(data=options.data is not None, init=options.init is not None)
    place = place_of(run)
    reads = (options.model, options.init, options.data, options.plan, files.arch, files.example)
    check_target(output, PLAN if options.dry_run else SLIM, reads, overwrite=files.overwrite)
    opened = open_any(options.model, files)
    inputs, described = inputs_of(options.model, opened, files)
    drawn = calibration_of(options.data, options.normalize, options.samples, inputs)
    with console.watching(quiet=run.json) as watch:
        images = None if drawn is None else drawn.samples(run.seed, opened.model)
        request = replace(request, outputs=outputs_asked(request.outputs, drawn))
        recognised = check_recognised(options.model, opened, images)
        before = network_before(options.init, opened, allow_pickle=files.allow_pickle)
        watch("cutting and proving" if request.verify else "cutting", 0.0)
        network, inputs = on_device(place, opened.model, inputs)
        pruned = prune_network(
            network,
            inputs,
            data=images,
            init=None if before is None else before.tensors,
            watch=watch,
            **vars(request),
        )
        watch("writing", 0.9)
        if options.dry_run:
            write_json(output, review_of(pruned.plan, pruned.inspection.groups))
        else:
            write_slim(opened.artifact_of(pruned), pruned.model, output)
    if run.json:
        _print(pruned, described, output)
    else:
        _show(pruned, "; ".join(filter(None, (described, recognised))), output, options)


_OUTPUTS = {False: "slim.pt", True: "plan.json"}


def _request(options: commands.Prune) -> CutRequest:
    """What was asked for; of a dry run without its repair, as an edited plan says it."""
    request = replace(options.cut, seed=options.run.seed)
    if options.plan is not None:
        if request.budgets:
            raise InputError(
                f"{options.plan} says every width, so a budget has nothing to decide: leave out "
                f"--{request.budgets[0][0]}, or --plan"
            )
        told = read_review(options.plan)
        widths = {**told["widths"], **(request.widths or {})}
        blocks = request.drop_blocks or told["drop_blocks"]
        read = request.outputs or told["outputs"]
        request = replace(request, widths=widths, drop_blocks=blocks, outputs=read)
    return replace(request.settled(), repair=False) if options.dry_run else request


def _print(pruned: Pruned, described: str, output: Path) -> None:
    record = {"network": described, "output": str(output), "plan": pruned.plan.to_json()}
    parts = {"certificate": pruned.certificate, "repair": pruned.repair}
    print_json(record | {name: part and part.to_json() for name, part in parts.items()})


def _show(pruned: Pruned, described: str, output: Path, options: commands.Prune) -> None:
    console.say(described)
    console.say()
    tables.show_cut(pruned.plan)
    tables.show_proof(pruned.certificate)
    if pruned.repair is not None:
        tables.show_repair(pruned.repair)
    console.written(output)
    if options.dry_run:
        again = _typed("prune", options.model, "--plan", output, *_network(options.files))
        console.note(f"now: edit it, and {again}")
        return
    if options.cut.bytes is not None:
        console.say(f"it takes {output.stat().st_size:,} bytes: the plan lies in it, too")
    for line in _what_next(pruned, output, options):
        console.note(line)


def _what_next(pruned: Pruned, slim: Path, options: commands.Prune) -> Iterator[str]:
    """The commands that win accuracy back, and the one that makes a file to run."""
    data = ["--data", options.data or "DATA"]
    data += ["--normalize", options.normalize] if options.normalize else []
    data += chain.from_iterable(built_by(options.files))
    against = ["--against", str(options.model)]
    if pruned.repair is None:
        yield f"now: {_typed('repair', slim, *against, *data)} (some images, no labels)"
    yield f"now: {_typed('retrain', slim, *data, *against, '--distill')}"
    yield f"then: {_typed('export', 'tuned.pt', '--onnx')}"


def _network(files: commands.Files) -> Iterator[str]:
    """The options that say what the network is and takes, as they were given."""
    yield from chain.from_iterable(built_by(files))
    yield from ["--example", files.example] if files.example else []
    for shape in files.input:
        yield from ("--input", shape_text(shape))


def _typed(*words: str | Path) -> str:
    return shlex.join(["slimnet", *map(str, words)])
