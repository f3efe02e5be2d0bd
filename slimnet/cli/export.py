"""``slimnet export``: ONNX with parity and latency, an exported program, or tensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimnet.cli import commands, console, tables
from slimnet.cli.shared import inputs_of, open_any, print_json, use_threads
from slimnet.cli.targets import ONNX, PROGRAM, TENSORS, check_target
from slimnet.errors import InputError
from slimnet.export import export_onnx, export_pt2
from slimnet.export.against import measure_against
from slimnet.export.inputs import check_batch
from slimnet.files.access import Opened, dense_of
from slimnet.files.slim_file import record_of
from slimnet.files.tensors_file import write_state, write_tensors
from slimnet.output import write_json


def export(options: commands.Export) -> None:
    """Refuse, read, and write in the one format that was named."""
    slim, files = options.slim, options.files
    use_threads(options.run)
    formats = {ONNX: options.onnx, PROGRAM: options.pt2, TENSORS: options.safetensors}
    named = [kind for kind, wanted in formats.items() if wanted]
    if len(named) != 1:
        raise InputError("name the format to export to: --onnx, or --pt2, or --safetensors")
    target = options.file or slim.with_suffix(named[0].endings[0])
    reads = (slim, options.against, files.arch, files.example)
    check_target(target, named[0], reads, overwrite=files.overwrite)
    opened = open_any(slim, files, program=True)
    if options.safetensors:
        _export_tensors(opened, target, as_json=options.run.json)
        return
    inputs, described = inputs_of(slim, opened, files)
    if options.pt2:
        _export_pt2(opened, inputs, described, target, as_json=options.run.json)
        return
    _export_onnx(opened, inputs, described, target, options)


def _export_onnx(
    opened: Opened,
    inputs: tuple[Any, ...],
    described: str,
    target: Path,
    options: commands.Export,
) -> None:
    batch, run, latency = options.batch, options.run, options.latency
    allow_pickle = options.files.allow_pickle
    check_batch(inputs, batch)
    dense = dense_of(opened, options.against, allow_pickle=allow_pickle) if latency else None
    with console.watching(quiet=run.json) as watch:
        watch("exporting", 0.0)
        exported = export_onnx(opened.model, inputs, target)
        measured = None
        if latency:
            watch("measuring latency", 0.5)
            measured = measure_against(target, dense, inputs, batch=batch, threads=run.threads)
    record = {
        "network": described,
        "onnx": exported.to_json(),
        "latency": None if measured is None else measured.to_json(),
    }
    write_json(target.with_name(f"{target.name}.json"), record)
    if run.json:
        print_json(record)
        return
    console.say(described)
    tables.show_onnx(target, exported, measured)


def _export_tensors(opened: Opened, target: Path, *, as_json: bool) -> None:
    if opened.artifact is None:
        write_state(opened.model, target)
    else:
        write_tensors(opened.artifact, target)
    if as_json:
        print_json({"safetensors": {"path": str(target), "size_bytes": target.stat().st_size}})
        return
    console.written(target)


def _export_pt2(
    opened: Opened, inputs: tuple[Any, ...], described: str, target: Path, *, as_json: bool
) -> None:
    extra = {} if opened.artifact is None else record_of(opened.artifact)
    written = export_pt2(opened.model, inputs, target, extra=extra)
    if as_json:
        print_json({"network": described, "pt2": written.to_json()})
        return
    console.say(described)
    tables.show_program(target, written)
