"""``slimnet sensitivity``: which groups can spare channels."""

from __future__ import annotations

from dataclasses import replace

from slimnet.cli import commands, console
from slimnet.cli.calibration import (
    calibration_of,
    check_recognised,
    network_before,
    outputs_asked,
    read_images,
)
from slimnet.cli.shared import inputs_of, on_device, open_any, place_of, print_json
from slimnet.cli.targets import PAGE, check_target
from slimnet.comparison import versions
from slimnet.criteria import check_needs
from slimnet.report.sensitivity import (
    cheapest_sentence,
    measured_sentence,
    sensitivity_table,
    write_sensitivity,
)
from slimnet.study.curves import Sensitivity
from slimnet.study.curves import sensitivity as measure_sensitivity


def sensitivity(options: commands.Sensitivity) -> None:
    """Refuse, read, measure, write, show."""
    files, run, data = options.files, options.run, options.data
    request = replace(options.cuts, seed=run.seed)
    place = place_of(run)
    check_needs(request.criterion, data=data is not None, init=options.init is not None)
    reads = (options.model, options.init, data, files.arch, files.example)
    check_target(options.output, PAGE, reads, overwrite=files.overwrite)
    opened = open_any(options.model, files)
    inputs, described = inputs_of(options.model, opened, files)
    with console.watching(quiet=run.json) as watch:
        watch("reading images", 0.0)
        before = network_before(options.init, opened, allow_pickle=files.allow_pickle)
        drawn = calibration_of(data, options.normalize, options.samples, inputs)
        images = None if drawn is None else drawn.test_samples(opened.model)
        request = replace(request, outputs=outputs_asked(request.outputs, drawn))
        check_recognised(options.model, opened, images)
        reads_images = drawn is not None and read_images([request.criterion])
        calibration = drawn.samples(run.seed, opened.model) if drawn and reads_images else None
        network, inputs = on_device(place, opened.model, inputs)
        measured = measure_sensitivity(
            network,
            inputs,
            images,
            calibration=calibration,
            init=None if before is None else before.tensors,
            watch=watch,
            **vars(request),
        )
    title = f"Sensitivity of {options.model.name}"
    write_sensitivity(options.output, measured, title, versions())
    if run.json:
        record = {"network": described, "page": str(options.output)}
        print_json({**record, **measured.to_json()})
    else:
        _show(measured, described, options)


def _show(measured: Sensitivity, described: str, options: commands.Sensitivity) -> None:
    console.say(described)
    console.say()
    console.show(sensitivity_table(measured))
    console.say(measured_sentence(measured))
    if cheapest := cheapest_sentence(measured):
        console.say(cheapest)
    for layer, why in measured.skipped:
        console.say(f"{layer} was not measured: {why}")
    console.written(options.output)
