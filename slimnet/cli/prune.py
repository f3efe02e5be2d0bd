"""``slimnet prune``: cut, prove, and repair where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimnet import console, options
from slimnet.calibration import check_recognised, network_before, read_samples
from slimnet.cli.shared import inputs_of, on_device, open_any, print_json, use_threads, write_slim
from slimnet.cli.targets import SLIM, check_target
from slimnet.network import Network
from slimnet.prune import prune as prune_network


def prune(
    model: options.ModelFile,
    ratio: options.Ratio = None,
    macs: options.Macs = None,
    params: options.Params = None,
    bytes: options.Bytes = None,
    output: options.SlimFile = Path("slim.pt"),
    criterion: options.Criterion = None,
    across: options.Across = None,
    reduce: options.Reduce = None,
    data: options.Calibration = None,
    normalize: options.Normalize = None,
    samples: options.Samples = 1024,
    init: options.Init = None,
    scope: options.Scope = None,
    repair: options.Repair = False,
    align: options.AlignTo = "auto",
    min_channels: options.MinChannels = None,
    keep: options.Keep = None,
    layer_ratio: options.LayerRatio = None,
    steps: options.Steps = 1,
    heads: options.Heads = False,
    drop_blocks: options.DropBlocks = None,
    best_effort: options.BestEffort = False,
    overwrite: options.Overwrite = False,
    arch: options.Arch = None,
    weights: options.Weights = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    verify: options.Verify = True,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Cut a network down and prove the result; writes slim.pt, or an exported slim.pt2.

    Example: slimnet prune resnet18.pt --ratio 0.5 -o slim.pt
    """
    use_threads(threads)
    settings: dict[str, Any] = {
        "ratio": ratio,
        "macs": macs,
        "params": params,
        "bytes": options.size(bytes),
        "criterion": criterion,
        "across": across,
        "reduce": reduce,
        "drop_blocks": options.blocks(drop_blocks),
        **options.limits(scope, align, min_channels, keep, layer_ratio),
    }
    options.check_cut(**settings)
    options.check_data(criterion, repair, data=data is not None, init=init is not None)
    place = options.device(device)
    reads = (model, init, data, arch, example)
    check_target(output, SLIM, reads, overwrite=overwrite)
    opened = open_any(model, arch, allow_pickle, weights)
    inputs, described = inputs_of(model, opened, input, example)
    with console.watching(quiet=as_json) as watch:
        images = read_samples(data, normalize, samples, inputs, seed)
        told = check_recognised(model, opened, images)
        before = network_before(init, opened, allow_pickle=allow_pickle)
        watch("cutting and proving" if verify else "cutting", 0.0)
        network, inputs = on_device(place, opened.model, inputs)
        pruned = prune_network(
            network,
            inputs,
            data=images,
            init=None if before is None else Network.of(before).tensors,
            steps=steps,
            heads=heads,
            best_effort=best_effort,
            repair=repair,
            seed=seed,
            verify=verify,
            watch=watch,
            **settings,
        )
        watch("writing", 0.9)
        write_slim(opened.artifact_of(pruned), pruned.model, output)
    proof = pruned.certificate
    if as_json:
        record = {"network": described, "output": str(output), "plan": pruned.plan.to_json()}
        parts = {"certificate": proof, "repair": pruned.repair}
        print_json(record | {name: part and part.to_json() for name, part in parts.items()})
        return
    console.say("; ".join(filter(None, (described, told))))
    console.say()
    console.show_cut(pruned.plan)
    console.show_proof(proof)
    if pruned.repair is not None:
        console.show_repair(pruned.repair)
    console.written(output)
    if bytes is not None:
        console.say(f"it takes {output.stat().st_size:,} bytes: the plan lies in it, too")
