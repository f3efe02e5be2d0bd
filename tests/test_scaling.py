"""Which parameters multiply a recorded tensor: exactly that one, and nothing else that is read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from micro import Net, buffer, conv, lin, weight
from micro_attention import merge_heads, mha, norm, rms, split_heads
from torch import Tensor, nn

from slimnet.capture.graph import refs_in
from slimnet.capture.trace import Trace, capture
from slimnet.coupling.scaling import ScalingPath, path_to
from slimnet.network import Network

SDPA = torch.ops.aten.scaled_dot_product_attention.default
TOKENS = (torch.randn(2, 7, 8, generator=torch.manual_seed(0)),)


def attend(m: Net, *qkv: Tensor) -> Tensor:
    """Attention that shows its operands to whoever asks."""
    if m.shown is not None:
        m.shown.extend(x.clone() for x in qkv)
    return m.b(merge_heads(F.scaled_dot_product_attention(*qkv)))


def three(m: Net, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(split_heads(layer(x), 4) for layer in (m.q, m.k, m.v))


def separate(m: Net, x: Tensor) -> Tensor:
    return attend(m, *three(m, x))


def fused(m: Net, x: Tensor) -> Tensor:
    return attend(m, *m.qkv(x).reshape(2, 7, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0))


def chunked(m: Net, x: Tensor) -> Tensor:
    return attend(m, *(split_heads(part, 4) for part in m.qkv(x).chunk(3, -1)))


def interleaved(m: Net, x: Tensor) -> Tensor:
    return attend(m, *m.qkv(x).reshape(2, 7, 4, 3, 8).permute(3, 0, 2, 1, 4).unbind(0))


def normed(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, m.nq(q), m.nk(k), v)


def grouped(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, m.nq(q), k, v)


def group_norm(heads: int) -> Callable[[], nn.Module]:
    return partial(nn.GroupNorm, heads, heads)


def rotated(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    angle = torch.arange(7.0)[:, None] * torch.arange(8.0)
    return attend(m, q * angle.cos() + q.roll(4, -1) * angle.sin(), k, v)


def positioned(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, q + m.position, k, v)


def of_a_map(m: Net, x: Tensor) -> Tensor:
    q, k, v = (t.flatten(2).mT[:, None] for t in (m.q(x), m.k(x), m.v(x)))
    return attend(m, q, k, v)


PARTS = {"q": lin(8, 32), "k": lin(8, 32), "v": lin(8, 32), "b": lin(32, 5)}
QKV = {"qkv": lin(8, 96), "b": lin(32, 5)}
LINEAR: dict[str, tuple[Callable, dict[str, Any], tuple]] = {
    "separate layers": (separate, PARTS, TOKENS),
    "one layer": (fused, QKV, TOKENS),
    "one layer, in chunks": (chunked, QKV, TOKENS),
    "one layer, heads first": (interleaved, QKV, TOKENS),
    "a layer without bias": (separate, PARTS | {"q": lin(8, 32, bias=False)}, TOKENS),
    "behind a layer norm": (normed, PARTS | {"nq": norm(8), "nk": norm(8)}, TOKENS),
    "behind an rms norm": (normed, PARTS | {"nq": rms(8), "nk": rms(8)}, TOKENS),
    "behind a group norm": (grouped, PARTS | {"nq": group_norm(4)}, TOKENS),
    "turned by angles": (rotated, PARTS, TOKENS),
    "plus a position": (positioned, PARTS | {"position": weight(7, 8)}, TOKENS),
    "of convolutions": (
        of_a_map,
        {name: conv(3, 32, 1) for name in "qkv"} | {"b": lin(32, 5)},
        (torch.randn(2, 3, 4, 4),),
    ),
}


def recorded(body: Callable, parts: dict[str, Any], example: tuple) -> tuple[Net, Trace]:
    torch.manual_seed(0)
    model = Net(body, parts | {"shown": None}).eval()
    return model, capture(Network.of(model), example)


def path_of(trace: Trace, place: int = 0) -> ScalingPath | None:
    """The way to multiply an operand of the first attention."""
    call = next(call for call in trace.calls if call.op == SDPA)
    return path_to(trace, call, refs_in(call.args)[place])


def multiplied(model: Net, path: ScalingPath, factor: float) -> Net:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, (axis, indices) in path.slices.items():
            rows = twin.get_parameter(name).index_select(axis, torch.tensor(indices))
            twin.get_parameter(name).index_copy_(axis, torch.tensor(indices), rows * factor)
    return twin


@torch.no_grad()
def operands(model: Net, example: tuple) -> list[Tensor]:
    """Queries, keys and values of one pass."""
    model.shown = []
    model(*example)
    return model.shown


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", LINEAR)
def test_twice_the_parameters_is_twice_the_operand_and_nothing_else(name, place):
    body, parts, example = LINEAR[name]
    model, trace = recorded(body, parts, example)
    path = path_of(trace, place)
    twin = multiplied(model, path, 2.0)
    pairs = zip(operands(model, example), operands(twin, example), strict=True)
    for number, (before, after) in enumerate(pairs):
        torch.testing.assert_close(after, before * (2 if number == place else 1))


def through_relu(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, q.relu(), k, v)


def of_unit_length(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, F.normalize(q, dim=-1), k, v)


def an_input(m: Net, x: Tensor) -> Tensor:
    return attend(m, *(split_heads(t, 4) for t in (x, m.k(x), m.v(x))))


def of_a_buffer(m: Net, x: Tensor) -> Tensor:
    queries = m.queries.expand(2, -1, -1)
    return attend(m, *(split_heads(t, 4) for t in (queries, m.k(x), m.v(x))))


def plus_one(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, q + 1, k, v)


def by_steps(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, torch.div(q, 0.1, rounding_mode="floor"), k, v)


def shifted_only(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, F.layer_norm(q, (8,), None, m.shift), k, v)


def over_two_axes(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    return attend(m, F.layer_norm(q, (7, 8), m.scale), k, v)


def one_row_of_copies(m: Net, x: Tensor) -> Tensor:
    q, k, v = three(m, x)
    both = (q.sum(2, keepdim=True) * m.scale).expand(-1, -1, 14, -1)
    return attend(m, both[:, :, :7], k, v + both[:, :, 7:])


def read_elsewhere(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = three(m, x)
    return attend(m, q, k, v), q.sum()


NOT_LINEAR: dict[str, tuple[Callable, dict[str, Any]]] = {
    "through a relu": (through_relu, PARTS),
    "of unit length": (of_unit_length, PARTS),
    "an input": (an_input, {name: lin(8, 8) for name in "kv"} | {"b": lin(8, 5)}),
    "of a buffer": (of_a_buffer, PARTS | {"queries": buffer(1, 3, 32)}),
    "plus a number": (plus_one, PARTS),
    "in steps": (by_steps, PARTS),
    "a norm that only shifts": (shifted_only, PARTS | {"shift": weight(8)}),
    "a norm over two axes": (over_two_axes, PARTS | {"scale": weight(7, 8)}),
    "some copies of what others read": (one_row_of_copies, PARTS | {"scale": weight(8)}),
    "read by the output as well": (read_elsewhere, PARTS),
    "norms without weights": (
        normed,
        PARTS | {n: norm(8, elementwise_affine=False) for n in ("nq", "nk")},
    ),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_where_multiplying_parameters_is_not_enough_there_is_no_way(name):
    body, parts = NOT_LINEAR[name]
    assert path_of(recorded(body, parts, TOKENS)[1]) is None


def test_a_module_that_runs_twice_is_multiplied_for_both():
    def twice(m: Net, x: Tensor) -> Tensor:
        y = m.mha(x, x, x, need_weights=False)[0]
        return m.b(m.mha(y, y, y, need_weights=False)[0])

    _, trace = recorded(twice, {"mha": mha(8, 2), "b": lin(8, 5)}, TOKENS)
    first, second = (call for call in trace.calls if call.op == SDPA)
    one, other = (path_to(trace, call, call.args[0]) for call in (first, second))
    assert one is not None and one.slices == other.slices
    assert one.slices["mha.in_proj_weight"] == (0, tuple(range(8)))


def test_the_queries_make_up_for_a_number_under_the_scores():
    def by_hand(m: Net, x: Tensor) -> Tensor:
        q, k, v = three(m, x)
        return m.b(merge_heads(((q @ k.mT) / 3.0).softmax(-1) @ v))

    _, trace = recorded(by_hand, PARTS, TOKENS)
    call = next(call for call in trace.calls if call.op == torch.ops.aten.div.Tensor)
    assert path_to(trace, call, call.args[0]).slices.keys() == {"q.weight", "q.bias"}


def test_what_lies_on_the_way_is_known():
    _, trace = recorded(*LINEAR["separate layers"])
    made = {ref.id: call.op for call in trace.calls for ref in call.outputs}
    passed = {made[number] for number in path_of(trace).boxes if number in made}
    assert torch.ops.aten.addmm.default in passed and SDPA not in passed


class Deep(nn.Module):
    """Queries of a deep network: only the last layer is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.q = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return F.scaled_dot_product_attention(self.q(y), y, y)


def test_the_nearest_layer_is_the_one_that_is_multiplied():
    path = path_of(capture(Network.of(Deep().eval()), TOKENS))
    every = partial(tuple, range(8))
    assert path.slices == {"q.weight": (0, every()), "q.bias": (0, every())}
