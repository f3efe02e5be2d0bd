"""A cut as a text that a person reviews and edits, and the request that it makes.

``slimnet prune --dry-run`` writes it, ``slimnet prune --plan`` applies it. A row stands for a
group: its layers, how many channels it has and would have, and under ``keep`` the channels of the
row's first layer that stay. Only ``keep``, ``drop_blocks`` and ``outputs`` are read again;
``keep`` may be edited to other channels, or to their number: then the criterion chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimnet.coupling.groups import Group
from slimnet.errors import InputError
from slimnet.limits import from_json
from slimnet.plan.plan import Plan
from slimnet.planning.prescribed import Part, part_of
from slimnet.planning.request import Keep
from slimnet.ranges import parse_indices, written

HOW = (
    "edit keep (channels that stay, or how many of them: then the criterion chooses) and "
    "drop_blocks, then: slimnet prune MODEL --plan THIS"
)


def review_of(plan: Plan, groups: Sequence[Group]) -> dict[str, Any]:
    """A plan as such a text, as JSON holds it; ``groups`` are those that it was made of."""
    return {
        "how": HOW,
        "asked": dict(plan.asked or {}),
        "before": dict(plan.before or {}),
        "after": dict(plan.after or {}),
        "groups": list(_rows(plan, groups)),
        "drop_blocks": [block.name for block in plan.blocks],
        "outputs": list(plan.outputs),
        "untouched": dict(plan.untouched),
        "notes": list(plan.notes),
    }


def _rows(plan: Plan, groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    for group, cut in zip(groups, plan.groups, strict=True):
        parts = (part_of(group, layer) for layer in group.layers)
        part = next((part for part in parts if part is not None), None)
        if part is None:
            continue
        yield {
            "layers": [part.layer, *(name for name in group.layers if name != part.layer)],
            "channels": written(part.channels),
            "before": cut.before,
            "after": cut.after,
            "keep": written(_kept(part, plan)),
            "why": cut.why,
        }


def _kept(part: Part, plan: Plan) -> tuple[int, ...]:
    gone = plan.removed.get(part.axis.name, {}).get(part.axis.dim, ())
    return tuple(np.setdiff1d(part.axis.positions, gone).tolist())


def read_review(path: Path) -> dict[str, Any]:
    """The fields of a request that a file asks for: ``widths``, ``drop_blocks``, ``outputs``.

    Raises :class:`InputError` for a file that is no such text, and names the row.
    """
    data = from_json(_text(path), str(path))
    try:
        blocks, outputs = (_names(data, key) for key in ("drop_blocks", "outputs"))
        widths = {_name(row): _keep(row) for row in data["groups"]}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} is no plan to apply: slimnet prune --dry-run writes one ({error!r})"
        ) from error
    return {"widths": widths, "drop_blocks": blocks, "outputs": outputs}


def _text(path: Path) -> str:
    try:
        if not path.exists():
            raise InputError(f"there is no file {path}: slimnet prune --dry-run writes a plan")
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is no plan: it is no file, or larger than 64 MiB")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no plan that can be read: {error}") from error


_MOST_BYTES = 2**26


def _names(data: Mapping[str, Any], key: str) -> list[str]:
    names = data.get(key, [])
    if not isinstance(names, list):
        raise TypeError(f"{key} is no list")
    return list(map(str, names))


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['layers'][0]}:{row['channels']}"


def _keep(row: Mapping[str, Any]) -> Keep:
    keep = row["keep"]
    if isinstance(keep, bool) or not isinstance(keep, (int, str)):
        raise InputError(f"{_name(row)}: keep {keep!r} is no number, and no channels as 0-3, 7")
    return keep if isinstance(keep, int) else parse_indices(keep)
