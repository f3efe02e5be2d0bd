"""One registry per kind of extension: it refuses duplicates and lists what it knows.

What is registered comes from slimnet's own modules and from the entry points of installed
distributions. Both are imported by name when something is first asked for, so that whoever asks may
stand below what is registered. A plug-in that cannot be loaded is one sentence, for those who ask
for it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Generic, TypeVar

from slimnet.errors import InputError, UnknownNameError
from slimnet.text import first_line_with_kind

T = TypeVar("T")


class Registry(Generic[T]):
    """Named values of one kind, e.g. ``Registry("criterion", "slimnet.criteria")``.

    ``group`` is that of the entry points: each names a module whose import registers something, or
    a value, which is registered under the entry point's own name. ``folder`` is a package of
    slimnet whose modules register.
    """

    def __init__(self, kind: str, group: str | None = None, *, folder: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self.broken: dict[str, str] = {}  # entry point → why it cannot be loaded
        self._folder = folder
        self._entries: dict[str, T] = {}
        self._lent: ContextVar[Mapping[str, T] | None] = ContextVar(kind, default=None)
        self._lock = RLock()
        self._loading = self._loaded = False

    def add(self, name: str, value: T) -> T:
        """Register ``value``; raises ``ValueError`` where the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = value
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a value (a function, a class) to register it as ``name``."""
        return lambda value: self.add(name, value)

    @contextmanager
    def lent(self, name: str, value: T) -> Iterator[None]:
        """Within it, and in this thread alone, the name stands for this value."""
        token = self._lent.set({**(self._lent.get() or {}), name: value})
        try:
            yield
        finally:
            self._lent.reset(token)

    def load(self) -> None:
        """Import what registers, once; what is registered meanwhile asks for what is there."""
        if self._loaded:
            return
        with self._lock:
            if self._loading:
                return
            self._loading = True
            try:
                self._import()
                self._loaded = True
            finally:
                self._loading = self._loaded

    def _import(self) -> None:
        if self._folder is not None:
            import_all(self._folder, list(importlib.import_module(self._folder).__path__))
        for point in entry_points(group=self.group) if self.group else ():
            self._plug_in(point)

    def _plug_in(self, point: EntryPoint) -> None:
        """Whatever a plug-in raises, the others are loaded, and nothing of it is left."""
        before = dict(self._entries)
        try:
            value = point.load()
            if not isinstance(value, ModuleType):
                self.add(point.name, value)
        except Exception as error:
            self._entries = before
            self.broken[point.name] = _refusal(point, error)

    def __getitem__(self, name: str) -> T:
        self.load()
        if (value := self.get(name)) is not None:
            return value
        if name in self.broken:
            raise InputError(self.broken[name])
        known = ", ".join(sorted(self._entries))
        text = "; ".join([f"the known ones are {known}", *self.broken.values()])
        raise UnknownNameError(f"unknown {self.kind} {name!r}: {text}")

    def get(self, name: str) -> T | None:
        """The value of a name; None where there is none."""
        self.load()
        return (self._lent.get() or self._entries).get(name, self._entries.get(name))

    def __contains__(self, name: str) -> bool:
        self.load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self.load()
        return len(self._entries)


def _refusal(point: EntryPoint, error: Exception) -> str:
    owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
    what = first_line_with_kind(error)
    return (
        f"the plug-in {point.name} of {owner} cannot be loaded ({what}): repair or uninstall "
        f"{point.dist.name if point.dist else point.value}"
    )


def import_all(package: str, path: list[str]) -> None:
    """Import every module of a package's folder, so that what it registers is known."""
    for found in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{found.name}")


def declared(folder: Path, registry: str, group: str | None = None) -> list[str]:
    """The names that the files of a folder add to a registry, read from them without running them.

    For help, which must not wait for what the files import. ``registry`` is its variable's name;
    entry points of the ``group`` are called as what they add.
    """
    adds = re.compile(rf'^@?{registry}\.(?:add|register)\(\s*"([^"]+)"', re.MULTILINE)
    texts = (path.read_text("utf-8") for path in folder.glob("*.py"))
    plugged = [point.name for point in entry_points(group=group)] if group else []
    return sorted({*plugged, *(name for text in texts for name in adds.findall(text))})
