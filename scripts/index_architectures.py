#!/usr/bin/env python3
"""Write slimnet/models/architectures.json: the fingerprints of all known architectures.

usage: index_architectures.py

Run it after a change of the built-in networks, or for a new torchvision. Each architecture is
built twice per option that sets an axis; the axes that differ are the option's.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import torchvision.models

from slimnet.arch import INDEX, Arch, shapes_of
from slimnet.models import MODELS
from slimnet.models.fingerprint import Fingerprint, fingerprint, freedom

OTHER = 7  # a length that no architecture has by default
AUXILIARY = ("googlenet", "inception_v3")  # with and without their training-time heads


def main() -> None:
    """Index every architecture and replace the file."""
    rows = [indexed(arch).to_json() for arch in architectures()]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    INDEX.write_text(f"[\n{lines}\n]\n", "utf-8")
    print(f"{INDEX}: {len(rows)} architectures")


def architectures() -> Iterator[Arch]:
    """List what is indexed: the built-in networks and torchvision's classifiers."""
    for name in MODELS:
        yield Arch("slimnet", name)
    for name in torchvision.models.list_models(module=torchvision.models):
        yield Arch("torchvision", name)
        if name in AUXILIARY:
            yield Arch("torchvision", name, {"aux_logits": False})


def indexed(arch: Arch) -> Fingerprint:
    """Build an architecture and take its fingerprint."""
    shapes = _shapes(arch)
    freedoms = {
        option: freedom(default, shapes, _shapes(_with(arch, option, OTHER)))
        for option, default in _defaults(arch).items()
    }
    return fingerprint(str(arch), arch.options, shapes, freedoms)


def _defaults(arch: Arch) -> dict[str, int]:
    if arch.source == "torchvision":
        return {"num_classes": 1000}
    parameters = inspect.signature(MODELS[arch.name].make).parameters
    return {option: parameters[option].default for option in ("num_classes", "in_channels")}


def _with(arch: Arch, option: str, length: int) -> Arch:
    return Arch(arch.source, arch.name, {**arch.options, option: length})


def _shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    return shapes_of(arch.build().state_dict())


if __name__ == "__main__":
    main()
