"""slimnet: structured channel pruning for PyTorch, with a proof of every cut.

The public names come with the first that is used, for ``slimnet --help`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from slimnet.version import __version__ as __version__

if TYPE_CHECKING:
    from slimnet.public import *  # noqa: F403  (its __all__ is the list)
else:

    def __getattr__(name: str) -> Any:
        """A module of this package, or a public name: no module has the name of one."""
        if name.startswith("_") and name != "__all__":  # Python itself asks for such
            raise AttributeError(f"module 'slimnet' has no attribute {name!r}")
        if find_spec(f"slimnet.{name}") is not None:
            return import_module(f"slimnet.{name}")
        return getattr(import_module("slimnet.public"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("slimnet.public").__all__})
