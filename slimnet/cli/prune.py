"""``slimnet prune``: cut, prove, and repair where asked."""

from __future__ import annotations

from dataclasses import replace

from slimnet.cli import commands, console, tables
from slimnet.cli.calibration import calibration_of, check_recognised, network_before
from slimnet.cli.shared import inputs_of, on_device, open_any, place_of, print_json, write_slim
from slimnet.cli.targets import SLIM, check_target
from slimnet.pruning import Pruned
from slimnet.pruning import prune as prune_network


def prune(options: commands.Prune) -> None:
    """Refuse, read, cut, write, show."""
    files, run = options.files, options.run
    request = replace(options.cut, seed=run.seed)
    request.check(data=options.data is not None, init=options.init is not None)
    place = place_of(run)
    reads = (options.model, options.init, options.data, files.arch, files.example)
    check_target(options.output, SLIM, reads, overwrite=files.overwrite)
    opened = open_any(options.model, files)
    inputs, described = inputs_of(options.model, opened, files)
    drawn = calibration_of(options.data, options.normalize, options.samples, inputs)
    with console.watching(quiet=run.json) as watch:
        images = None if drawn is None else drawn.samples(run.seed, opened.model)
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
        write_slim(opened.artifact_of(pruned), pruned.model, options.output)
    if run.json:
        _print(pruned, described, options)
    else:
        _show(pruned, "; ".join(filter(None, (described, recognised))), options)


def _print(pruned: Pruned, described: str, options: commands.Prune) -> None:
    record = {"network": described, "output": str(options.output), "plan": pruned.plan.to_json()}
    parts = {"certificate": pruned.certificate, "repair": pruned.repair}
    print_json(record | {name: part and part.to_json() for name, part in parts.items()})


def _show(pruned: Pruned, described: str, options: commands.Prune) -> None:
    console.say(described)
    console.say()
    tables.show_cut(pruned.plan)
    tables.show_proof(pruned.certificate)
    if pruned.repair is not None:
        tables.show_repair(pruned.repair)
    console.written(options.output)
    if options.cut.bytes is not None:
        console.say(f"it takes {options.output.stat().st_size:,} bytes: the plan lies in it, too")
