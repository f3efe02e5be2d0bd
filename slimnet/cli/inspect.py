"""``slimnet inspect``: what hangs together, and what cannot be cut."""

from __future__ import annotations

from slimnet.capture.trace import capture
from slimnet.cli import commands, console, tables
from slimnet.cli.shared import inputs_of, on_device, open_any, place_of, print_json
from slimnet.cli.targets import check_apart
from slimnet.network import Network
from slimnet.pruning import inspect as inspect_network


def inspect(options: commands.Inspect) -> None:
    """Refuse, read, look, draw, show."""
    files, graph = options.files, options.graph
    place = place_of(options.run)
    if graph is not None:
        from slimnet.report.picture import check_picture

        check_picture(graph)
        reads = (options.model, files.arch, files.example)
        check_apart([graph], reads, overwrite=files.overwrite)
    opened = open_any(options.model, files)
    inputs, described = inputs_of(options.model, opened, files)
    network, inputs = on_device(place, opened.model, inputs)
    cut = options.cut
    inspection = inspect_network(network, inputs, heads=cut.heads, outputs=cut.outputs)
    if graph is not None:
        from slimnet.report.picture import write_picture

        walked = Network.of(network)
        write_picture(graph, walked, capture(walked, inputs), inspection, title=described)
    if options.run.json:
        print_json({"network": described, **inspection.to_json()})
        return
    console.say(described)
    console.say()
    tables.show_inspection(inspection)
    if graph is not None:
        console.written(graph)
