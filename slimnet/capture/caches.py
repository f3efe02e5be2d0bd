"""Functions that remember their results (``functools.lru_cache``), and sizes among their arguments.

A size equals the plain integer of its value. So such a function answers a call with sizes by what
it once computed of integers, which has no source; and after the recording it would answer integers
by what it computed of sizes. Code that calls one hashes its arguments: the journal notes whose code
hashed a size. einops, for one, keeps its recipes in this way.
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
    functions = (x for x in gc.get_objects() if type(x) is _CACHED)
    return [cached for cached in functions if getattr(cached, "__name__", "") in names]


def forget_sizes(functions: Iterable[Any]) -> None:
    """Drop what these functions were asked with sizes; one with a limit drops everything."""
    for cached in functions:
        kept = _without_sizes(cached)
        table = _table(cached)
        cached.cache_clear()
        table.update(kept)


@contextmanager
def forgetful(functions: Iterable[Any]) -> Iterator[None]:
    """These functions' caches are empty when the block begins, and keep nothing of it.

    A cache without a limit gets back what it held, which may be nowhere else. One with a limit
    stays empty: it drops entries anyhow, and they are computed anew.
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
