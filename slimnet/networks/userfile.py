"""Call a function of the user's: ``path/to/file.py:function`` or ``package.module:function``.

The file is executed because the user named it. It is executed once per version of the file, so
that its classes keep their identity, and with its own folder on the import path, as when it is
run as a program. One that imports relatively is executed as a part of the package that its folders
are.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from slimnet.errors import InputError, SlimnetError
from slimnet.exclusive import exclusive


def call_in_file(spec: str, options: Mapping[str, Any], args: Sequence[Any] = ()) -> Any:
    """Call ``path/to/file.py:function``, or ``package.module:function``, with these arguments.

    Raises InputError where there is no such file, module or function, or where one of them fails.
    """
    name, colon, function = spec.rpartition(":")
    if not colon:
        raise InputError(f"{spec!r} names no function: write path/to/file.py:function")
    path = Path(name).expanduser()
    if path.suffix != ".py" and names_module(name):
        with _importable(Path.cwd()), _named(spec):
            return _function(importlib.import_module(name), function, spec)(*args, **options)
    if not path.is_file():
        raise InputError(f"{spec}: there is no file {name}")
    with _importable(path.resolve().parent), _named(spec):
        module = _execute(path.resolve(), path.stat().st_mtime_ns)
        return _function(module, function, spec)(*args, **options)


def names_module(name: str) -> bool:
    """Whether a dotted name is that of a module that can be imported, from here or as installed.

    A name without a dot must lie here: it may be the misspelt name of something else.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    top = name.partition(".")[0]
    here = Path.cwd()
    if (here / f"{top}.py").is_file() or (here / top).is_dir():
        return True
    return "." in name and importlib.util.find_spec(top) is not None


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
    levels = _levels(path)
    if levels:
        return _execute_in_package(path, levels, f"slimnet_user_{digest}")
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


def _levels(path: Path) -> int:
    """How many folders its relative imports go up; 0 where it has none."""
    tree = ast.parse(path.read_bytes(), str(path))
    return max((n.level for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)), default=0)


def _execute_in_package(path: Path, levels: int, root: str) -> ModuleType:
    """As a module of the package that its folders are, under a name that nothing else has."""
    folders = list(path.parents)
    packages = next(n for n, f in enumerate(folders) if not (f / "__init__.py").is_file())
    depth = min(max(levels, packages), len(folders) - 1)
    outer = ModuleType(root)
    outer.__path__ = [str(folders[depth])]
    sys.modules[root] = outer
    inner = [folder.name for folder in reversed(folders[:depth])]
    try:
        with _importable(folders[depth]):
            return importlib.import_module(".".join([root, *inner, path.stem]))
    except BaseException:
        for name in [name for name in sys.modules if name.split(".")[0] == root]:
            del sys.modules[name]
        raise


def _function(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
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
    """Files find what lies beside them by the path of the process: one thread at a time."""
    with exclusive():
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            with suppress(ValueError):  # the file itself may have taken it out
                sys.path.remove(str(folder))
