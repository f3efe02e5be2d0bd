"""``slimnet demo``: the whole way once."""

from __future__ import annotations

from slimnet.cli import commands, console, tables
from slimnet.cli.shared import place_of, print_json
from slimnet.demo import run_demo
from slimnet.output import make_folder
from slimnet.study.results_file import results_json


def demo(options: commands.Demo) -> None:
    """Run it in its folder, show."""
    place, threads = str(place_of(options.run)), options.run.threads
    folder = make_folder(options.output)
    with console.watching(quiet=options.run.json) as watch:
        result = run_demo(folder, seeds=options.seeds, watch=watch, threads=threads, device=place)
    if options.run.json:
        print_json({n.name: results_json(n.results) for n in result.networks if n.results})
    else:
        tables.show_demo(result, folder)
