"""``slimnet demo``: the whole way once."""

from __future__ import annotations

from pathlib import Path

from slimnet import console, options
from slimnet.cli.shared import print_json, use_threads
from slimnet.output import make_folder


def demo(
    output: options.Results = Path("slimnet-demo"),
    seeds: options.Seeds = 3,
    as_json: options.Json = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """The whole way once, on scanned digits: train, cut, prove, retrain, export, measure.

    Example: slimnet demo -o demo
    """
    from slimnet.demo import run_demo

    use_threads(threads)
    place = str(options.device(device))
    folder = make_folder(output)
    with console.watching(quiet=as_json) as watch:
        result = run_demo(folder, seeds=seeds, watch=watch, threads=threads, device=place)
    if as_json:
        print_json({n.name: n.results.to_json() for n in result.networks if n.results})
    else:
        console.show_demo(result, folder)
