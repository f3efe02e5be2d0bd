"""What stands where a residual branch was: modules that give their input, or zeros.

The user's forward code stays as it is: it calls these in place of what left. :class:`Stub` says in
plain data which module is replaced by what, so that a fresh process can do the same again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.errors import InputError
from slimnet.limits import checked_name, checked_path
from slimnet.network import Network

PASSED, ZEROS, ZERO = "input", "zeros", "zero"


@dataclass(frozen=True)
class Stub:
    """One module that leaves, and what stands there instead.

    ``by`` is "input" (it hands its first tensor on, through ``steps``), "zeros" (as many as that
    tensor has) or "zero" (one, which adds to any shape); ``paired``, with None beside it. ``steps``
    are children of the module that stay, such as a projection, or "(relu)".
    """

    module: str
    by: str
    steps: tuple[str, ...] = ()
    paired: bool = False

    def drops(self, name: str) -> bool:
        """Whether a tensor of this name (or a module's, with a dot behind it) leaves with it."""
        kept = any(name.startswith(f"{self.module}.{step}.") for step in self.steps)
        return name.startswith(f"{self.module}.") and not kept

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Stub:
        """Read what :func:`dataclasses.asdict` gave; raises ValueError for an unknown kind."""
        if row["by"] not in (PASSED, ZEROS, ZERO):
            raise ValueError(f"nothing stands for a module by {row['by']!r}")
        steps = tuple(checked_name(step, "module's name") for step in row["steps"])
        return cls(checked_path(row["module"], "module"), row["by"], steps, bool(row["paired"]))


class Passed(nn.Module):
    """Gives its first tensor, through what is left of the block: a projection, a ReLU."""

    def __init__(self, steps: Iterable[tuple[str, nn.Module | None]] = ()) -> None:
        super().__init__()
        self.steps = []
        for name, module in steps:
            self.steps.append(name)
            if module is not None:
                self._modules[name] = module

    def forward(self, *args: Any, **named: Any) -> Any:
        """The shortcut of ``args``' first tensor."""
        x = _first(args, named)
        for name in self.steps:
            x = self._modules[name](x) if name in self._modules else torch.relu(x)  # type: ignore[misc]
        return x


class Zeros(nn.Module):
    """What a branch without its last layer adds: zeros of its first tensor's shape, or one zero.

    One zero, of as many axes, costs nothing, and runtimes leave its addition out; it cannot stand
    where code goes on with it, or adds to it in place.
    """

    def __init__(self, *, whole: bool, paired: bool = False) -> None:
        super().__init__()
        self.whole = whole
        self.paired = paired

    def forward(self, *args: Any, **named: Any) -> Any:
        """Zeros; with None beside them where the caller takes a pair apart."""
        x = _first(args, named)
        zeros = (
            torch.zeros_like(x)
            if self.whole
            else torch.full([1] * x.dim(), 0.0, dtype=x.dtype, device=x.device)
        )
        return (zeros, None) if self.paired else zeros


def _first(args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    return next(x for x in chain(args, named.values()) if isinstance(x, Tensor))


def replace_modules(network: Network, stubs: Iterable[Stub]) -> None:
    """Put each stub where its module is, in place; what lies inside a replaced one is skipped.

    The network is stale then. Raises :class:`InputError` for a module that it does not have.
    """
    modules = network.modules
    holders: dict[int, list[nn.Module]] = defaultdict(list)  # of each module; it may have several
    for module in modules.values():
        _hold(holders, module)
    done: list[Stub] = []
    for stub in sorted(stubs, key=lambda stub: stub.module.count(".")):
        if any(other.drops(f"{stub.module}.") for other in done):
            continue
        if not stub.module or stub.module not in modules:
            raise InputError(f"the plan drops {stub.module}, which this network does not have")
        old = modules[stub.module]
        new = _replacement(stub, old)
        _exchange(holders[id(old)], old, new)
        _hold(holders, new)
        done.append(stub)


def _hold(holders: dict[int, list[nn.Module]], module: nn.Module) -> None:
    for child in vars(module)["_modules"].values():
        holders[id(child)].append(module)


def _replacement(stub: Stub, old: nn.Module) -> nn.Module:
    children = vars(old)["_modules"]
    if missing := [step for step in stub.steps if step not in children and step != RELU]:
        raise InputError(f"the plan keeps {stub.module}.{missing[0]}, which is not there")
    new: nn.Module = Zeros(whole=stub.by == ZEROS, paired=stub.paired)
    if stub.by == PASSED:
        new = Passed((step, children.get(step) if step != RELU else None) for step in stub.steps)
    _resemble(new, old)
    return new.train(bool(getattr(old, "training", False)))


def _resemble(new: nn.Module, old: nn.Module) -> None:
    """Give it the plain attributes that others may read, and None for each parameter."""
    for name, value in vars(old).items():
        if type(value) in (bool, int, float, str):
            vars(new).setdefault(name, value)
    for name in vars(old)["_parameters"]:
        new.register_parameter(name, None)


RELU = "(relu)"
"""The step that is no child but the function: no module has this name."""


def _exchange(holders: Iterable[nn.Module], old: nn.Module, new: nn.Module) -> None:
    """Under every name that the old module has."""
    for module in holders:
        children = vars(module)["_modules"]
        for name, child in children.items():
            if child is old:
                children[name] = new
                if isinstance(module, nn.TransformerEncoderLayer):
                    module.activation_relu_or_gelu = 0  # its fused kernel reads what has left
