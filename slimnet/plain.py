"""Nested values as plain data that ``torch.load(weights_only=True)`` gives back.

Lists, tuples and dicts keep their kind; what stands for a leaf is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimnet.errors import InputError
from slimnet.limits import checked_key


def encode(value: Any, leaf: Callable[[Any], Any]) -> dict[str, Any]:
    """Containers by kind (named tuples as tuples); ``leaf`` says what the rest becomes."""
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [encode(entry, leaf) for entry in value]}
    if isinstance(value, dict):
        return {"dict": [[key, encode(entry, leaf)] for key, entry in value.items()]}
    return {"leaf": leaf(value)}


def decode(data: Any, leaf: Callable[[Any], Any]) -> Any:
    """The inverse of :func:`encode`; raises :class:`InputError` for anything else."""
    if not isinstance(data, dict) or len(data) != 1:
        raise InputError(f"not a described value: {data!r:.80}")
    ((kind, content),) = data.items()
    if kind in ("list", "tuple"):
        entries = [decode(entry, leaf) for entry in content]
        return entries if kind == "list" else tuple(entries)
    if kind == "dict":
        return {checked_key(key): decode(entry, leaf) for key, entry in content}
    if kind == "leaf":
        return leaf(content)
    raise InputError(f"not a described value: {kind!r:.80}")
