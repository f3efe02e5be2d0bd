"""Call a function in a Python file of the user's: ``path/to/file.py:function``.

The file is executed because the user named it. It is executed once per version of the file, so
that its classes keep their identity, and with its own folder on the import path, as when it is
run as a program.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from slimnet.errors import InputError, SlimnetError


def call_in_file(spec: str, options: Mapping[str, Any]) -> Any:
    """Call ``path/to/file.py:function`` with ``options``.

    Raises InputError where there is no such file or function, or where one of them fails.
    """
    name, colon, function = spec.rpartition(":")
    if not colon:
        raise InputError(f"{spec!r} names no function: write path/to/file.py:function")
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"{spec}: there is no file {name}")
    with _importable(path.resolve().parent), _named(spec):
        module = _execute(path.resolve(), path.stat().st_mtime_ns)
        return _function(module, function, spec)(**options)


@contextmanager
def _named(spec: str) -> Iterator[None]:
    """Say which file failed, whatever it raised."""
    try:
        yield
    except SlimnetError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{spec} failed: {type(error).__name__}: {error}") from error


@cache
def _execute(path: Path, version: int) -> ModuleType:
    digest = hashlib.blake2b(f"{path} {version}".encode(), digest_size=6).hexdigest()
    spec = importlib.util.spec_from_file_location(f"slimnet_user_{path.stem}_{digest}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _function(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    defined = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    raise InputError(
        f"{spec}: the file defines no function {name!r}; "
        f"it defines {', '.join(sorted(defined)) or 'none'}"
    )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
