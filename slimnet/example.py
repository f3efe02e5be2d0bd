"""What a network is called with and what it gives back, in whatever containers.

Inside slimnet an example is a tuple of positional inputs: a dict of keyword inputs is put into the
order of ``forward`` once, where it enters. Outputs are only ever looked through for their tensors,
in tuples and dicts, dataclasses and any other object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import Parameter
from math import prod
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from slimnet.errors import InputError

Example: TypeAlias = tuple[Any, ...] | Mapping[str, Any]
"""Positional inputs, or keyword inputs by the names that ``forward`` has for them."""


def positional(model: nn.Module, example: Example) -> tuple[Any, ...]:
    """The example as positional inputs; what ``forward`` has by default fills the gaps.

    Raises :class:`InputError` for anything but a tuple or a dict, and for a dict that ``forward``
    does not take, or takes by keyword only.
    """
    if isinstance(example, tuple):
        return _plain_inputs(example)
    if not isinstance(example, Mapping):
        raise InputError(
            "example must be a tuple of the positional inputs, e.g. "
            "(torch.rand(1, 3, 224, 224),), or a dict of keyword inputs, and it is a "
            f"{type(example).__name__}"
        )
    parameters = inspect.signature(model.forward).parameters.values()
    _check_names(type(model).__name__, parameters, example)
    ordered = [parameter for parameter in parameters if parameter.kind in _BY_POSITION]
    last = max((n for n, parameter in enumerate(ordered) if parameter.name in example), default=-1)
    return _plain_inputs(tuple(example.get(p.name, p.default) for p in ordered[: last + 1]))


def _plain_inputs(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors of a subclass as the plain tensors that they hold, whose results can be followed."""
    if not any(isinstance(leaf, Tensor) and _is_special(leaf) for leaf in tree_leaves(example)):
        return example
    return tuple(tree_map(_plain_input, entry) for entry in example)


def _plain_input(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not _is_special(leaf):
        return leaf
    kind = type(leaf)
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ or leaf.is_nested:
        raise InputError(
            f"the example holds a {'nested tensor' if leaf.is_nested else kind.__name__}, and a "
            "network is recorded on plain tensors: give one of the same numbers"
        )
    return leaf.as_subclass(Tensor)


def _is_special(leaf: Tensor) -> bool:
    return leaf.is_nested or hides_results(type(leaf))


def hides_results(kind: type[Tensor]) -> bool:
    """Whether what a class of tensors gives are other objects than what the operators made."""
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return True
    plain = kind is Tensor or kind.__torch_function__ is torch._C._disabled_torch_function_impl
    return not plain


def names_of(model: nn.Module) -> list[str]:
    """What ``forward`` calls its positional inputs, in order."""
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind == Parameter.POSITIONAL_OR_KEYWORD]


_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _check_names(model: str, parameters: Iterable[Parameter], example: Mapping[str, Any]) -> None:
    kinds = {p.name: p.kind for p in parameters}
    named = [name for name, kind in kinds.items() if kind in _BY_POSITION]
    known = ", ".join(named) or "none"
    for name in example:
        if kinds.get(name) == Parameter.KEYWORD_ONLY:
            raise InputError(
                f"{model}.forward takes {name!r} by keyword only, and a network is recorded with "
                "positional inputs: wrap it in a module whose forward takes it by position"
            )
        if name not in named and Parameter.VAR_KEYWORD in kinds.values():
            raise InputError(
                f"{model}.forward takes {name!r} among any others (**), and a network is recorded "
                "with positional inputs: give a tuple of the inputs, or a module whose forward "
                "names them"
            )
        if name not in named:
            raise InputError(f"{model}.forward has no input {name!r}: its inputs are {known}")
    for p in parameters:
        if p.default is Parameter.empty and p.name not in example and p.kind not in _GATHERING:
            raise InputError(f"the example lacks {p.name!r}, which {model}.forward needs")


_GATHERING = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def doubled(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two samples in place of one: batch norms in training mode want more than one."""

    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() > 1 else leaf

    return tuple(tree_map(twice, entry) for entry in example)


def normal(shape: Sequence[int]) -> Tensor:
    """Normal noise of a shape, the same every time; :class:`InputError` where memory is short."""
    check_numbers(shape)
    try:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:
        sizes = "x".join(map(str, shape))
        raise InputError(f"an input of {sizes} numbers does not fit into memory") from error


def check_numbers(shape: Sequence[int]) -> None:
    """Raise :class:`InputError` for more numbers than an input is made of here."""
    if prod(shape) > MOST_NUMBERS:
        raise InputError(
            f"an input of {'x'.join(map(str, shape))} numbers is asked for, and at most "
            f"{MOST_NUMBERS:,} are made: ask for less"
        )


MOST_NUMBERS = 2**28
"""Of an input that is made of a shape: 1 GB in float32; a volume of 512³ is half of that."""


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply a function to every tensor of a tree of inputs or outputs."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of an input or output, in order, also those inside objects of any class."""
    return [tensor for _, tensor in named_tensors(value)]


def named_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """The same with the way to each: keys, fields and places, as in ``boxes.0``; "" of the whole.

    What has no names of its own is counted: the entries of tuples, and of containers that only
    PyTorch knows how to take apart.
    """
    return list(_named("", value, set()))


def _named(path: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    parts = _parts(value)
    if parts is None and id(value) not in seen:  # an object may hold itself
        seen.add(id(value))
        parts = _content(value)
    for key, part in _items(parts or ()):
        yield from _named(f"{path}.{key}" if path else str(key), part, seen)


def _parts(value: Any) -> Any:
    """What PyTorch takes a value apart into; None where it does not."""
    if type(value) is dict:
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    parts, layout = tree_flatten(value, is_leaf=lambda part: part is not value)
    if layout.is_leaf():
        return None
    return value if isinstance(value, Mapping) and _are_same(value.values(), parts) else parts


def _are_same(values: Iterable[Any], others: Sequence[Any]) -> bool:
    """Whether these are the very same objects: tensors cannot be asked whether they are equal."""
    return list(map(id, values)) == list(map(id, others))


def _items(parts: Any) -> Iterable[tuple[Any, Any]]:
    return parts.items() if isinstance(parts, Mapping) else enumerate(parts)


def read_of(value: Any, names: Sequence[str]) -> list[Tensor]:
    """The tensors of an output that are read: those of these names and under them; all without.

    Raises :class:`InputError` for a name that is not there.
    """
    known = named_tensors(value)
    check_outputs(names, [name for name, _ in known])
    return [tensor for name, tensor in known if is_read(name, names)]


def is_read(name: str, names: Sequence[str]) -> bool:
    """Whether an output is one of these, or under one: ``boxes.0`` under ``boxes``."""
    return not names or any(name == each or name.startswith(f"{each}.") for each in names)


def check_outputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise :class:`InputError` for a name that no output has."""
    for name in names:
        if not any(is_read(each, [name]) for each in known):
            there = ", ".join(map(repr, filter(None, known)))
            raise InputError(
                f"the network has no output {name!r}: it gives "
                + (there or "one tensor, which is read anyhow: name none")
            )


def is_plain(value: Any) -> bool:
    """Whether only containers hold its tensors that PyTorch itself takes apart, and writes."""
    leaves = tree_leaves(value, is_leaf=_is_named)
    return sum(isinstance(leaf, Tensor) for leaf in leaves) == len(tensors_of(value))


def plainly(value: Any) -> Any:
    """The same tensors in plain containers: dicts by attribute or key in place of objects."""
    return tree_map(_plain, value, is_leaf=_is_named)


def _is_named(value: Any) -> bool:
    """Named tuples, as ``x.max(1)`` is one: torch takes them apart, and writes none into a file."""
    return isinstance(value, tuple) and type(value) is not tuple


def _plain(leaf: Any) -> Any:
    if _is_named(leaf):
        return plainly(tuple(leaf))
    content = _content(leaf) if not isinstance(leaf, Tensor) else None
    return plainly(content) if content and tensors_of(content) else leaf


def _content(leaf: Any) -> dict[Any, Any] | list[Any]:
    """What an object holds that PyTorch takes for a leaf: subclasses of containers and others."""
    if isinstance(leaf, Mapping):
        return dict(leaf)
    if isinstance(leaf, (list, tuple, set)):
        return list(leaf)
    if isinstance(leaf, (type, ModuleType, nn.Module)):
        return []
    if is_dataclass(leaf):
        return {field.name: getattr(leaf, field.name, None) for field in fields(leaf)}
    return dict(vars(leaf)) if hasattr(leaf, "__dict__") else []
