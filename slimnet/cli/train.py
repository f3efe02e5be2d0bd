"""``slimnet train``: the dense network, with the weights on its way."""

from __future__ import annotations

from pathlib import Path

from slimnet.capture.randomness import drawing_from
from slimnet.cli import commands, console, tables
from slimnet.cli.shared import open_to_train, place_of, print_json
from slimnet.cli.targets import STATE, check_target
from slimnet.cli.training import data_of, schedule_of
from slimnet.comparison import one_sample
from slimnet.costs.cost import cost
from slimnet.files.access import Opened
from slimnet.networks.arch import parse_arch
from slimnet.rewinding import Rewinds, train_dense
from slimnet.train import reinitialise
from slimnet.train.checkpoint import checkpoint_of, write_state
from slimnet.train.reporting import Reporting


def train(options: commands.Train) -> None:
    """Refuse, read, train, write, show."""
    files, run, output = options.files, options.run, options.output
    place, schedule = place_of(run), schedule_of(options.training)
    reads = (options.model, options.data, files.arch)
    check_target(output, STATE, reads, overwrite=files.overwrite)
    opened = _opened(options)
    task = data_of(options.data, options.training, opened, files).load()
    example = one_sample(opened, task)
    rewinds = Rewinds(options.history or output.with_name(f"{output.name}.history"))
    with console.watching(quiet=run.json) as watch:
        trained = train_dense(
            opened.model,
            task,
            schedule,
            seed=run.seed,
            rewinds=rewinds,
            epochs=options.snapshots,
            macs=cost(opened.model, example).macs,
            checkpoint=checkpoint_of(output),
            device=place,
            callbacks=[] if run.json else [Reporting(task, "training", watch)],
        )
    write_state(trained.model, output)
    if run.json:
        files_made = {"output": str(output), "history": str(rewinds.folder)}
        print_json({"network": options.model, **files_made, **trained.to_json()})
        return
    tables.show_trained(trained, task.metrics)
    console.written(output)
    epochs = ", ".join(map(str, options.snapshots))
    console.written(
        rewinds.folder,
        f"holds the weights of the epochs {epochs}: slimnet compare "
        f"--history {rewinds.folder} rewinds to them",
    )


def _opened(options: commands.Train) -> Opened:
    """The network of a file, or one with fresh weights."""
    path, seed = Path(options.model), options.run.seed
    if path.exists() or ":" not in options.model:
        opened = open_to_train(path, options.files, dense=True)
        if options.fresh:
            reinitialise(opened.model, seed)
        return opened
    arch = parse_arch(options.model)
    with drawing_from(seed, devices=[]):
        model = arch.build(init=True)
    return Opened(model, arch)
