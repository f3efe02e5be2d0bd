"""One registry per kind of extension: it refuses duplicates and lists what it knows."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from slimnet.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named values of one kind, e.g. ``Registry("criterion")``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        """Register ``value``; raises ``ValueError`` where the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = value
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a value (a function, a class) to register it as ``name``."""
        return lambda value: self.add(name, value)

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries))
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}: the known ones are {known}"
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


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
