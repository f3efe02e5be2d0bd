"""While a network is recorded, the integers among its modules' attributes remember where they are.

Attributes, entries of lists, dicts and of objects such as a config, and what a class has for all
its instances are exchanged for a :class:`~slimnet.capture.sizes.Size` in place;
:func:`~slimnet.capture.modules.evaluation_mode` puts them back. What torch's own modules keep of
their weights' shapes remembers those shapes: it follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimnet.capture.belongings import (
    DEEPEST,
    LONGEST,
    PathStep,
    entries,
    is_object,
    put,
    remade,
)
from slimnet.capture.books import books
from slimnet.capture.sizes import AttributeOf, NumpySize, Shape, Size, leaves
from slimnet.network import TABLES, Network, own_attributes


def remember_attributes(network: Network, is_weight: Callable[[int], bool]) -> None:
    """Exchange what can be read as a size; ``is_weight`` tells recorded parameters by number.

    Call it where shapes already give sizes.
    """
    seen: set[int] = set()
    for path, module in network.modules.items():
        attributes = vars(module)
        for name, value in _read_as_sizes(module):
            attributes[name] = tracked(value, AttributeOf(path, name), seen)
    for module in network.modules.values():
        vars(module).update(_followed(module, is_weight))


def _read_as_sizes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if type(module).__module__.startswith("torch.nn."):
        options = _options(type(module).__mro__) - _TORCH_ATTRIBUTES
        yield from ((name, x) for name, x in own_attributes(module) if name not in options)
        return
    yield from own_attributes(module)
    for kind in reversed(type(module).__mro__):
        if not kind.__module__.startswith(("torch.", "builtins")):
            for name, value in list(vars(kind).items()):
                if type(value) is int and name not in TABLES | vars(module).keys():
                    yield name, value


@cache
def _options(kinds: tuple[type, ...]) -> frozenset[str]:
    """How one of torch's own layers works: strides, paddings and the like are no sizes."""
    declared: set[str] = set()
    for base in kinds:
        declared.update(vars(base).get("__constants__", ()), vars(base).get("__annotations__", ()))
    return frozenset((*declared, "_reversed_padding_repeated_twice"))


# What torch declares as well, and is a size.
_TORCH_ATTRIBUTES = frozenset(
    (
        *("groups", "num_groups", "normalized_shape", "num_heads", "unflattened_size"),
        *("hidden_size", "proj_size", "input_size", "embedding_dim", "embed_dim", "head_dim"),
        *("in_channels", "out_channels", "in_features", "out_features", "num_features"),
        *("num_channels", "num_parameters", "in1_features", "in2_features", "kdim", "vdim"),
    )
)


def _followed(module: nn.Module, is_weight: Callable[[int], bool]) -> dict[str, Any]:
    """What the module's books say, where it is what it says now and follows plain weights."""
    if torch.nn.utils.parametrize.is_parametrized(module):
        return {}
    try:
        computed = books(module)
    except (AttributeError, IndexError, TypeError):  # a weight that something else makes
        return {}
    now = vars(module)
    return {
        name: value
        for name, value in computed.items()
        if type(value) is Size and value == now[name]
        if all(is_weight(leaf.tensor) for leaf in leaves(value.source) if hasattr(leaf, "tensor"))
    }


def tracked(value: Any, leaf: AttributeOf, seen: set[int]) -> Any:
    """An attribute's value in which every integer is a :class:`Size`.

    Lists and tuples are copied, dicts and objects changed in place, each by the first way that
    leads to it. Returns the value itself where it holds no size.
    """
    kind = type(value)
    if kind is int:
        return Size(value, replace(leaf, value=value))
    if isinstance(value, np.integer):
        return NumpySize(int(value), replace(leaf, value=int(value)))
    if isinstance(value, (nn.Module, Tensor)) or len(leaf.path) >= DEEPEST:
        return value
    if isinstance(value, (tuple, list)):
        return _sequence(value, leaf, seen)
    if (isinstance(value, dict) or is_object(value)) and id(value) not in seen:
        seen.add(id(value))
        for step, entry in entries(value):
            new = tracked(entry, _inside(leaf, step), seen)
            if new is not entry:
                put(value, step, new)
    return value


def _sequence(value: Any, leaf: AttributeOf, seen: set[int]) -> Any:
    if len(value) > LONGEST:
        return value
    new = [tracked(entry, _inside(leaf, i), seen) for i, entry in enumerate(value)]
    if all(a is b for a, b in zip(new, value, strict=True)):
        return value
    return Shape(new) if isinstance(value, torch.Size) else remade(value, new)


def _inside(leaf: AttributeOf, step: PathStep) -> AttributeOf:
    return replace(leaf, path=(*leaf.path, step))
