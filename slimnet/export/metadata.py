"""What an ONNX file says of its origin: versions, the cut, and its proof.

Takes a plan and a certificate, gives texts by name for the file's ``metadata_props``, which any
viewer shows; :func:`read_metadata` reads them back. The plan itself is not in the file: its digest
tells whether a ``slim.pt`` holds the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from slimnet.digest import digest
from slimnet.errors import InputError
from slimnet.plan.plan import Plan
from slimnet.proof.certificate import Certificate
from slimnet.version import __version__

_VERSIONS = {"slimnet.version": __version__, "torch.version": str(torch.__version__)}
_PLAN, _CERTIFICATE = "slimnet.plan", "slimnet.certificate"


@dataclass(frozen=True)
class Metadata:
    """What a file says of its origin; None where it was not told."""

    versions: Mapping[str, str]  # "slimnet", "torch" → version
    plan: Mapping[str, Any] | None = None  # "digest", costs "before" and "after", "outputs" read
    certificate: Mapping[str, Any] | None = None  # "says", "error", "tolerance", "exact", "trained"


def metadata_of(
    plan: Plan, certificate: Certificate | None, *, trained: bool = False
) -> dict[str, str]:
    """A cut in short, for ``export_onnx(…, extra=…)``: its plan, and its certificate if any.

    ``trained`` says that the weights were changed after the cut: only its structure is proven.
    """
    cut = {
        "digest": plan_digest(plan),
        "before": dict(plan.before or {}),
        "after": dict(plan.after or {}),
        "outputs": list(plan.outputs),
    }
    texts = {_PLAN: json.dumps(cut)}
    if certificate is not None:
        proof = {
            "says": str(certificate),
            "error": certificate.error,
            "tolerance": certificate.tolerance,
            "exact": certificate.exact,
            "trained": trained,
        }
        texts[_CERTIFICATE] = json.dumps(proof)
    return texts


def plan_digest(plan: Plan) -> str:
    """32 hexadecimal digits; the same for the same plan, whatever file holds it."""
    return digest(json.loads(json.dumps(plan.to_json())))


def write_metadata(file: onnx.ModelProto, extra: Mapping[str, str]) -> None:
    """Put the versions and these texts into a file in memory, in place of what it said."""
    onnx.helper.set_model_props(file, {**_VERSIONS, **extra})


def read_metadata(path: str | Path) -> Metadata:
    """What a file says of its origin; raises InputError for one that slimnet did not write."""
    try:
        file = onnx.load(str(path), load_external_data=False)
        texts = {entry.key: entry.value for entry in file.metadata_props}
        parts = [json.loads(texts[key]) if key in texts else None for key in (_PLAN, _CERTIFICATE)]
    except Exception as error:  # protobuf's have no common base
        raise InputError(f"{path}: no ONNX file that can be read ({error})") from error
    if not _VERSIONS.keys() <= texts.keys():
        raise InputError(f"{path} does not say that slimnet wrote it: slimnet export does")
    versions = {key.partition(".")[0]: texts[key] for key in _VERSIONS}
    return Metadata(versions, *parts)
