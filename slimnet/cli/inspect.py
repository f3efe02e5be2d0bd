"""``slimnet inspect``: what hangs together, and what cannot be cut."""

from __future__ import annotations

from slimnet import console, options
from slimnet.capture.trace import capture
from slimnet.cli.shared import inputs_of, on_device, open_any, print_json, use_threads
from slimnet.cli.targets import check_apart
from slimnet.network import Network
from slimnet.prune import inspect as inspect_network


def inspect(
    model: options.ModelFile,
    arch: options.Arch = None,
    weights: options.Weights = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    heads: options.Heads = False,
    graph: options.Graph = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Show what hangs together, what can be cut, and for each layer that cannot: why.

    Example: slimnet inspect resnet18.pt --graph resnet18.html
    """
    use_threads(threads)
    if graph is not None:
        from slimnet.report.picture import check_picture

        check_picture(graph)
        check_apart([graph], (model, arch, example), overwrite=overwrite)
    place = options.device(device)
    opened = open_any(model, arch, allow_pickle, weights)
    inputs, described = inputs_of(model, opened, input, example)
    network, inputs = on_device(place, opened.model, inputs)
    found = inspect_network(network, inputs, heads=heads)
    if graph is not None:
        from slimnet.report.picture import write_picture

        walked = Network.of(network)
        write_picture(graph, walked, capture(walked, inputs), found, title=described)
    if as_json:
        print_json({"network": described, **found.to_json()})
        return
    console.say(described)
    console.say()
    console.show_inspection(found)
    if graph is not None:
        console.written(graph)
