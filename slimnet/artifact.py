"""``slim.pt``: a slim network in one file that loads without running code from it.

Holds tensors, plan, certificate, what built the architecture, the inputs that it was recorded with
and versions; where the architecture is the user's own, also the network as a program of ATen calls.
A built-in or torchvision architecture is rebuilt from its name, then cut to the stored shapes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.arch import Arch, parse_arch
from slimnet.checkpoint import load_payload
from slimnet.errors import InputError
from slimnet.modules import clone, first_names, named_tensors
from slimnet.plan import Change, Plan
from slimnet.program import Program, record_program
from slimnet.rebuild import adjust
from slimnet.verify import Certificate
from slimnet.version import __version__

FORMAT = 1
_KEY = "slimnet_artifact"


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a ``slim.pt`` holds. The plan is relative to the architecture as it was built."""

    tensors: Mapping[str, Tensor]
    plan: Plan
    certificate: Certificate | None
    arch: Arch | None
    example: tuple[Any, ...]
    frozen: tuple[str, ...] = ()  # parameters that do not require gradients
    program: Mapping[str, Any] | None = None
    class_name: str = ""
    versions: Mapping[str, str] | None = None
    trained: bool = False  # weights changed after the cut

    def model(self, into: nn.Module | None = None) -> nn.Module:
        """The slim network: of the user's class where it is known, else the embedded program.

        ``into`` is the dense network as the user's code builds it; it is not changed. Raises
        :class:`InputError` where neither is there.
        """
        if into is None and self.arch is not None and self.arch.source != "file":
            into = self.arch.build()
        if into is not None:
            return self._fill(into)
        if self.program is None:
            raise InputError(
                f"this slim network is of the class {self.class_name}, which is not known here, "
                "and no program could be embedded; load it with into=make_model()"
            )
        return Program(self.program, self.tensors).eval()

    def _fill(self, dense: nn.Module) -> nn.Module:
        self._check_fits(dense)
        first = first_names(dense)
        slim = clone(dense, lambda name, _: self.tensors[first[name]].clone())
        for name, tensor in named_tensors(slim):
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(name not in self.frozen)
        adjust(slim, self.plan)
        return slim

    def _check_fits(self, dense: nn.Module) -> None:
        for name, tensor in named_tensors(dense):
            stored = self.tensors.get(name)
            removed = self.plan.removed.get(name, {})
            shape = [n - len(removed.get(d, ())) for d, n in enumerate(tensor.shape)]
            if stored is None or list(stored.shape) != shape:
                raise InputError(
                    f"this slim network was not cut from {type(dense).__name__}: {name} would have "
                    f"the shape {tuple(shape)}, and the file holds "
                    f"{tuple(stored.shape) if stored is not None else 'none'}"
                )


def make_artifact(
    model: nn.Module,
    plan: Plan,
    certificate: Certificate | None,
    example: tuple[Any, ...],
    arch: Arch | str | None = None,
    *,
    trained: bool = False,
) -> Artifact:
    """Everything that a file needs to give ``model`` back."""
    built = parse_arch(arch) if isinstance(arch, str) else arch
    tensors = {name: t.detach() for name, t in named_tensors(model)}
    own = built is None or built.source == "file"
    return Artifact(
        tensors=tensors,
        plan=plan,
        certificate=certificate,
        arch=built,
        example=example,
        frozen=tuple(
            name
            for name, t in named_tensors(model)
            if isinstance(t, nn.Parameter) and not t.requires_grad
        ),
        program=record_program(model.eval(), example) if own else None,
        class_name=f"{type(model).__module__}.{type(model).__qualname__}",
        versions=_versions(),
        trained=trained,
    )


def write_artifact(artifact: Artifact, path: str | Path) -> Path:
    """Write to a temporary name and move; raises :class:`InputError` where that is impossible."""
    payload = {
        _KEY: FORMAT,
        "tensors": dict(artifact.tensors),
        "plan": artifact.plan.to_json(),
        "certificate": artifact.certificate.to_json() if artifact.certificate else None,
        "arch": artifact.arch.to_json() if artifact.arch else None,
        "example": [_described(value) for value in artifact.example],
        "frozen": list(artifact.frozen),
        "program": artifact.program,
        "class": artifact.class_name,
        "versions": dict(artifact.versions or {}),
        "trained": artifact.trained,
    }
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent or ".", prefix=f".{target.name}.")
        os.close(handle)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from error
    try:
        torch.save(payload, temporary)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_artifact(payload: Any) -> bool:
    """Whether a loaded file is one of ours."""
    return isinstance(payload, dict) and _KEY in payload


def read_artifact(path: str | Path) -> Artifact:
    """Read a ``slim.pt`` without running code from it; raises :class:`InputError`."""
    payload = load_payload(path)
    if not is_artifact(payload):
        raise InputError(f"{path} is no slim network of slimnet; slimnet prune makes one")
    if payload[_KEY] != FORMAT:
        raise InputError(
            f"{path} has format {payload[_KEY]}, and this slimnet reads format {FORMAT}"
        )
    try:
        certificate = payload["certificate"]
        return Artifact(
            tensors=payload["tensors"],
            plan=Plan.from_json(payload["plan"]),
            certificate=Certificate.from_json(certificate) if certificate else None,
            arch=Arch.from_json(payload["arch"]) if payload["arch"] else None,
            example=tuple(_drawn(value) for value in payload["example"]),
            frozen=tuple(payload["frozen"]),
            program=payload["program"],
            class_name=payload["class"],
            versions=payload["versions"],
            trained=payload["trained"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is a damaged slim network: {error!r} is missing") from error


def _described(value: Any) -> Any:
    """An input as plain data: tensors by shape and type, integers by value."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return value.detach().cpu().clone()
    if isinstance(value, (list, tuple)):
        return [_described(entry) for entry in value]
    if isinstance(value, dict):
        return {"dict": {key: _described(entry) for key, entry in value.items()}}
    return value


def _drawn(value: Any) -> Any:
    """An input of the described shape, the same numbers every time."""
    if isinstance(value, dict) and "shape" in value:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(value["shape"], generator=generator).to(getattr(torch, value["dtype"]))
    if isinstance(value, dict):
        return {key: _drawn(entry) for key, entry in value["dict"].items()}
    if isinstance(value, list):
        return [_drawn(entry) for entry in value]
    return value


def _versions() -> dict[str, str]:
    return {"slimnet": __version__, "torch": str(torch.__version__)}


def compose(first: Plan, second: Plan, model: nn.Module) -> Plan:
    """One plan for two cuts in a row; ``model`` is the dense network that the first one cut."""
    tensors = dict(named_tensors(model))
    removed: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        axes = {
            d: _both(n, first.removed.get(name, {}).get(d, ()), second.removed.get(name, {}).get(d, ()))
            for d, n in enumerate(tensor.shape)
        }
        if any(axes.values()):
            removed[name] = {d: indices for d, indices in axes.items() if indices}
    return Plan(
        removed=removed,
        changes=_chained(first.changes, second.changes),
        remapped=_after(first.remapped or {}, second.remapped or {}),
        groups=(*first.groups, *second.groups),
        untouched=second.untouched,
        asked=second.asked,
        before=first.before,
        after=second.after,
        notes=(*first.notes, *second.notes, "pruned in two steps"),
    )


def _both(length: int, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Indices of the dense axis that one of two cuts removes."""
    alive = np.ones(length, bool)
    alive[list(first)] = False
    survivors = np.flatnonzero(alive)
    alive[survivors[list(second)]] = False
    return tuple(np.flatnonzero(~alive).tolist())


def _chained(first: tuple[Change, ...], second: tuple[Change, ...]) -> tuple[Change, ...]:
    merged = {(c.module, c.attribute, c.path): c for c in first}
    for change in second:
        key = (change.module, change.attribute, change.path)
        old = merged[key].old if key in merged else change.old
        merged[key] = Change(*key, old, change.new)
    return tuple(merged.values())


def _after(
    first: Mapping[str, tuple[int, ...]], second: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Renumbering by two cuts: old place → place after both."""
    merged = dict(first)
    for name, table in second.items():
        merged[name] = tuple(table[i] for i in first[name]) if name in first else table
    return merged
