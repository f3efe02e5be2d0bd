"""What a record says of its operator is so: one law for each column, tried on the examples.

Where a column holds nothing although the law would hold, the test says so as well: a fold, a repair
or a cost that is missing does not go unnoticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from operators import EXAMPLES
from test_registry import Holder, labelled
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from slimnet.capture.composites import composite, is_composite
from slimnet.capture.graph import Call, Ref
from slimnet.capture.sites import Site
from slimnet.capture.trace import capture
from slimnet.coupling.scaling.boxes import Box, NotLinear, whole
from slimnet.coupling.scaling.steps import Way
from slimnet.network import Network
from slimnet.operator import (
    OPERATORS,
    UNKNOWN,
    Double,
    Layout,
    Nothing,
    Operator,
    Reading,
    draws,
    of,
    register,
    rule,
)
from slimnet.reconstruction.consumers import consumers_of

NAMES = sorted({name.split(".")[1] for name in OPERATORS if "." in name})
COLUMNS = [column.name for column in fields(Operator)]


# ---------------------------------------------------------------------------- one call, with values


@dataclass(frozen=True)
class Tried:
    """A call of an example, and the tensors behind its records."""

    call: Call
    values: dict[int, Tensor]

    def run(self, changed: dict[int, Tensor] | None = None) -> list[Tensor]:
        """Its results, with other tensors for some operands; nothing is overwritten."""

        def value(leaf: Any) -> Any:
            known = {**self.values, **(changed or {})}
            return known[leaf.id].clone() if isinstance(leaf, Ref) else leaf

        args, kwargs = tree_map(value, (self.call.args, dict(self.call.kwargs)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return tensors(self.call.op(*args, **kwargs))

    def floats(self) -> list[Ref]:
        """Operands that hold real numbers."""
        refs = [x for x in tree_leaves((self.call.args, self.call.kwargs)) if isinstance(x, Ref)]
        return [ref for ref in dict.fromkeys(refs) if ref.dtype.is_floating_point]


def tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


class Calls(TorchDispatchMode):
    """Keeps the calls of one operator with their values."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.found = name, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        if str(func).split(".")[1] != self.name:
            return func(*args, **kwargs)
        values: dict[int, Tensor] = {}

        def recorded(leaf):
            if not isinstance(leaf, Tensor):
                return leaf
            values[id(leaf)] = leaf.detach().clone()
            kind = "parameter" if isinstance(leaf, nn.Parameter) else "activation"
            return Ref(id(leaf), tuple(leaf.shape), None, kind, leaf.dtype)

        made, named = tree_map(recorded, (list(args), dict(kwargs)))
        result = func(*args, **kwargs)
        refs = [Ref(-1 - n, tuple(x.shape), dtype=x.dtype) for n, x in enumerate(tensors(result))]
        site = Site("", 0, "", "")
        self.found.append(Tried(Call(0, func, tuple(made), named, tuple(refs), site, None), values))
        return result


class Wholes(TorchFunctionMode):
    """Public functions that are recorded as one call."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func, types, args=(), kwargs=None):
        op = composite(func, args)
        if op is None:
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return self.calls.run(op, args, kwargs or {})


def tried(name: str) -> list[Tried]:
    """The calls of an operator in its example, in float64 where it runs in that."""
    model = Holder(EXAMPLES[name])
    single = any(OPERATORS[n].double is Double.SINGLE for n in OPERATORS if f".{name}." in n)
    calls = Calls(name)
    with torch.no_grad(), calls, Wholes(calls), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (model if single else model.double())()
    assert calls.found, f"the example of {name} does not call it"
    return calls.found


def known(name: str, column: str) -> list[Tried]:
    """Calls whose operator has something in a column."""
    return [t for t in tried(name) if getattr(of(t.call.op), column)]


def having(column: str, kind: Any = None) -> list[str]:
    """Names of operators with an example that have something (or just this) in a column."""

    def has(value: Any) -> bool:
        return bool(value) if kind is None else value is kind

    found = {n.split(".")[1] for n in OPERATORS if has(getattr(OPERATORS[n], column)) and "." in n}
    return sorted(found & EXAMPLES.keys())


# ---------------------------------------------------------------------------------- every cell


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_says_something_in_every_column(name):
    for overload in (n for n in OPERATORS if n.split(".")[1:2] == [name]):
        record = OPERATORS[overload]
        for column in COLUMNS:
            value = getattr(record, column)
            assert value is not None, column
            assert not isinstance(value, Nothing) or value.why, f"{column}: nothing, and no reason"


def test_no_column_has_a_default():
    with pytest.raises(TypeError, match="differentiable"):
        Operator(**{name: getattr(UNKNOWN, name) for name in COLUMNS if name != "differentiable"})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_in_one_column_fits_the_others(name):
    for overload in (n for n in OPERATORS if n.split(".")[1:2] == [name]):
        record = OPERATORS[overload]
        if record.layer:
            assert record.reads and record.costs and record.zeros and record.scaling
            assert record.differentiable
        if record.reads or record.layer:
            assert "macs" in record.costs
        if record.norm:
            assert record.zeros and record.scaling and record.added
        if record.layout is not Layout.COMPUTES:
            assert record.moves and record.zeros
        assert isinstance(record.labels, Callable)


# ---------------------------------------------------------------------------------- zeros


@pytest.mark.parametrize("name", having("zeros"))
def test_what_has_to_be_zero_makes_the_result_zero(name):
    for one in known(name, "zeros"):
        for needed in of(one.call.op).zeros(one.call):
            refs = [x for x in needed if isinstance(x, Ref)]
            zeroed = {ref.id: torch.zeros_like(one.values[ref.id]) for ref in refs}
            assert not one.run(zeroed)[0].count_nonzero()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_what_would_be_zero_is_said_to_be(name):
    for one in tried(name):
        zeroed = {ref.id: torch.zeros_like(one.values[ref.id]) for ref in one.floats()}
        result = one.run(zeroed)[0]
        if not zeroed or not result.is_floating_point() or draws(one.call.op):
            continue
        if result.isnan().any():
            continue  # 0/0: nobody zeroes both
        zeros = of(one.call.op).zeros
        if result.count_nonzero():
            assert not zeros or not zeros(one.call) or [] in zeros(one.call)
        elif not isinstance(zeros, Nothing):
            assert zeros(one.call)
        else:
            assert name in NEVER_ALL_ZERO


NEVER_ALL_ZERO = {
    *("lstm", "gru", "rnn_tanh", "rnn_relu"),  # with all weights and states: no branch ends so
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    *("empty_like", "new_empty", "new_empty_strided"),  # whatever lay there
}


@pytest.mark.parametrize("name", having("added"))
def test_what_is_only_added_does_not_scale_the_rest(name):
    for one in known(name, "added"):
        for place in of(one.call.op).added:
            if isinstance(ref := one.call.args[place], Ref):
                value = one.values[ref.id]
                steps = [one.run({ref.id: value + d})[0] for d in (0.0, 1.0, 2.0)]
                torch.testing.assert_close(steps[2] - steps[1], steps[1] - steps[0])
                others = [r for r in one.floats() if r.id != ref.id][:1]
                for other in others:
                    changed = {other.id: one.values[other.id] * 0.5}
                    shift = one.run({ref.id: value + 1, **changed})[0] - one.run(changed)[0]
                    torch.testing.assert_close(shift, steps[1] - steps[0])


# ---------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize("name", having("scaling"))
def test_operands_that_are_multiplied_multiply_the_result_and_nothing_else(name):
    ways = 0
    for one in known(name, "scaling"):
        before = one.run()
        for place, result in enumerate(before):
            for box in boxes(tuple(result.shape)):
                for way in ways_of(one):
                    ways += multiplies(one, way, box, place, before)
    assert ways


def boxes(shape: tuple[int, ...]) -> Iterator[Box]:
    """Everything, and the first half of each axis."""
    yield whole(shape)
    for d, length in enumerate(shape):
        if length > 1:
            flags = np.arange(length) < length // 2
            yield (*whole(shape[:d]), flags, *whole(shape[d + 1 :]))


def ways_of(one: Tried) -> Iterator[Way]:
    for varies in [set(), *({ref.id} for ref in one.floats()), {r.id for r in one.floats()}]:
        for side in (0, 1):
            yield Way(varies, side)


def multiplies(one: Tried, way: Way, box: Box, place: int, before: list[Tensor]) -> bool:
    try:
        demands = of(one.call.op).scaling(way, one.call, box, place)
    except NotLinear:
        return False
    changed: dict[int, Tensor] = {}
    for ref, part in demands:
        value = changed.get(ref.id, one.values[ref.id])
        changed[ref.id] = torch.where(inside(part), value * 2, value)
    expected = torch.where(inside(box), before[place] * 2, before[place])
    torch.testing.assert_close(one.run(changed)[place], expected)
    return bool(changed)


def inside(box: Box) -> Tensor:
    """Which elements of a tensor are in a box."""
    found = torch.ones(()).bool()
    for flags in box:
        found = found[..., None] & torch.from_numpy(np.ascontiguousarray(flags))
    return found


@pytest.mark.parametrize("name", having("moves"))
def test_what_moves_gives_the_numbers_that_it_is_given(name):
    for one in known(name, "moves"):
        given = torch.cat([one.values[ref.id].flatten() for ref in one.floats()])
        for result in one.run():
            assert set(result.flatten().tolist()) <= {0.0, *given.tolist()}


@pytest.mark.parametrize("name", having("factors"))
def test_a_factor_multiplies_to_its_power(name):
    for one in known(name, "factors"):
        found = of(one.call.op).factors(one.call)
        numbers = [given for given, _ in found if isinstance(given, (int, float, Ref))]
        assert numbers
        for given, power in found[:1]:
            if isinstance(given, Ref):
                doubled = one.run({given.id: one.values[given.id] * 2})[0]
                torch.testing.assert_close(doubled, one.run()[0] * 2.0**power)


# ---------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_macs_are_half_the_operations_that_torch_counts(name):
    for one in tried(name):
        packet = one.call.op.overloadpacket
        if packet in flop_registry:
            assert "macs" in (of(one.call.op).costs or {}), "torch counts it"
            shapes = tree_map(
                lambda x: x.shape if isinstance(x, Ref) else x, (one.call.args, one.call.kwargs)
            )
            flops = flop_registry[packet](*values_of(one), **one.call.kwargs, out_val=one.run()[0])
            assert 2 * macs(one) == flops, shapes


def values_of(one: Tried) -> list[Any]:
    return [one.values[x.id] if isinstance(x, Ref) else x for x in one.call.args]


def macs(one: Tried) -> int:
    terms = of(one.call.op).costs["macs"](one.call)
    return sum(n * int(np.prod([ref.shape[d] for ref, d in axes])) for n, axes in terms)


HAND = {"mv": 6 * 8, "dot": 8, "vdot": 8, "_trilinear": 6 * 5 * 8 * 10, "lstm": 15 * 24 * 14}


@pytest.mark.parametrize("name", HAND)
def test_macs_by_hand(name):
    assert [macs(one) for one in tried(name)] == [HAND[name]]


# ---------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("name", having("reads"))
def test_a_gate_on_what_is_read_is_one_on_the_weight(name):
    for one in known(name, "reads"):
        sides = of(one.call.op).reads(*values_of(one))
        assert sides
        for x, x_axis, weight, axis in sides:
            gate = torch.rand(x.shape[x_axis], dtype=x.dtype)
            gated = [at(x, x_axis, gate), at(weight, axis, gate)]
            first, second = (
                one.run(exchanged(one, *pair)) for pair in zip((x, weight), gated, strict=True)
            )
            torch.testing.assert_close(first[0], second[0])


def at(x: Tensor, axis: int, gate: Tensor) -> Tensor:
    return x.movedim(axis, -1).mul(gate).movedim(-1, axis)


def exchanged(one: Tried, old: Tensor, new: Tensor) -> dict[int, Tensor]:
    (number,) = [n for n, value in one.values.items() if value is old]
    return {number: new}


@pytest.mark.parametrize("name", having("layer"))
def test_a_layer_is_its_rows_times_its_matrix(name):
    model = Holder(EXAMPLES[name]).double()
    made = [
        c for c in consumers_of(capture(Network.of(model), ())) if f".{name}." in str(c.call.op)
    ]
    (consumer,) = made
    (one,) = tried(name)
    args, (output,) = values_of(one), one.run()
    weight = model.get_parameter(consumer.weight).detach()
    rows = consumer.form.rows(args[consumer.place], None).transpose(0, 1)
    found = (rows @ consumer.form.matrix(weight).mT).transpose(0, 1).flatten(1)
    constant = model.get_parameter(consumer.bias).detach() if consumer.bias else 0
    torch.testing.assert_close(found + constant, consumer.form.outputs(output, None))


class Normed(nn.Module):
    """A convolution, a batch norm by any of ATen's operators, and a sum."""

    def __init__(self, norm: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.bn.running_mean.normal_(), self.bn.running_var.uniform_(0.5, 2)
        nn.init.uniform_(self.bn.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, bn = self.stem(x).relu(), self.bn
        y = self.norm(self.conv(x), bn.weight, bn.bias, bn.running_mean, bn.running_var)
        return y + x


aten = torch.ops.aten
IN_EVALUATION: dict[str, Callable[..., Tensor]] = {
    "native_batch_norm": lambda *v: aten.native_batch_norm(*v, False, 0.1, 1e-5)[0],
    "_native_batch_norm_legit": lambda *v: aten._native_batch_norm_legit(*v, False, 0.1, 1e-5)[0],
    "_native_batch_norm_legit_no_training": (
        lambda *v: aten._native_batch_norm_legit_no_training(*v, 0.1, 1e-5)[0]
    ),
    "_native_batch_norm_legit_functional": (
        lambda *v: aten._native_batch_norm_legit_functional(*v, False, 0.1, 1e-5)[0]
    ),
    "_batch_norm_no_update": lambda *v: aten._batch_norm_no_update(*v, 0.1, 1e-5)[0],
}


@pytest.mark.parametrize("name", [n for n in IN_EVALUATION if hasattr(aten, n)])
def test_every_batch_norm_in_evaluation_is_known_as_one(name):
    model = Normed(IN_EVALUATION[name]).double().eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    trace = capture(Network.of(model), (x,))
    assert f"aten.{name}" in {str(call.op).rpartition(".")[0] for call in trace.calls}
    consumer = next(c for c in consumers_of(trace) if c.weight == "conv.weight")
    assert consumer.norm is not None and consumer.total is not None
    scale = consumer.norm.scale({**dict(model.named_parameters()), **dict(model.named_buffers())})
    bn = model.bn
    vectors = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
    steps = [model.norm(torch.full((1, 4, 1, 1), v).double(), *vectors) for v in (0.0, 1.0)]
    torch.testing.assert_close((steps[1] - steps[0]).flatten(), scale)


# ---------------------------------------------------------------------------------- running again


@pytest.mark.parametrize("name", having("differentiable", kind=True))
def test_the_gradient_of_what_is_differentiable_is_its_slope(name):
    for one in known(name, "differentiable"):
        if draws(one.call.op) or not one.run()[0].is_floating_point():
            continue
        followed = [ref for ref in one.floats() if gradient_is_slope(one, ref)]
        assert followed[:1] == one.floats()[:1]


def gradient_is_slope(one: Tried, ref: Ref) -> bool:
    """Whether there is a gradient by an operand; it must then be the slope along any way."""
    torch.manual_seed(0)
    leaf = one.values[ref.id].clone().requires_grad_()
    try:
        with torch.enable_grad():
            result = one.run({ref.id: leaf})[0]
    except RuntimeError as error:
        assert "is not differentiable with respect to argument 'running_" in str(error)
        return False
    wanted, way, step = torch.randn_like(result), torch.randn_like(leaf), 1e-6
    (gradient,) = torch.autograd.grad((result * wanted).sum(), [leaf])
    ends = [one.run({ref.id: one.values[ref.id] + s * step * way})[0] for s in (1, -1)]
    slope = ((ends[0] - ends[1]) * wanted.detach()).sum() / (2 * step)
    torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-4, atol=1e-5)
    return True


@pytest.mark.parametrize("name", having("double"))
def test_in_float64_it_gives_what_it_gives(name):
    for one in tried(name):
        double = of(one.call.op).double
        if callable(double) and not isinstance(double, Double):
            given = [x.clone() if isinstance(x, Tensor) else x for x in values_of(one)]
            torch.testing.assert_close(tensors(double(*given, **one.call.kwargs)), one.run())


@pytest.mark.parametrize(
    "name", sorted({*having("reading", Reading.EACH), *having("reading", Reading.PART)})
)
def test_what_is_made_of_each_slot_alone_does_not_change_with_others(name):
    """Along axes on which no statistic is taken: those of the example's first parameter."""
    model = Holder(EXAMPLES[name])
    _, coupling, refs = labelled(model)
    weight = coupling.weights["given.0"]
    counted = {int(a) for s in coupling.statistics for a in coupling.atoms.of[s.axis]}
    if EXAMPLES[name].random or coupling.restricted:
        return
    with torch.no_grad():
        before = model()
        for d, axis in enumerate(weight.axes):
            atom = int(coupling.atoms.of[axis][-1])
            if not coupling.atoms.free[atom] or atom in counted:
                continue
            twin = Holder(EXAMPLES[name])
            twin.given[0].select(d, len(axis) - 1).add_(0.37)
            for ref, old, new in zip(refs, before, twin(), strict=True):
                axes = coupling.tensors[0][ref.id].axes
                keep = [coupling.atoms.of[a] != atom if a is not None else None for a in axes]
                if any(k is not None and not k.all() for k in keep):
                    for place, kept in enumerate(keep):
                        if kept is not None:
                            rows = torch.from_numpy(np.flatnonzero(kept))
                            old, new = (t.index_select(place, rows) for t in (old, new))
                    torch.testing.assert_close(old, new)


# --------------------------------------------------------------------------------- the table itself


def test_who_has_no_record_is_known_by_its_tag_or_not_at_all():
    assert of(aten.sigmoid.default) is OPERATORS["pointwise"]
    assert of(aten._fft_r2c.default) is UNKNOWN


def test_a_rule_of_the_user_may_say_more(monkeypatch):
    monkeypatch.setattr(OPERATORS, "_entries", dict(OPERATORS._entries))
    rule("aten._fft_c2c", reading=Reading.EACH)(lambda at, x, *_: x.axes)
    assert of(aten._fft_c2c.default).reading is Reading.EACH
    assert not of(aten._fft_c2c.default).zeros
    assert "view" in of(aten._fft_c2c.default).sizes  # whoever asks it for sizes


def test_a_column_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"no column 'cost': the columns are sizes, values, "):
        rule("aten._fft_c2c", cost={})
    with pytest.raises(ValueError, match="no column 'names'"):
        rule("aten._fft_c2c", names=("aten.flip",))


def test_what_this_torch_lacks_is_passed_over():
    before = len(OPERATORS)
    register(replace(UNKNOWN, names=("aten.no_such_operator", "aten.flip.no_such_overload")))
    assert len(OPERATORS) == before
