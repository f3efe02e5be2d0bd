"""``slimnet repair``: new weights for a slim network, without labels."""

from __future__ import annotations

from slimnet.cli import commands, console, tables
from slimnet.cli.calibration import Calibration, check_recognised
from slimnet.cli.shared import place_of, print_json, slim_and_dense, write_slim
from slimnet.cli.targets import SLIM, check_target
from slimnet.files.access import repair as repair_file


def repair(options: commands.Repair) -> None:
    """Refuse, read, solve, write, show."""
    files, run, against = options.files, options.run, options.against
    place = place_of(run)
    reads = (options.slim, against, options.data, files.arch)
    check_target(options.output, SLIM, reads, overwrite=files.overwrite)
    artifact, dense = slim_and_dense(options.slim, against, files)
    drawn = Calibration(options.data, options.normalize, options.samples, artifact.example)
    with console.watching(quiet=run.json) as watch:
        images = drawn.samples(run.seed, dense.model)
        check_recognised(against, dense, images)
        repaired = repair_file(artifact, dense.model.to(place), images, seed=run.seed, watch=watch)
        write_slim(repaired.artifact, repaired.model, options.output)
    if run.json:
        print_json({"output": str(options.output), "repair": repaired.repair.to_json()})
        return
    tables.show_repair(repaired.repair)
    console.written(options.output)
