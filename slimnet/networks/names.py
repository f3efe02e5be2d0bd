"""Matches the names in a state dict to those of a network: prefixes of wrappers, foreign entries.

A training script saves more than the network: counters of a profiler, the weights of a loss. Such
entries may be ignored where everything else fits; an entry that may be a layer is never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, compile, Lightning

# thop's counters of operators, torch's of averaged models: no network computes with them.
_COUNTERS = ("total_ops", "total_params", "n_averaged")
# A whole part of a network that is called so is what training measured it by.
_TRAINING = re.compile(r"(\w*_)?(loss|loss_fn|criterion|metrics?|acc|accuracy)(_\w*)?\d*$")


def shared_prefix(names: Iterable[str]) -> str:
    """Return the wrappers' prefixes that all names share, such as ``module.``, or nothing."""
    names = list(names)
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix + shared_prefix(name.removeprefix(prefix) for name in names)
    return ""


def is_beside(name: str) -> bool:
    """Whether an entry is there for training or profiling only, by its name alone."""
    top, dot, _ = _bare(name).partition(".")
    return name.rpartition(".")[2] in _COUNTERS or bool(dot and _TRAINING.match(top))


def is_own_state(name: str) -> bool:
    """Whether an entry is what a module's ``get_extra_state`` gave, which need not be a tensor."""
    return name.rpartition(".")[2] == "_extra_state"


def _bare(name: str) -> str:
    for prefix in PREFIXES[:2]:
        name = name.removeprefix(prefix)
    return name


def is_apart(name: str, own: Iterable[str]) -> bool:
    """Whether an entry belongs to a whole part that the network does not have.

    A further layer of a part that it does have, or a parameter of its own, is not apart: a network
    that lacks it is another one.
    """
    top, dot, _ = name.partition(".")
    return bool(dot) and not top.isdigit() and not any(n.startswith(f"{top}.") for n in own)


def aligned(state: Mapping[str, T], own: Iterable[str]) -> dict[str, T]:
    """The entries under the network's own names, as far as prefixes tell them.

    The wrappers' prefix may be missing from what lies beside the weights; a network may itself have
    the name of a wrapper.
    """
    own = set(own)
    choices = [dict(state), _prefixed(state, shared_prefix(own))]
    choices += [_stripped(state, prefix) for prefix in _prefixes(state)]
    return max(choices, key=lambda choice: len(own & choice.keys()))


def _prefixed(state: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {prefix + name: entry for name, entry in state.items()}


def _stripped(state: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): entry for name, entry in state.items()}


def _prefixes(names: Iterable[str]) -> list[str]:
    """The chains of wrappers' prefixes that some names begin with."""
    pattern = re.compile(f"(?:{'|'.join(map(re.escape, PREFIXES))})+")
    return sorted({found[0] for name in names if (found := pattern.match(name))})
