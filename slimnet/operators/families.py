"""What the operators of a family have in common, said once; and what makes a result zero."""

from __future__ import annotations

from functools import partial
from typing import Any

from slimnet.capture.graph import Call, Ref
from slimnet.operator import Double, Layout, Nothing, Operator, Reading

NOT_LINEAR = Nothing("a factor does not pass through it")
IN_PLACE = Nothing("what it overwrites is not followed")
UNFOLLOWED = Nothing("where its elements come from is not followed")
NO_FACTOR = Nothing("multiplies by no number")
NO_PRODUCT = Nothing("sums no products")
NO_LINK = Nothing("stands between no layer and its sum")
SHOWS = Nothing("what it gives for zeros is not zero")

plain = partial(
    Operator,
    sizes=(),
    values=False,
    added=(),
    factors=NO_FACTOR,
    norm=Nothing("is no batch norm"),
    layout=Layout.COMPUTES,
    double=Double.ITSELF,
    restate=Nothing("states no length of an axis that leaves"),
    whole=Nothing("is recorded as it runs"),
)
"""Most operators: recorded as they run, run in float64 as they are."""

plain_sum_free = partial(plain, costs=NO_PRODUCT, reads=NO_PRODUCT, layer=NO_PRODUCT)
"""Those that multiply no two operands with each other and sum over an axis."""


def first(call: Call) -> list[list[Any]]:
    """Zero where the first argument is."""
    return [[call.args[0]]]


def listed(call: Call) -> list[list[Any]]:
    """Zero where all tensors of a list are."""
    return [list(call.args[0])]


def always(call: Call) -> list[list[Any]]:
    """Zero whatever it is given."""
    return [[]]


def present(*args: Any) -> list[Any]:
    """Those of some arguments that are given."""
    return [arg for arg in args if arg is not None]


moving = partial(
    plain_sum_free,
    reading=Reading.EACH,
    zeros=first,
    moves=True,
    link=NO_LINK,
    permitted=True,
)
"""Those that put elements elsewhere."""


slot_by_slot = partial(
    plain_sum_free,
    reading=Reading.EACH,
    zeros=first,
    scaling=NOT_LINEAR,
    moves=False,
    link=NO_LINK,
    differentiable=False,
    permitted=True,
)
"""Those that compute each slot of the channels alone, zero from zeros."""


def is_parameter(argument: Any) -> bool:
    """Whether it is a parameter itself, and nothing that was computed."""
    return isinstance(argument, Ref) and argument.kind == "parameter"
