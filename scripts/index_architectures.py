#!/usr/bin/env python3
"""Write slimnet/models/architectures.json: the fingerprints of all known architectures.

usage: index_architectures.py

Run it after a change of the built-in networks, or for a new torchvision. Each architecture is
built twice per option that sets an axis; the axes that differ are the option's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from slimnet.models import MODELS
from slimnet.networks.arch import INDEX, Arch, indexed
from slimnet.networks.sources import torchvision_names

AUXILIARY = {  # heads for training that a checkpoint may hold or lack
    "googlenet": {"aux_logits": False},
    "inception_v3": {"aux_logits": False},
    "deeplabv3_mobilenet_v3_large": {"aux_loss": True},
    "deeplabv3_resnet101": {"aux_loss": True},
    "deeplabv3_resnet50": {"aux_loss": True},
    "fcn_resnet101": {"aux_loss": True},
    "fcn_resnet50": {"aux_loss": True},
}


def main() -> None:
    """Index every architecture and replace the file."""
    rows = [indexed(arch).to_json() for arch in architectures()]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    INDEX.write_text(f"[\n{lines}\n]\n", "utf-8")
    print(f"{INDEX}: {len(rows)} architectures")


def architectures() -> Iterator[Arch]:
    """List what is indexed: the built-in networks and torchvision's."""
    for name in MODELS:
        yield Arch("slimnet", name)
    for name in torchvision_names():
        yield Arch("torchvision", name)
        if name in AUXILIARY:
            yield Arch("torchvision", name, AUXILIARY[name])


if __name__ == "__main__":
    main()
