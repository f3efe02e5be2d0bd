"""A network as data: ATen calls that a process without the user's class can run.

A program is plain values: calls in order, weights by name, what goes in and what comes out. Running
one runs nothing but ATen operators on tensors and integer arithmetic, so a file that holds one
cannot run code nor touch other files. The literal integers of its calls (view sizes, split sizes,
slice bounds, groups …) are attributes of a module of their own, so that a cut changes them as it
changes those of a user's class. :mod:`slimnet.program.exported` and :mod:`slimnet.program.pt2` make
programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from keyword import iskeyword
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from slimnet.errors import InputError
from slimnet.limits import checked_name, checked_path
from slimnet.network import Held, Network
from slimnet.operator import of
from slimnet.plain import decode
from slimnet.program.allowance import allowance, bytes_of
from slimnet.program.calls import Environment, ProgramCall, check_argument, last_uses, nodes_of

LITERALS = "(program)"
"""The module that holds the literals: no module of a user's has this name."""


class Program(nn.Module):
    """Runs a program, in evaluation mode whatever its flag says.

    Raises :class:`InputError` for a program that is damaged or holds anything but ATen operators.
    """

    def __init__(
        self,
        program: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        frozen: Iterable[str] = (),
        example: tuple[Any, ...] = (),
    ) -> None:
        super().__init__()
        try:
            self._inputs = [_Input(row) for row in program["inputs"]]
            self.arguments = _names(program.get("arguments", ()))
            self.keywords = _names(program.get("keywords", ()))
            self._names = dict(program["weights"])
            self._calls = [ProgramCall(number, row) for number, row in enumerate(program["calls"])]
            self._output = program["output"]
            _check_references(self._names, self._inputs, self._calls, self._output)
            self._ends = last_uses(self._calls, self._output)
            stored = {**program["constants"], **tensors}
            _place(self, {name: stored[name] for name in self._names.values()}, program, frozen)
            _tell_roles(self, self._calls, self._names)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the embedded program cannot be read: {error}") from error
        self._modules[LITERALS] = _Literals(self._calls)
        self._stated_bytes = bytes_of(example)  # inputs that the file itself names
        self._tried: set[Any] = set()  # kinds of inputs on which it takes no more than it may

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the calls in order; raises :class:`InputError` for inputs of another kind."""
        values = self._named((*inputs, *self._by_name(len(inputs), named)))
        values |= {name: _held(self, path) for name, path in self._names.items()}
        device = next((x.device for x in values.values() if isinstance(x, Tensor)), None)
        environment = Environment(values, device or torch.device("cpu"))
        literals = vars(self._modules[LITERALS])
        weights = [values[name] for name in self._names]
        allowed = allowance(weights, self._stated_bytes, (inputs, named), self._tried)
        for call, ends in zip(self._calls, self._ends, strict=True):
            values[call.name] = call.run(environment, literals.get(call.key, ()), allowed)
            for name in ends:
                del values[name]
                allowed.drop(name)
        return decode(self._output, environment.value)

    @property
    def calls(self) -> Sequence[ProgramCall]:
        """What it runs, in order."""
        return self._calls

    def plain(self) -> dict[str, Any]:
        """The program as data again, its literals as they are now; the tensors are the module's."""
        literals = vars(self._modules[LITERALS])
        return {
            "inputs": [row.plain() for row in self._inputs],
            "arguments": list(self.arguments),
            "keywords": list(self.keywords),
            "weights": dict(self._names),
            "calls": [call.plain(literals.get(call.key, ())) for call in self._calls],
            "output": self._output,
            "constants": {},
            "parameters": [name for name, _ in self.named_parameters(remove_duplicate=False)],
        }

    def as_called(self, example: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """An example as the network itself takes it: what is positional, and what has a name."""
        count = len(example) - len(self.keywords)
        return example[:count], dict(zip(self.keywords, example[count:], strict=True))

    def free_axes(self) -> list[tuple[int, ...]]:
        """For each leaf of the inputs, the axes that may have any length."""
        return [tuple(d for d, n in enumerate(x.shape or ()) if n is None) for x in self._inputs]

    def _by_name(self, place: int, named: Mapping[str, Any]) -> Iterator[Any]:
        """What follows ``place`` positional inputs; a recorded number or None fills a gap."""
        names = (self.arguments[place:] or self.keywords) if named else ()
        if unknown := named.keys() - set(names):
            inputs = ", ".join(self.arguments or self.keywords) or "none by name"
            raise InputError(f"this program has no input {min(unknown)!r}: its inputs are {inputs}")
        fixed = {row.path: row.value for row in self._inputs if row.shape is None}
        for path, name in ((f"[{place + n}]", name) for n, name in enumerate(names)):
            if name in named or path in fixed:
                yield named.get(name, fixed.get(path))

    def _named(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """The leaves of the inputs by the names that calls read them by."""
        leaves = {keystr(path): leaf for path, leaf in tree_flatten_with_path(inputs)[0]}
        if leaves.keys() != {row.path for row in self._inputs} or not all(
            row.accepts(leaves[row.path]) for row in self._inputs
        ):
            wanted = ", ".join(map(str, self._inputs))
            raise InputError(
                f"this program was recorded for the inputs {wanted}; to run it on others, load the "
                "network with its class: slimnet.load(file, into=make_model())"
            )
        return {row.name: leaves[row.path] for row in self._inputs}


def _names(stored: Iterable[str]) -> tuple[str, ...]:
    """Names of arguments: the network can be called by them."""
    names = tuple(stored)
    for name in names:
        if not _is_argument(checked_name(name, "argument's name")):
            raise ValueError(f"{name!r} is no name of an argument")
    return names


def _is_argument(name: str) -> bool:
    """Whether Python reads it as this very name."""
    return name.isidentifier() and not iskeyword(name) and normalize("NFKC", name) == name


def _check_references(
    weights: Mapping[str, str], inputs: Iterable[_Input], calls: Iterable[ProgramCall], output: Any
) -> None:
    """Refuse a name that stands for two things, and one that is read before it is known."""
    known: set[str] = set()
    for name in (*weights, *(row.name for row in inputs)):
        _add(known, checked_name(name, "value's name"))
    for call in calls:
        _check_known(known, [call.args, call.kwargs])
        _add(known, call.name)
    leaves: list[Any] = []
    decode(output, leaves.append)
    for leaf in leaves:
        check_argument(leaf, None)
        _check_known(known, leaf)
    if not any(nodes_of(leaves)):
        raise ValueError("it returns nothing that it computes")


def _add(known: set[str], name: str) -> None:
    if name in known:
        raise ValueError(f"{name} is the name of two values")
    known.add(name)


def _check_known(known: set[str], argument: Any) -> None:
    for name in nodes_of(argument):
        if name not in known:
            raise ValueError(f"{name!r:.80} is read before it is computed")


class _Input:
    """One leaf of the inputs: a tensor of a shape, or a value that the program has built in."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.name: str = row["name"]
        self.path = str(row["path"])
        self.shape: Sequence[int | None] | None = row.get("shape")
        self.value = row.get("value")
        if not all(n is None or (type(n) is int and n >= 0) for n in self.shape or ()):
            raise ValueError(f"{self.name} has no shape of an input")
        check_argument(self.value, None)

    def accepts(self, leaf: Any) -> bool:
        """Whether the program may run on it."""
        return is_input(leaf, self.shape, self.value)

    def plain(self) -> dict[str, Any]:
        """What it was made from."""
        kind = {"value": self.value} if self.shape is None else {"shape": list(self.shape)}
        return {"name": self.name, "path": self.path, **kind}

    def __str__(self) -> str:
        if self.shape is None:
            return repr(self.value)
        return "x".join("N" if n is None else str(n) for n in self.shape)


def is_input(leaf: Any, shape: Sequence[int | None] | None, value: Any) -> bool:
    """Whether it is a tensor of this shape (None: any length) or, without a shape, this value."""
    if shape is None:
        return type(leaf) is type(value) and bool(leaf == value)
    if not isinstance(leaf, Tensor) or leaf.dim() != len(shape):
        return False
    return all(n in (None, m) for n, m in zip(shape, leaf.shape, strict=True))


class _Literals(nn.Module):
    """The literal integers of each call, in one list."""

    def __init__(self, calls: Iterable[ProgramCall]) -> None:
        super().__init__()
        vars(self).update({call.key: list(call.literals) for call in calls if call.literals})


def _place(
    root: nn.Module,
    tensors: Mapping[str, Tensor],
    program: Mapping[str, Any],
    frozen: Iterable[str],
) -> None:
    """Hold the tensors under their dotted names; one that has two names stays one."""
    placed: dict[Any, Tensor] = {}
    parameters, still = set(program["parameters"]), set(frozen)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is no tensor")
        *path, leaf = checked_path(name).split(".")
        if LITERALS in path[:1]:
            raise ValueError(f"{LITERALS} is the module of the program's own numbers")
        owner = root
        for part in path:  # not by attribute: names may be those of nn.Module's own
            owner = owner._modules.setdefault(part, Held())  # type: ignore[assignment]
        if name in parameters:
            parameter = nn.Parameter(tensor, requires_grad=_trains(tensor) and name not in still)
            owner._parameters[leaf] = placed.setdefault(_memory_of(tensor), parameter)  # type: ignore[assignment]
        else:
            owner._buffers[leaf] = placed.setdefault(_memory_of(tensor), tensor)


def _trains(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _memory_of(tensor: Tensor) -> Any:
    """Two tensors of the same memory, shape and strides are one; an empty one has no memory."""
    start = tensor.data_ptr() if tensor.numel() and not tensor.is_meta else None
    return (start, tensor.shape, tensor.stride(), tensor.dtype) if start else id(tensor)


def _held(root: nn.Module, name: str) -> Any:
    *path, leaf = name.split(".")
    for part in path:
        root = root._modules[part]  # type: ignore[assignment]
    return root._parameters[leaf] if leaf in root._parameters else root._buffers[leaf]


def _tell_roles(root: nn.Module, calls: Iterable[ProgramCall], names: Mapping[str, str]) -> None:
    """Say of every weight what the first operator that reads it takes it for."""
    modules = Network.of(root).modules
    for call in calls:
        for place, node in _read(call):
            name = names.get(node)
            path, _, leaf = (name or "").rpartition(".")
            owner = modules[path]
            if name is not None and isinstance(owner, Held):
                owner.roles.setdefault(leaf, _role(call, place))
                owner.kind = owner.kind or call.kind or call.operator


def _read(call: ProgramCall) -> Iterator[tuple[int, str]]:
    """Every value that a call reads, and the place of the argument that holds it."""
    for place, argument in enumerate(call.args):
        yield from ((place, node) for node in nodes_of(argument))


def _role(call: ProgramCall, place: int) -> str:
    """As :class:`~slimnet.network.Held` names it."""
    if place == 1 and (call.operator == "batch_norm" or _is_batch_norm(call.function)):
        return "scale"
    if call.operator in _PRODUCTS and place == 1:
        turned = call.operator.startswith("conv_transpose") or call.args[6:7] == [True]
        return "transposed" if turned else "weight"
    return ""


def _is_batch_norm(function: Any) -> bool:
    return isinstance(function, torch._ops.OpOverload) and bool(of(function).norm)


_PRODUCTS = (
    *("linear", "conv1d", "conv2d", "conv3d", "convolution"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
