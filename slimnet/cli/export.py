"""``slimnet export``: a network in one of the formats of :data:`slimnet.formats.FORMATS`."""

from __future__ import annotations

from typing import Any

from slimnet.cli import commands, console, tables
from slimnet.cli.calibration import task_called
from slimnet.cli.shared import inputs_of, open_any, print_json, use_threads
from slimnet.cli.targets import Format, check_target
from slimnet.errors import InputError
from slimnet.files.access import Opened
from slimnet.formats import (
    FORMATS,
    Calibrated,
    Exported,
    ExportFormat,
    ExportRequest,
    Variant,
)
from slimnet.planning.returned import still_read


def export(options: commands.Export) -> None:
    """Refuse, read, write in the one format that was named, show."""
    slim, files, run = options.slim, options.files, options.run
    use_threads(run)
    kind = FORMATS[_name(options)]
    if options.cut.outputs and not kind.selects:
        raise InputError(
            f"{kind.title} holds the whole network: leave --outputs out, or export to --onnx"
        )
    _check_form(options, kind)
    timing = (options.against, options.backend, options.batch if options.batch != 1 else None)
    if not kind.timed and timing != (None, None, None):
        raise InputError(
            f"{kind.title} is not timed: leave --against, --backend and --batch out, or export to "
            "--onnx"
        )
    target = options.file or slim.with_suffix(kind.endings[0])
    reads = (slim, options.against, options.data, files.arch, files.example)
    wanted = Format(kind.title, kind.endings, beside=kind.beside)
    check_target(target, wanted, reads, overwrite=files.overwrite)
    opened = open_any(slim, files, program=True)
    example, described = inputs_of(slim, opened, files) if kind.runs else ((), "")
    with console.watching(quiet=run.json) as watch:
        request = ExportRequest(
            opened,
            target,
            example,
            described,
            _outputs(opened, options),
            against=options.against,
            batch=options.batch,
            latency=options.latency,
            backend=options.backend or "onnxruntime",
            threads=run.threads,
            allow_pickle=files.allow_pickle,
            variant=_variant(options, example),
            watch=watch,
        )
        exported = kind.write(request)
    if run.json:
        print_json(exported.record)
    else:
        _show(request, exported)


def _name(options: commands.Export) -> str:
    """Of the format."""
    flags = {"onnx": options.onnx, "pt2": options.pt2, "safetensors": options.safetensors}
    named = [name for name, wanted in flags.items() if wanted]
    named += [options.format] if options.format else []
    if len(named) != 1:
        raise InputError("name the format to export to: --onnx, or --pt2, or --safetensors")
    return named[0]


def _check_form(options: commands.Export, kind: ExportFormat) -> None:
    """Refuse forms that the format does not have, or that exclude each other."""
    forms = {
        "--opset": options.opset is not None,
        "--dynamic-size": options.dynamic_size,
        "--fp16": options.fp16,
        "--int8": options.int8,
    }
    named = [name for name, wanted in forms.items() if wanted]
    if named and not kind.varies:
        raise InputError(f"{kind.title} has one form: leave {named[0]} out, or export to --onnx")
    if options.fp16 and options.int8:
        raise InputError("--fp16 and --int8 are two files: give one of them at a time")
    if options.against is not None and (options.fp16 or options.int8):
        raise InputError(
            f"{named[-1]} is timed against the float32 file of the same network: leave --against "
            "out"
        )
    if options.int8 and options.data is None:
        raise InputError("--int8 finds ranges, and measures, with data: add --data")


def _variant(options: commands.Export, example: tuple[Any, ...]) -> Variant:
    """The form that was asked for; data are read here."""
    int8 = None
    if options.int8 and options.data is not None:
        task = task_called(options.data, options.normalize, example)
        int8 = Calibrated(task, options.samples, options.run.seed, options.keep_slower)
    return Variant(options.opset, options.dynamic_size, options.fp16, int8)


def _outputs(opened: Opened, options: commands.Export) -> tuple[str, ...]:
    """Those that were named, else those that were read when the network was cut."""
    return still_read(
        options.cut.outputs, () if opened.artifact is None else opened.artifact.plan.outputs
    )


def _show(request: ExportRequest, exported: Exported) -> None:
    if request.described:
        console.say(request.described)
    if exported.table:
        tables.show_measured(exported.table)
    console.written(request.target, exported.summary)
    for sentence in exported.sentences:
        console.say(sentence)
    if exported.conditions:
        console.note(exported.conditions)
