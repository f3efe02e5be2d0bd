"""``slimnet export``: ONNX with parity and latency, an exported program, or tensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimnet import console, options
from slimnet.cli.shared import inputs_of, open_any, print_json, use_threads
from slimnet.cli.targets import ONNX, PROGRAM, TENSORS, check_target
from slimnet.errors import InputError
from slimnet.files import Opened, dense_of
from slimnet.output import write_json
from slimnet.record import record_of
from slimnet.tensors_file import write_state, write_tensors


def export(
    slim: options.AnyNetwork,
    file: options.ExportedFile = None,
    onnx: options.Onnx = False,
    pt2: options.Pt2 = False,
    safetensors: options.Safetensors = False,
    against: options.TimedAgainst = None,
    batch: options.Batch = 1,
    latency: options.Latency = True,
    overwrite: options.Overwrite = False,
    arch: options.Arch = None,
    weights: options.Weights = None,
    input: options.Inputs = None,
    example: options.Example = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    threads: options.Threads = None,
) -> None:
    """Write ONNX, compare it with PyTorch, and time it against the dense network; or write .pt2,
    or .safetensors.

    Example: slimnet export slim.pt --onnx slim.onnx
    """
    from slimnet.export import export_onnx
    from slimnet.export.against import measure_against
    from slimnet.export.inputs import check_batch

    use_threads(threads)
    formats = {ONNX: onnx, PROGRAM: pt2, TENSORS: safetensors}
    asked = [kind for kind, wanted in formats.items() if wanted]
    if len(asked) != 1:
        raise InputError("name the format to export to: --onnx, or --pt2, or --safetensors")
    target = file or slim.with_suffix(asked[0].endings[0])
    check_target(target, asked[0], (slim, against, arch, example), overwrite=overwrite)
    opened = open_any(slim, arch, allow_pickle, weights, program=True)
    if safetensors:
        _export_tensors(opened, target, as_json=as_json)
        return
    inputs, described = inputs_of(slim, opened, input, example)
    if pt2:
        _export_pt2(opened, inputs, described, target, as_json=as_json)
        return
    check_batch(inputs, batch)
    dense = dense_of(opened, against, allow_pickle=allow_pickle) if latency else None
    with console.watching(quiet=as_json) as watch:
        watch("exporting", 0.0)
        exported = export_onnx(opened.model, inputs, target)
        measured = None
        if latency:
            watch("measuring latency", 0.5)
            measured = measure_against(target, dense, inputs, batch=batch, threads=threads)
    record = {
        "network": described,
        "onnx": exported.to_json(),
        "latency": None if measured is None else measured.to_json(),
    }
    write_json(target.with_name(f"{target.name}.json"), record)
    if as_json:
        print_json(record)
        return
    console.say(described)
    console.show_onnx(target, exported, measured)


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
    from slimnet.export import export_pt2

    extra = {} if opened.artifact is None else record_of(opened.artifact)
    written = export_pt2(opened.model, inputs, target, extra=extra)
    if as_json:
        print_json({"network": described, "pt2": written.to_json()})
        return
    console.say(described)
    console.show_program(target, written)
