"""A slim network as ``.safetensors``: its tensors, and as metadata all else but the program.

Any tool reads the tensors. slimnet reads the network back where its class is known: by the
architecture that the metadata name, or that ``--arch`` or ``into`` give. Tensors that are one are
stored once, under their first name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.digest import SEAL, seal_of
from slimnet.errors import InputError
from slimnet.files.artifact import FORMAT, Artifact, check_size, dense_tensors, describe, draw
from slimnet.limits import checked_path, from_json
from slimnet.network import Network
from slimnet.networks.arch import Arch
from slimnet.networks.payload import load_payload, read_metadata
from slimnet.output import write_bytes
from slimnet.plain import decode, encode
from slimnet.plan.plan import Plan
from slimnet.proof.certificate import Certificate
from slimnet.version import __version__

SUFFIX = ".safetensors"
_PARTS = ("plan", "certificate", "arch", "example", "frozen", "shared", "states", "versions")


def write_tensors(artifact: Artifact, path: Path) -> Path:
    """Write a slim network; raises :class:`InputError` for a place that cannot be written."""
    first = _first_names(artifact.tensors)
    certificate, arch = artifact.certificate, artifact.arch
    parts = {
        "plan": artifact.plan.to_json(),
        "certificate": None if certificate is None else certificate.to_json(),
        "arch": None if arch is None else arch.to_json(),
        "example": encode(artifact.example, _json_leaf),
        "frozen": list(artifact.frozen),
        "shared": {name: other for name, other in first.items() if name != other},
        "states": {p: encode(decode(s, _same), _by_numbers) for p, s in artifact.states.items()},
        "versions": dict(artifact.versions or {}),
    }
    texts = {name: json.dumps(part) for name, part in parts.items()}
    plain = {"class": artifact.class_name, "trained": json.dumps(artifact.trained)}
    return _write(artifact.tensors, first, {"slimnet": str(FORMAT), **plain, **texts}, path)


def write_state(model: nn.Module, path: Path) -> Path:
    """Write any network's parameters and buffers; raises as :func:`write_tensors` does."""
    network = Network.of(model)
    return _write(network.tensors, network.first, {"versions": f"slimnet {__version__}"}, path)


def _write(
    tensors: Mapping[str, Tensor], first: Mapping[str, str], texts: dict[str, str], path: Path
) -> Path:
    from safetensors.torch import save

    stored = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items() if first[n] == n}
    texts = {"format": "pt", **texts}
    # in memory: a full disk is then an error that says so
    write_bytes(path, save(stored, {**texts, SEAL: seal_of(stored, texts)}))
    return path


def _first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For every name the first one of the same tensor."""
    firsts: dict[Any, str] = {}
    return {name: firsts.setdefault(_place(t) or name, name) for name, t in tensors.items()}


def _place(tensor: Tensor) -> Any:
    if not tensor.numel():
        return None
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def is_slim_tensors(path: str | Path) -> bool:
    """Whether slimnet cut the network in a ``.safetensors`` file."""
    return "slimnet" in read_metadata(path)


def read_tensors(path: str | Path) -> Artifact:
    """Read what :func:`write_tensors` wrote; raises :class:`InputError`."""
    texts = read_metadata(path)
    if "slimnet" not in texts:
        raise InputError(f"{path} is no slim network of slimnet; slimnet prune makes one")
    if texts["slimnet"] != str(FORMAT):
        raise InputError(
            f"{path} has format {texts['slimnet']!r:.40}, and this slimnet reads format {FORMAT}"
        )
    try:
        return _artifact({name: from_json(texts[name], name) for name in _PARTS}, texts, path)
    except KeyError as error:
        raise InputError(f"{path} is a damaged slim network: it lacks {error}") from error
    except (TypeError, ValueError, AttributeError, RuntimeError, InputError) as error:
        raise InputError(f"{path} is a damaged slim network: {error}") from error


def _artifact(parts: Mapping[str, Any], texts: Mapping[str, str], path: str | Path) -> Artifact:
    tensors = load_payload(path)
    shared = {name: tensors[first] for name, first in dict(parts["shared"]).items()}
    check_size(parts["example"])
    example = decode(parts["example"], _drawn)
    if not isinstance(example, tuple):
        raise InputError("its example inputs are no tuple")
    certificate, arch = parts["certificate"], parts["arch"]
    return Artifact(
        tensors=dense_tensors({**tensors, **shared}),
        plan=Plan.from_json(parts["plan"]),
        certificate=None if certificate is None else Certificate.from_json(certificate),
        arch=None if arch is None else Arch.from_json(arch),
        example=example,
        frozen=tuple(map(checked_path, parts["frozen"])),
        class_name=texts["class"],
        versions={str(name): str(value) for name, value in dict(parts["versions"]).items()},
        trained=texts["trained"] == "true",
        states={
            checked_path(path, "module"): encode(decode(state, _numbered), _same)
            for path, state in dict(parts["states"]).items()
        },
    )


def _same(leaf: Any) -> Any:
    return leaf


def _json_leaf(value: Any) -> Any:
    """An input in JSON: many numbers by shape, type and range, other tensors by their numbers."""
    described = describe(value)
    return described if "shape" in described else _by_numbers(described["value"])


def _by_numbers(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
        raise InputError(".safetensors cannot say complex numbers: write slim.pt")
    if not isinstance(value, Tensor):
        return {"value": value}
    kind = str(value.dtype).removeprefix("torch.")
    return {"numbers": value.tolist(), "dtype": kind}


def _drawn(leaf: Any) -> Any:
    return _numbered(leaf) if "numbers" in leaf else draw(leaf)


def _numbered(leaf: Any) -> Any:
    """A value, or a tensor by its numbers."""
    if "numbers" not in leaf:
        return leaf["value"]
    kind = vars(torch).get(leaf["dtype"])
    if not isinstance(kind, torch.dtype):
        raise InputError(f"its example has no type {leaf['dtype']!r:.40}")
    return torch.tensor(leaf["numbers"], dtype=kind)
