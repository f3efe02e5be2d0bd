"""Functions that remember their results, such as einops' recipes, and sizes that they were given.

A size equals the plain integer of its value, so that ``functools.lru_cache`` answers with what it
once computed of integers; and what it computes of sizes it would hand out after the recording. Who
hashes a size calls such a function, or looks into a dict: the journal knows whose code it was.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any

from slimnet.capture.sizes import Amount, Size

_CACHED: Any = type(functools.lru_cache(lambda: None))


def remembering(codes: Iterable[CodeType]) -> list[Any]:
    """The functions with a cache that are called by name in these codes."""
    names = {name for code in codes for name in (*code.co_names, *code.co_freevars)}
    if not names:
        return []
    found = (x for x in gc.get_objects() if type(x) is _CACHED)
    return [cached for cached in found if getattr(cached, "__name__", "") in names]


def forget_sizes(functions: Iterable[Any]) -> None:
    """Drop what these functions were asked with sizes; one with a limit drops everything."""
    for cached in functions:
        kept = _without_sizes(cached)
        table = _table(cached)
        cached.cache_clear()
        table.update(kept)


@contextmanager
def forgetful(functions: Iterable[Any]) -> Iterator[None]:
    """These functions know nothing of what came before, and nothing of the block remains.

    A cache without limits gets back what it held: it may be the only place of that. One with a
    limit drops entries as it likes, and computes them anew.
    """
    with ExitStack() as stack:
        for cached in functions:
            stack.enter_context(_emptied(cached))
        yield


@contextmanager
def _emptied(cached: Any) -> Iterator[None]:
    before, table = _without_sizes(cached), _table(cached)
    cached.cache_clear()
    try:
        yield
    finally:
        cached.cache_clear()
        table.update(before)


def _without_sizes(cached: Any) -> dict[Any, Any]:
    return {key: value for key, value in _table(cached).items() if not _holds_size(key)}


def _holds_size(key: Any) -> bool:
    """Whether sizes of the pass so far are among what a result was asked with."""
    return isinstance(key, (Size, Amount)) or any(map(_holds_size, _entries(key)))


def _entries(key: Any) -> Iterable[Any]:
    return key if isinstance(key, (tuple, list, frozenset)) else ()


def _table(cached: Any) -> dict[Any, Any]:
    """The entries of a cache without limits; those of one that has them cannot be written."""
    if cached.cache_info().maxsize is not None:
        return {}
    own = [x for x in gc.get_referents(cached) if type(x) is dict and x is not vars(cached)]
    return next((x for x in own if len(x) == cached.cache_info().currsize), {})
