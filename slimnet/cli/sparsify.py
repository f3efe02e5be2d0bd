"""``slimnet sparsify``: training before a cut."""

from __future__ import annotations

from slimnet.cli import commands, console, tables
from slimnet.cli.shared import open_to_train, place_of, print_json
from slimnet.cli.targets import STATE, check_target
from slimnet.cli.training import data_of, schedule_of
from slimnet.comparison import one_sample
from slimnet.sparsity import SPARSIFIERS
from slimnet.sparsity.training import Recipe
from slimnet.sparsity.training import sparsify as sparsify_network
from slimnet.train.checkpoint import checkpoint_of, write_state
from slimnet.train.reporting import Reporting


def sparsify(options: commands.Sparsify) -> None:
    """Refuse, read, train, write, show."""
    files, run, method = options.files, options.run, options.method
    place = place_of(run)
    amount = SPARSIFIERS[method].amount(method, options.strength, options.rate)
    recipe = Recipe(method, amount, schedule_of(options.training), run.seed)
    reads = (options.model, options.data, files.arch)
    check_target(options.output, STATE, reads, overwrite=files.overwrite)
    opened = open_to_train(options.model, files, dense=True)
    task = data_of(options.data, options.training, opened, files).load()
    example = one_sample(opened, task)
    with console.watching(quiet=run.json) as watch:
        sparse = sparsify_network(
            opened.model,
            example,
            task,
            recipe,
            checkpoint=checkpoint_of(options.output),
            device=place,
            callbacks=[] if run.json else [Reporting(task, f"training: {method}", watch)],
        )
    write_state(sparse.model, options.output)
    if run.json:
        network = {"network": str(options.model), "output": str(options.output)}
        print_json({**network, **sparse.to_json()})
        return
    tables.show_sparse(sparse, task.metrics)
    console.written(options.output)
