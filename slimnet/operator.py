"""What slimnet knows of an ATen operator: one record, with a column for each fact.

The records lie in :mod:`slimnet.operators`, a file for each family, beside the functions that they
name; others come from plug-ins and from :func:`rule`. They are imported when the first is looked
up, so that a module below them may look one up. A column that an operator does not have holds
:class:`Nothing`, and why: none has a default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from slimnet.registry import Registry


@dataclass(frozen=True)
class Nothing:
    """What a column holds that the operator does not have."""

    why: str = ""

    def __bool__(self) -> Literal[False]:
        return False


class Reading(Enum):
    """What a result holds of the slots of an operand's axis."""

    EACH = "each place is made of that slot alone"
    PART = "some slots are taken, each as it is"
    ALL = "all slots are in every place"


class Link(Enum):
    """How an operator continues the chain from a weight to what becomes of the layer's output."""

    VIEW = "hands a layer's output on, in another shape"
    SUM = "adds it to another tensor"
    TURN = "turns a weight on its way to the layer"


class Layout(Enum):
    """Whether an operator changes numbers, or only how and as what they lie in memory."""

    COMPUTES = "changes or moves numbers"
    LAYS = "lays out anew, which may depend on lengths"
    CONVERTS = "changes a type, of which float64 needs other ones"


class Double(Enum):
    """How an operator runs in float64, where it is not a function that does it."""

    ITSELF = "as it is"
    SINGLE = "knows single precision only"
    ZEROS = "leaves whatever lay in memory: zeros stand for it"


@dataclass(frozen=True)
class Whole:
    """Public functions that are recorded as one call of the operator.

    What they are made of depends on type and device, so one rule for the whole is simpler and
    surer than rules for its parts.
    """

    functions: tuple[Callable[..., Any], ...]
    fits: Callable[[Sequence[Any]], bool] = lambda args: True  # which overload these arguments are


Rule: TypeAlias = Callable[..., Any]
"""(at, *args, **kwargs) → the labels of each result's axes: :mod:`slimnet.coupling.at`."""
ZeroArguments: TypeAlias = Callable[[Any], list[list[Any]]]
"""call → alternatives; of each, every argument must be zero for the first result to be."""
Step: TypeAlias = Callable[[Any, Any, Any, int], list[tuple[Any, Any]]]
"""(way, call, box, which result) → operands to multiply: :mod:`slimnet.coupling.scaling.steps`."""
Factors: TypeAlias = Callable[[Any], Sequence[tuple[Any, int]]]
"""call → arguments by which it may multiply the others, each with the power that it has there."""
Products: TypeAlias = list[tuple[int, list[tuple[Any, int]]]]
"""Per product: a factor, and the axes (tensor, dimension) whose lengths it multiplies."""
Formula: TypeAlias = Callable[[Any], Products]
Sums: TypeAlias = list[tuple[torch.Tensor, int, torch.Tensor, int]]
"""One operand and its axis, the other and its axis: a call sums over both together."""
ArgumentCheck: TypeAlias = Callable[[Sequence[Any]], "str | None"]
"""arguments → what its kernel would not see is wrong with them; None where all is well."""
Restate: TypeAlias = Callable[[Sequence[Any], list[Any], dict[str, Any]], list[Any]]
"""(original arguments, those cut to what survives, those by name) → the arguments to run on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator:
    """One operator, or several that differ in nothing that is asked here."""

    names: tuple[str, ...]
    """"aten.flip" for all its overloads, "aten.max.dim" for one, a tag of ATen's for what has no
    record of its own. What this PyTorch lacks is passed over."""

    labels: Rule | Nothing
    sizes: tuple[str, ...]
    """Public functions whose integers are lengths of its axes."""
    values: bool
    """Whether its rule looks at the values of integer tensors."""
    reading: Reading | Callable[[Any], Reading] | Nothing
    """Of all operands, or (a function of the call) depending on its arguments."""

    zeros: ZeroArguments | Nothing
    added: tuple[int, ...]
    """Places of arguments that are only added: they do not scale the result."""
    scaling: Step | Nothing
    moves: bool
    """Whether each element of a result is one of an operand's, or zero."""
    factors: Factors | Nothing

    costs: Mapping[str, Formula] | Nothing
    """By the name of the cost, such as "macs": :mod:`slimnet.costs.quantity`."""
    reads: Callable[..., Sums] | Nothing
    """(*args) → what it sums over, of which weights may be one side."""
    layer: Callable[[Any, Any], Any] | Nothing
    """(call, graph) → itself as least squares: :mod:`slimnet.reconstruction.consumers`."""
    norm: Callable[[Any], Any] | Nothing
    """call → the batch norm in evaluation that it is, or None."""
    link: Link | Nothing
    differentiable: bool
    """Whether its calls may be run again, alone, with gradients."""

    layout: Layout
    double: Callable[..., Any] | Double
    restate: Restate | Nothing
    """Where its arguments hold lengths, or it computes a number from one."""
    whole: Whole | Nothing
    permitted: bool | str | ArgumentCheck
    """Whether a program from a file may hold it: after this check, or why not."""


OPERATORS: Registry[Operator] = Registry(
    "operator rule", "slimnet.operators", folder="slimnet.operators"
)
"""By the full name of the overload, or of the tag."""


def register(operator: Operator) -> Operator:
    """Add a record for each overload that it stands for."""
    for name in operator.names:
        for overload in overloads(name):
            OPERATORS.add(overload, operator)
    return operator


def overloads(name: str) -> list[str]:
    """The full names behind one that a record gives."""
    if "." not in name:
        return [name]  # a tag
    namespace, packet, *wanted = name.split(".")
    found = getattr(getattr(torch.ops, namespace), packet, None)
    known = found.overloads() if found is not None else ()
    return [f"{namespace}.{packet}.{each}" for each in known if each in (wanted or known)]


def overload(name: str) -> Any:
    """The operator of a full name."""
    namespace, packet, each = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), each)


def of(op: Any) -> Operator:
    """The record of an overload; by ATen's tag, or :data:`UNKNOWN`, where it has none itself."""
    known = OPERATORS.get(str(op))
    if known is not None:
        return known
    return OPERATORS[_POINTWISE] if torch.Tag.pointwise in op.tags else UNKNOWN


_POINTWISE = "pointwise"


def draws(op: Any) -> bool:
    """Whether it draws random numbers, one for each element; one recorded whole draws inside."""
    return torch.Tag.nondeterministic_seeded in op.tags and not of(op).whole


Fits: TypeAlias = Callable[[Sequence[Any]], bool]


def wholes() -> Mapping[Any, tuple[tuple[Any, Fits], ...]]:
    """The overloads that stand for a public function, and for themselves."""
    return _wholes(len(OPERATORS))


@lru_cache(maxsize=1)
def _wholes(count: int) -> Mapping[Any, tuple[tuple[Any, Fits], ...]]:
    found: dict[Any, list[tuple[Any, Fits]]] = defaultdict(list)
    for name in OPERATORS:
        whole = OPERATORS[name].whole
        if whole:
            op = overload(name)
            found[op].append((op, lambda args: True))
            for function in whole.functions:
                found[function].append((op, whole.fits))
    return {function: tuple(rows) for function, rows in found.items()}


_UNSAID = Nothing("nobody has said")
UNKNOWN = Operator(
    names=(),
    labels=Nothing("has no rule"),
    sizes=(),
    values=False,
    reading=Reading.ALL,
    zeros=_UNSAID,
    added=(),
    scaling=_UNSAID,
    moves=False,
    factors=_UNSAID,
    costs=_UNSAID,
    reads=_UNSAID,
    layer=_UNSAID,
    norm=_UNSAID,
    link=_UNSAID,
    differentiable=False,
    layout=Layout.COMPUTES,
    double=Double.ITSELF,
    restate=_UNSAID,
    whole=_UNSAID,
    permitted=False,
)
"""An operator that nobody has described: it pins what it touches."""

F = TypeVar("F", bound=Rule)


def rule(*operators: Any, **columns: Any) -> Callable[[F], F]:
    """Register a rule for operators: an overload, a packet for all its overloads, or its name.

    One that some versions of PyTorch lack may be named by a string, ``"aten.name"``. ``columns``
    are further facts of :class:`Operator`; what is left out, nobody has said.
    """
    unknown = columns.keys() - {column.name for column in fields(Operator)} | columns.keys() & _OWN
    if unknown:
        known = ", ".join(c.name for c in fields(Operator) if c.name not in _OWN)
        raise ValueError(f"an operator has no column {min(unknown)!r}: the columns are {known}")

    def add(function: F) -> F:
        OPERATORS.load()
        sized = {name for entry in OPERATORS for name in OPERATORS[entry].sizes}
        said = {"sizes": tuple(sorted(sized)), **columns}
        register(replace(UNKNOWN, names=tuple(map(str, operators)), labels=function, **said))
        return function

    return add


_OWN = {"names", "labels"}
