"""A training that survives a kill: its latest snapshot in one file beside the result.

The file says which training it is of. Started again with the same arguments, that training goes on
from there to the same weights; one of another is set aside, and so is a damaged one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimnet.digest import sealed, unsealed, weights_digest
from slimnet.errors import InputError
from slimnet.example import map_tensors
from slimnet.networks.payload import load_payload
from slimnet.output import set_aside, write_torch
from slimnet.progress import remark
from slimnet.train.snapshot import Snapshot
from slimnet.version import __version__


def checkpoint_of(output: Path) -> Path:
    """Where the training that makes ``output`` is kept until it is through."""
    return output.with_name(f"{output.name}.training")


def state_of(model: nn.Module) -> dict[str, Any]:
    """A plain state dict, on the CPU."""
    state = model.state_dict().items()
    return {name: x.detach().cpu() if isinstance(x, Tensor) else x for name, x in state}


def write_state(model: nn.Module, output: Path) -> None:
    """Write a plain state dict, whole or not at all, and forget the training's checkpoint."""
    write_torch(output, state_of(model))
    checkpoint_of(output).unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the latest snapshot of one training."""

    path: Path
    identity: Mapping[str, Any]  # what the training depends on

    @classmethod
    def of(cls, path: Path, model: nn.Module, identity: Mapping[str, Any]) -> Checkpoint:
        """That of a training of ``model`` as it is now, with these settings."""
        own = {"slimnet": __version__, "weights": weights_digest(model)}
        return cls(path, {**own, **identity})

    def read(self) -> Snapshot | None:
        """The snapshot of this training; None where there is none."""
        if not self.path.exists():
            return None
        try:
            payload = unsealed(load_payload(self.path))
            identity, state = dict(payload["identity"]), payload["snapshot"]
            if identity == dict(self.identity):
                # a copy: the file that these are mapped from is about to be replaced
                return Snapshot.from_payload(map_tensors(Tensor.clone, state))
        except (InputError, KeyError, TypeError, AttributeError, ValueError):
            self._set_aside("damaged", "is damaged")
            return None
        others = [name for name in self.identity if identity.get(name) != self.identity[name]]
        self._set_aside("other", f"is of a training with other {' and '.join(others)}")
        return None

    def _set_aside(self, kind: str, why: str) -> None:
        aside = set_aside(self.path, kind)
        remark(f"{self.path} {why}: it is kept as {aside.name}, and the training starts anew")

    def write(self, snapshot: Snapshot) -> None:
        """Whole or not at all, in the place of the one before."""
        content = {"identity": dict(self.identity), "snapshot": snapshot.to_payload()}
        write_torch(self.path, sealed(content))
