"""``slimnet sensitivity``: which groups can spare channels."""

from __future__ import annotations

from pathlib import Path

from slimnet import console, options
from slimnet.calibration import (
    check_recognised,
    network_before,
    read_images,
    read_samples,
    read_test_images,
)
from slimnet.capture.modules import named_tensors
from slimnet.cli.shared import inputs_of, on_device, open_any, print_json, use_threads
from slimnet.cli.targets import PAGE, check_target
from slimnet.criteria import check_needs


def sensitivity(
    model: options.ModelFile,
    data: options.Measured = None,
    output: options.Page = Path("sensitivity.html"),
    points: options.Points = 5,
    criterion: options.OneCriterion = "l1",
    across: options.Across = None,
    reduce: options.Reduce = None,
    normalize: options.Normalize = None,
    samples: options.MeasuredImages = 512,
    init: options.Init = None,
    heads: options.Heads = False,
    overwrite: options.Overwrite = False,
    arch: options.Arch = None,
    weights: options.Weights = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Cut each group alone to several widths: accuracy, or the change of the outputs.

    Example: slimnet sensitivity resnet56.pt --data npz:cifar10.npz -o sensitivity.html
    """
    from slimnet.comparison import versions
    from slimnet.report.sensitivity import measured_sentence, sensitivity_table, write_sensitivity
    from slimnet.study.curves import sensitivity as measure_sensitivity

    use_threads(threads)
    check_needs(criterion, data=data is not None, init=init is not None)
    files = (model, init, data, arch, example)
    check_target(output, PAGE, files, overwrite=overwrite)
    place = options.device(device)
    opened = open_any(model, arch, allow_pickle, weights)
    inputs, described = inputs_of(model, opened, input, example)
    with console.watching(quiet=as_json) as watch:
        watch("reading images", 0.0)
        reads = data if read_images([criterion]) else None
        before = network_before(init, opened, allow_pickle=allow_pickle)
        images = read_test_images(data, normalize, samples, inputs)
        check_recognised(model, opened, images)
        calibration = read_samples(reads, normalize, samples, inputs, seed)
        network, inputs = on_device(place, opened.model, inputs)
        found = measure_sensitivity(
            network,
            inputs,
            images,
            points=points,
            criterion=criterion,
            across=across,
            reduce=reduce,
            calibration=calibration,
            init=None if before is None else dict(named_tensors(before)),
            heads=heads,
            seed=seed,
            watch=watch,
        )
    write_sensitivity(output, found, f"Sensitivity of {model.name}", versions())
    if as_json:
        print_json({"network": described, "page": str(output), **found.to_json()})
        return
    console.say(described)
    console.say()
    console.show(sensitivity_table(found))
    console.say(measured_sentence(found))
    for layer, why in found.skipped:
        console.say(f"{layer} was not measured: {why}")
    console.written(output)
