"""Which of the things in a checkpoint are the weights, and what they are called there.

Takes what a file holds, gives :class:`StoredWeights`: one set of tensors (or a pickled module), the
key that leads to it, and the keys of the other sets beside it. Without a key from the user, the
usual wrappers decide, and weights come before their averages; with one, it alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.networks.foreign import Foreign
from slimnet.networks.payload import WANTED, pickled

# Where training scripts keep the weights, in the order in which they are looked for.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "params", "weights"),
    *("model_weights", "module", "ema", "model_ema", "ema_state_dict", "state_dict_ema"),
    "params_ema",
)
_DEPTH = 8  # of wrappers around each other; those of training scripts are at most three


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """One set of weights: a mapping with tensors among its values, or a pickled module."""

    content: Mapping[Any, Any] | nn.Module
    key: str  # dotted; "" where the file is nothing but the weights
    others: tuple[str, ...]  # keys of the other sets in the file

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user: which weights were read, where there was a choice."""
        if not self.others:
            return ()
        where = f"under {self.key!r}" if self.key else "outside all keys"
        also = ", ".join(map(repr, self.others))
        return (f"the weights {where} were read; also there: {also} (--weights KEY chooses)",)


def find_weights(payload: Any, path: str | Path, key: str | None = None) -> StoredWeights:
    """Find the weights, or those that ``key`` names; raises InputError where there are none."""
    if isinstance(payload, nn.Module) and key is None:
        return StoredWeights(payload, "", ())
    if not isinstance(payload, Mapping) or _is_opaque(payload):
        raise _no_weights(payload, path)
    if "slimnet_artifact" in payload:
        raise InputError(f"{path} is a slimnet artifact: slimnet.load reads it")
    sets = dict(_sets(payload))
    if key is not None:
        return _named(payload, sets, path, key)
    place, content = _unwrapped(payload, "")
    if not _holds_tensors(content) and not isinstance(content, nn.Module):
        opaque = [value.kind for _, value in _wrapped(payload) if _is_opaque(value)]
        if opaque and not sets:
            raise pickled(path, opaque[0])
        place, content = _only(sets, path)
    return StoredWeights(content, place, tuple(name for name in sets if name != place))


def _no_weights(payload: Any, path: str | Path) -> InputError:
    if isinstance(payload, Foreign):
        return pickled(path, payload.kind)
    return InputError(f"{path} holds a {type(payload).__name__}, not a state dict: {WANTED}")


def _named(
    payload: Mapping[Any, Any], sets: Mapping[str, Any], path: str | Path, key: str
) -> StoredWeights:
    value = _at(payload, key)
    if _is_opaque(value):
        raise pickled(path, value.kind)
    place, content = _unwrapped(value, key)
    if not _holds_tensors(content) and not isinstance(content, nn.Module):
        keys = ", ".join(map(repr, sets)) or "none under a key"
        raise InputError(f"{path} holds no weights under {key!r}; it holds {keys}")
    return StoredWeights(content, place, ())


def _at(value: Any, key: str) -> Any:
    """What a dotted key leads to; the parts of a key may hold dots themselves."""
    if not isinstance(value, Mapping):
        return None
    table = {str(name): entry for name, entry in value.items()}
    if key in table:
        return table[key]
    parts = key.split(".")
    heads = (".".join(parts[:n]) for n in range(1, len(parts)))
    entries = (_at(table[head], key[len(head) + 1 :]) for head in heads if head in table)
    return next((entry for entry in entries if entry is not None), None)


def _unwrapped(value: Any, place: str) -> tuple[str, Any]:
    """Follow the wrappers' keys down to what holds the tensors."""
    for _ in range(_DEPTH):
        name, inner = next(((n, v) for n, v in _wrapped(value) if _leads_on(v)), ("", None))
        if inner is None:
            break
        place, value = f"{place}.{name}".lstrip("."), inner
    return place, value


def _leads_on(value: Any) -> bool:
    return isinstance(value, nn.Module) or (isinstance(value, Mapping) and len(value) > 0)


def _is_opaque(value: Any) -> TypeGuard[Foreign]:
    """Whether all that is known of an object is its class."""
    return isinstance(value, Foreign) and not value


def _wrapped(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((name, value[name]) for name in WRAPPERS if name in value)


def _only(sets: Mapping[str, Any], path: str | Path) -> tuple[str, Any]:
    """The one set that lies under no usual key."""
    if len(sets) == 1:
        return next(iter(sets.items()))
    if sets:
        keys = ", ".join(map(repr, sets))
        raise InputError(
            f"{path} holds several sets of weights, {keys}: say which with --weights KEY"
        )
    raise InputError(f"{path} holds no tensors, so it is no state dict: {WANTED}")


def _sets(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every set of weights in a file by its dotted key, what an optimiser keeps left out."""
    if depth > _DEPTH or not isinstance(value, (Mapping, nn.Module)):
        return
    if isinstance(value, nn.Module) or _is_state(value):
        yield place, value
    for name, entry in value.items() if isinstance(value, Mapping) else ():
        if isinstance(name, str) and not _NO_WEIGHTS.match(name):
            yield from _sets(entry, f"{place}.{name}".lstrip("."), depth + 1)


_NO_WEIGHTS = re.compile(r"(.*_)?(optim|sched|scaler|rng|random|callbacks|loops)", re.IGNORECASE)


def _is_state(value: Mapping[Any, Any]) -> bool:
    """Whether it looks like a state dict: names, and tensors that are more than a number."""
    return any(
        isinstance(n, str) and isinstance(v, Tensor) and v.dim() > 0 for n, v in value.items()
    )


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())
