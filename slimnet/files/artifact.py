"""``slim.pt``: a slim network in one file that loads without running code from it.

Holds tensors, plan, certificate, what built the architecture, the inputs that it was recorded with
and versions; where the architecture is the user's own, also the network as a program of ATen calls.
A built-in or torchvision architecture is rebuilt from its name, then cut to the stored shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet import limits
from slimnet.capture.modules import clone, own_states
from slimnet.coupling.removal import Removal
from slimnet.digest import sealed, unsealed
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.networks.arch import Arch, fitted, parse_arch
from slimnet.networks.payload import load_payload
from slimnet.output import write_torch
from slimnet.plain import decode, encode
from slimnet.plan.plan import Plan
from slimnet.plan.rebuild import adjust, check_tables, without_blocks
from slimnet.program.exported import record_program
from slimnet.program.program import LITERALS, Program
from slimnet.proof.certificate import Certificate
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
    states: Mapping[str, Any] = field(default_factory=dict)  # of modules, beside tensors; encoded

    @property
    def rebuilds(self) -> bool:
        """Whether its class is known without running a user's file."""
        return self.arch is not None and self.arch.source != "file"

    @property
    def caveat(self) -> str | None:
        """What to tell whoever writes it, where no process without its class can run it."""
        if self.rebuilds or self.program is not None:
            return None
        return (
            f"no program lies in the file, because torch.export cannot record {self.class_name}: "
            "it loads only with the class, slimnet.load(file, into=make_model())"
        )

    @property
    def is_program(self) -> bool:
        """Whether it never had a class here: what was cut, or written, is a program."""
        return self.program is not None and self.class_name == _class_name(Program)

    def model(self, into: Network | None = None) -> nn.Module:
        """The slim network: of the user's class where it is known, else the embedded program.

        ``into`` is the dense network as the user's code builds it; it is not changed. Raises
        :class:`InputError` where it is another network, or where there is neither.
        """
        if self.is_program and self.program is not None:
            if into is not None:
                self._check_fits(into)
            return Program(self.program, self.tensors, self.frozen, self.example).eval()
        if into is None and self.arch is not None and self.rebuilds:
            into = Network.of(self.arch.build())
        if into is not None:
            return self._fill(into)
        if self.program is None:
            raise InputError(
                f"this slim network is of the class {self.class_name}, which is not known here, "
                "and no program of it lies in the file; load it with "
                "slimnet.load(file, into=make_model()), or give "
                f"--arch {self.arch or 'path/to/file.py:make_model'}"
            )
        return Program(self.program, self.tensors, self.frozen, self.example).eval()

    def outline(self) -> Program | None:
        """What a slim program was cut from, without values; None for a network of a class."""
        if not self.is_program or self.program is None:
            return None
        shapes = {n: self.plan.of(n).before(t.shape) for n, t in self.tensors.items()}
        return Program(
            self.program, {n: torch.empty(s, device="meta") for n, s in shapes.items()}, self.frozen
        )

    def _fill(self, built: Network) -> nn.Module:
        dense = self._check_fits(built)
        first = dense.first
        slim = Network.of(clone(dense, lambda name, _: self.tensors[first[name]].clone()))
        for name, tensor in slim.parameters.items():
            tensor.requires_grad_(name not in self.frozen)
        try:
            adjust(slim, self.plan, dense.modules)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(f"the plan does not fit {dense.name}: {error!r}") from error
        self._restore(slim)
        return slim.model

    def _restore(self, slim: Network) -> None:
        """Give modules back what they keep beside tensors."""
        modules = slim.modules
        for path, state in self.states.items():
            if path in modules:
                try:
                    modules[path].set_extra_state(decode(state, lambda leaf: leaf))
                except Exception as error:  # whatever the user's class raises
                    raise InputError(
                        f"{path or slim.name} does not take the state in the file: "
                        f"{type(error).__name__}: {error}"
                    ) from error

    def _check_fits(self, built: Network) -> Network:
        """What was cut: the network as it was built, without the blocks that left."""
        dense = self._shortened(built)
        shapes = dense.shapes
        own = shapes.keys() - dense.parameters.keys()
        for name in dict.fromkeys((*shapes, *self.tensors, *self.plan.removed)):
            if name in own & self.tensors.keys() - self.plan.removed.keys():
                continue  # a buffer that no cut touches: some are resized by the forward pass
            shape_after = cut_shape(shapes.get(name), self.plan.of(name))
            stored = self.tensors.get(name)
            if stored is not None and name not in own and not _trains(stored):
                raise InputError(f"{name} is a parameter, and the file holds integers for it")
            if shape_after is None or stored is None or tuple(stored.shape) != shape_after:
                raise InputError(
                    f"this slim network was not cut from {_article(dense)}: "
                    f"{name} would have {_shape(shape_after)}, and the file holds "
                    f"{_shape(None if stored is None else tuple(stored.shape))}"
                )
        check_tables(dense, self.plan)
        paths = dense.modules.keys() | {LITERALS}  # of a later round
        missing = {change.module for change in self.plan.changes} - paths
        if missing:
            raise InputError(
                f"this slim network was not cut from {_article(dense)}: it has no {min(missing)}"
            )
        return dense

    def _shortened(self, built: Network) -> Network:
        try:
            return without_blocks(built, self.plan)
        except InputError as error:
            raise InputError(
                f"this slim network was not cut from {_article(built)}: {error}"
            ) from error


def check_cut_from(dense: Network, slim: Network, plan: Plan) -> None:
    """Raise :class:`InputError` unless ``slim`` has ``dense``'s tensors as the plan cuts them."""
    Artifact(slim.tensors, plan, None, None, ())._check_fits(dense)


def _trains(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def cut_shape(shape: tuple[int, ...] | None, removal: Removal) -> tuple[int, ...] | None:
    """A tensor's shape after the cut; None where the cut does not fit it."""
    return removal.after(shape) if shape is not None and removal.fits(shape) else None


def _shape(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return "no such tensor"
    return "a number" if not shape else f"the shape {'x'.join(map(str, shape))}"


def _article(dense: Network) -> str:
    return f"this {dense.name}"


def make_artifact(
    model: nn.Module,
    plan: Plan,
    certificate: Certificate | None,
    example: tuple[Any, ...],
    arch: Arch | str | None = None,
    *,
    trained: bool = False,
    embed: bool = True,
) -> Artifact:
    """Everything that a file needs to give ``model`` back.

    Where nothing names its class, and unless ``embed`` is off, that is its program as well.
    An ``arch`` that is a string takes its options (number of classes …) from the weights. Raises
    :class:`InputError` where it does not build this network.
    """
    network = Network.of(model)
    tensors = {name: _compact(t.detach()) for name, t in network.tensors.items()}
    built = _named(arch, tensors, plan) if isinstance(arch, str) else arch
    own = built is None or built.source == "file"
    return Artifact(
        tensors=tensors,
        plan=plan,
        certificate=certificate,
        arch=built,
        example=example,
        frozen=tuple(name for name, t in network.parameters.items() if not t.requires_grad),
        program=record_program(network, example) if own and embed else None,
        class_name=_class_name(type(model)),
        versions={"slimnet": __version__, "torch": str(torch.__version__)},
        trained=trained,
        states=_states(network),
    )


def reweighted(
    artifact: Artifact, model: nn.Module, *, trained: bool = True, embed: bool = True
) -> Artifact:
    """The same cut with the weights that ``model`` has now."""
    return make_artifact(
        model,
        artifact.plan,
        artifact.certificate,
        artifact.example,
        artifact.arch,
        trained=trained,
        embed=embed,
    )


def _states(network: Network) -> dict[str, Any]:
    return {path: encode(state, _plain_state(path)) for path, state in own_states(network).items()}


def _plain_state(path: str) -> Callable[[Any], Any]:
    def leaf(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, complex, str, Tensor)):
            return value.detach().clone() if isinstance(value, Tensor) else value
        raise InputError(
            f"{path or 'the model'} keeps a {type(value).__name__} as its extra state, and slim.pt "
            "can hold states made of tensors, numbers, strings, lists, tuples and dicts"
        )

    return leaf


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _compact(tensor: Tensor) -> Tensor:
    """A tensor that is a small part of a large storage would save all of it."""
    used = tensor.numel() * tensor.element_size()
    return tensor if tensor.untyped_storage().nbytes() <= used else tensor.clone()


def _named(spec: str, tensors: Mapping[str, Tensor], plan: Plan) -> Arch:
    """The architecture of this name with the options that the dense network's shapes show."""
    arch = parse_arch(spec)
    dense = {
        name: torch.empty(plan.of(name).before(t.shape), device="meta")
        for name, t in tensors.items()
    }
    fit = fitted(arch, dense)
    if fit.source != "file":
        Artifact(tensors, plan, None, fit, ())._check_fits(Network.of(fit.build()))
    return fit


def write_artifact(artifact: Artifact, path: str | Path) -> Path:
    """Write to a temporary name and move; raises :class:`InputError` where that is impossible.

    What :func:`read_artifact` would refuse is not written.
    """
    for name in artifact.tensors:
        limits.checked_path(name)
    example = encode(artifact.example, describe)
    check_size(example)
    payload = {
        _KEY: FORMAT,
        "tensors": dict(artifact.tensors),
        "plan": artifact.plan.to_json(),
        "certificate": artifact.certificate.to_json() if artifact.certificate else None,
        "arch": artifact.arch.to_json() if artifact.arch else None,
        "example": example,
        "frozen": list(artifact.frozen),
        "program": artifact.program,
        "class": artifact.class_name,
        "versions": dict(artifact.versions or {}),
        "trained": artifact.trained,
        "states": dict(artifact.states),
    }
    write_torch(Path(path), sealed(payload))
    return Path(path)


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
            f"{path} has format {payload[_KEY]!r:.40}, and this slimnet reads format {FORMAT}"
        )
    try:
        return _artifact(unsealed(payload))
    except KeyError as error:
        raise InputError(f"{path} is a damaged slim network: it lacks {error}") from error
    except (TypeError, ValueError, AttributeError, RuntimeError, InputError) as error:
        raise InputError(f"{path} is a damaged slim network: {error}") from error


def _artifact(payload: Mapping[str, Any]) -> Artifact:
    certificate, arch = payload["certificate"], payload["arch"]
    return Artifact(
        tensors=dense_tensors(payload["tensors"]),
        plan=Plan.from_json(payload["plan"]),
        certificate=None if certificate is None else Certificate.from_json(certificate),
        arch=None if arch is None else Arch.from_json(arch),
        example=_inputs(payload["example"]),
        frozen=tuple(map(limits.checked_path, payload["frozen"])),
        program=None if payload["program"] is None else _mapping("program", payload["program"]),
        class_name=str(payload["class"]),
        versions=_mapping("versions", payload["versions"], str),
        trained=bool(payload["trained"]),
        states=_states_of(payload.get("states", {})),
    )


def _mapping(what: str, value: Any, kind: type = object) -> dict[str, Any]:
    fits = isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(entry, kind) for name, entry in value.items()
    )
    if not fits:
        raise InputError(f"its {what} are not what they should be")
    return dict(value)


def dense_tensors(value: Any) -> dict[str, Tensor]:
    """Tensors by name, if that is what they are."""
    tensors: dict[str, Tensor] = _mapping("tensors", value, Tensor)
    for name, tensor in tensors.items():
        if tensor.is_quantized or tensor.layout is not torch.strided:
            raise InputError(f"{limits.checked_path(name)} is a quantised or sparse tensor")
        limits.checked_path(name)
    return tensors


def _inputs(data: Any) -> tuple[Any, ...]:
    """The example; how large it is comes first."""
    check_size(data)
    value = decode(data, draw)
    if not isinstance(value, tuple):
        raise InputError("its example inputs are no tuple")
    return value


def _states_of(value: Any) -> dict[str, Any]:
    """What modules keep beside tensors, still encoded: by path, of plain values."""
    states = _mapping("states", value, dict)
    for path, state in states.items():
        limits.checked_path(path, "module")
        decode(state, _plain)
    return states


def check_size(data: Any) -> None:
    """Refuse encoded inputs that would need too much memory."""
    shapes: list[tuple[Any, torch.dtype]] = []
    decode(data, lambda leaf: shapes.append(_shape_of(leaf)) if "shape" in leaf else None)
    limits.check_example(shapes)


def _shape_of(leaf: Mapping[str, Any]) -> tuple[Any, torch.dtype]:
    return leaf["shape"], _FLOATING[leaf["dtype"]]


def describe(value: Any) -> Any:
    """An input as plain data: many floating-point numbers by shape, type and range; else itself.

    A network may take roots of them, or read few of them as boxes: others would prove nothing.
    """
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > _FEW:
        kind = str(value.dtype).removeprefix("torch.")
        ends = [float(end) for end in value.detach().aminmax()]
        range_ = {"range": ends} if all(map(isfinite, ends)) else {}
        return {"shape": list(value.shape), "dtype": kind, **range_}
    if isinstance(value, Tensor):
        return {"value": value.detach().cpu().clone()}
    return {"value": _plain(value)}


def _plain(value: Any) -> Any:
    """A value that a file can hold, or be asked to."""
    if value is None or isinstance(value, (bool, int, float, complex, str, Tensor)):
        return value
    raise InputError(
        f"the example holds a {type(value).__name__}: slim.pt can hold inputs made of tensors, "
        "numbers, strings, lists, tuples and dicts"
    )


def draw(leaf: Any) -> Any:
    """An input of the described shape and range, the same numbers every time.

    Normal noise, as the examples are that slimnet makes itself; where that leaves the range, even.
    """
    if "shape" not in leaf:
        return _plain(leaf["value"])
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(leaf["shape"], generator=generator).to(_FLOATING[leaf["dtype"]])
    low, high = map(float, leaf.get("range", (-inf, inf)))
    if bool((numbers >= low).all()) and bool((numbers <= high).all()):
        return numbers
    even = torch.rand(leaf["shape"], generator=generator, dtype=torch.float64)
    return (low + even * (high - low)).clamp(low, high).to(numbers.dtype)


_FEW = 4096  # numbers that a file can hold as they are


_FLOATING = {
    str(kind).removeprefix("torch."): kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype) and kind.is_floating_point
}
