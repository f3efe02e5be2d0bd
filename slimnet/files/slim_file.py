"""A slim network in any of its files: ``slim.pt``, ``.safetensors``, a program with its record.

A ``.pt2`` that slimnet writes carries the plan and the certificate as a text beside the network, so
that it can be proven, and pruned, again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from slimnet.errors import InputError
from slimnet.files.artifact import FORMAT, Artifact, is_artifact, make_artifact, read_artifact
from slimnet.files.tensors_file import SUFFIX, is_slim_tensors, read_tensors
from slimnet.limits import from_json
from slimnet.networks.payload import is_program_file, load_payload
from slimnet.plan.plan import Plan
from slimnet.program.archive import holds_text
from slimnet.program.pt2 import read_pt2
from slimnet.proof.certificate import Certificate

RECORD = "slimnet.json"
"""The name of the text."""


def record_of(artifact: Artifact) -> dict[str, str]:
    """What a ``.pt2`` carries beside the network, by name."""
    record = {
        "format": FORMAT,
        "plan": artifact.plan.to_json(),
        "certificate": artifact.certificate.to_json() if artifact.certificate else None,
        "versions": dict(artifact.versions or {}),
        "trained": artifact.trained,
    }
    return {RECORD: json.dumps(record)}


def is_slim(path: str | Path) -> bool:
    """Whether slimnet cut the network in this file; raises :class:`InputError` for no network."""
    if Path(path).suffix.lower() == SUFFIX:
        return is_slim_tensors(path)
    if is_program_file(path):
        return holds_text(path, RECORD)
    return is_artifact(load_payload(path, foreign=True))


def read_slim(path: str | Path) -> Artifact:
    """Read a slim network without running code from its file; raises :class:`InputError`."""
    if Path(path).suffix.lower() == SUFFIX:
        return read_tensors(path)
    if not is_program_file(path):
        return read_artifact(path)
    exported = read_pt2(path)
    if RECORD not in exported.extra:
        raise InputError(
            f"{path} is an exported program that slimnet did not cut; slimnet prune cuts it"
        )
    try:
        record = from_json(exported.extra[RECORD], RECORD)
        plan, proof = Plan.from_json(record["plan"]), record["certificate"]
        certificate = None if proof is None else Certificate.from_json(proof)
        versions, trained = dict(record["versions"]), bool(record["trained"])
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"{path} holds a damaged record of its cut: {error}") from error
    artifact = make_artifact(exported.program, plan, certificate, exported.example, trained=trained)
    return replace(artifact, versions=versions)
