"""Open an ONNX file in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from slimnet.errors import InputError
from slimnet.example import tensors_of
from slimnet.export.inputs import Example, batch_of, images_of
from slimnet.text import first_line

Feed = dict[str, np.ndarray[Any, Any]]
CPU = "CPUExecutionProvider"


def open_session(
    file: Path | bytes,
    *,
    providers: Sequence[str] = (CPU,),
    threads: int = 0,
    profile: Path | None = None,
    optimised: Path | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` that runs on ``threads`` threads (0: its own choice).

    ``file`` may be one that is in memory. With ``profile`` every node is timed, and the session
    writes what came of it beside that name when it ends its profiling. With ``optimised`` what it
    makes of the file is written there. Its threads rest between runs, so that two sessions in one
    process do not disturb each other. Raises InputError for a file that is missing or that
    onnxruntime cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; they arrive as exceptions too
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimised.name}.data"
        )
    if isinstance(file, Path) and not file.is_file():
        raise InputError(f"{file}: there is no such file; give an ONNX file")
    source = file if isinstance(file, bytes) else str(file)
    try:
        return onnxruntime.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base
        name = file.name if isinstance(file, Path) else "what is in memory"
        raise InputError(f"{name}: onnxruntime cannot run it: {first_line(error)}") from error


def feed(session: Any, inputs: Example) -> Feed:
    """The tensors of the inputs by the file's names; InputError where their number differs."""
    names = [entry.name for entry in session.get_inputs()]
    tensors = tensors_of(inputs)
    if len(names) != len(tensors):
        raise InputError(
            f"the ONNX file takes {len(names)} inputs ({', '.join(names)}), "
            f"the example holds {len(tensors)} tensors"
        )
    if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        raise InputError("onnxruntime takes no bfloat16 inputs: export the network in float32")
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def fixed_batch(session: Any) -> int | None:
    """The batch size that the file was written for; None where any will do."""
    shapes = [entry.shape for entry in session.get_inputs()]
    if any(isinstance(shape[0], str) for shape in shapes if shape):
        return None
    return next((shape[0] for shape in shapes if shape), None)


def check_batch_of(path: Path, session: Any, inputs: Example) -> None:
    """Raise InputError for inputs of another batch than the one that the file was written for."""
    batch = batch_of(inputs)
    fixed = len(session.get_inputs()) if images_of(inputs) else fixed_batch(session)
    if fixed not in (None, batch):
        raise InputError(
            f"{path} takes batch {fixed} only and was to run {batch}: set batch={fixed}"
        )


def takes_any_size(session: Any) -> bool:
    """Whether the inputs' axes but the first are free, as images [C, H, W] of any size are."""
    shapes = [entry.shape for entry in session.get_inputs()]
    return all(len(shape) > 1 and all(isinstance(n, str) for n in shape[1:]) for shape in shapes)


def frees_size(session: Any) -> bool:
    """Whether images [N, C, H, W] may be of any height and width."""
    shapes = [entry.shape for entry in session.get_inputs()]
    return any(len(shape) in (4, 5) and isinstance(shape[-1], str) for shape in shapes)


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, without a full stop, or else its kind."""
    return first_line(error).rstrip(".") or type(error).__name__
