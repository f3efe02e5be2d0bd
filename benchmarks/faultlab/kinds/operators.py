"""Programs whose calls are no network: operators that read, write or ask for what is not there.

Each stands in the place of the network's first relu, in a .pt2 and in the program of a slim.pt,
with the same inputs. A program that is refused, or computes something, is fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from faultlab.fault import DECOY, REFUSED, SAFE, Fault, command, family
from faultlab.planting import change_json, change_payload

X = {"node": "batch_norm"}  # [1, 32, 8, 8]
W = {"node": "p_first_weight"}  # [32, 1, 3, 3], or what is left of it
FAR = 10**9


@dataclass(frozen=True)
class Hostile:
    """An operator and its arguments, in the terms of a slim.pt's program."""

    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    must_be_refused: bool = False  # reads or writes what is not the network's


_NEAR = [1, 32, 8, 8]
_HUGE = [10**8, 10**7, 10**6, 10**5]  # strides
UNBOUNDED = (
    ("aten._reshape_alias.default", (X, _NEAR, _HUGE)),
    ("aten._reshape_alias.default", (X, _NEAR, [2048, 64, 8, 4])),
    ("aten._reshape_alias.default", (X, _NEAR, [2048, -64, 8, 1])),
    ("aten._reshape_alias_copy.default", (X, _NEAR, _HUGE)),
    ("aten._reshape_alias_copy.default", (X, _NEAR, [2048, 64, 8, 4])),
    ("aten.as_strided.default", (X, _NEAR, _HUGE)),
    ("aten.as_strided.default", (X, _NEAR, [2048, 64, 8, 1], FAR)),
    ("aten.as_strided_copy.default", (X, _NEAR, [2048, 64, 8, 1], FAR)),
    ("aten.as_strided_scatter.default", (X, X, _NEAR, _HUGE)),
    ("aten.as_strided_.default", (X, _NEAR, _HUGE)),
    ("aten.set_.source_Tensor_storage_offset", (X, W, FAR, _NEAR, [2048, 64, 8, 1])),
    ("aten.set_.source_Tensor", (X, X)),
    ("aten.resize_.default", (X, [10**10])),
    ("aten.resize_.default", (X, [4, 32, 8, 8])),
    ("aten.resize_as_.default", (X, X)),
    ("aten._resize_output_.default", (X, _NEAR, {"device": "cpu"})),
    ("aten.empty_strided.default", (_NEAR, [2048, 64, 8, 1])),
    ("aten.new_empty_strided.default", (X, _NEAR, [2048, 64, 8, 1])),
    ("aten.empty_permuted.default", (_NEAR, [0, 1, 2, 3])),
    ("aten.from_file.default", (DECOY, False, 2048)),
    ("aten.save.default", (X, "stolen.pt")),
)
"""What torch does not keep inside of its tensors, or leaves unwritten: no network does this."""
HOSTILE = (
    *(Hostile(target, args, must_be_refused=True) for target, args in UNBOUNDED),
    Hostile("aten.empty.memory_format", (_NEAR,)),
    Hostile("aten.empty_like.default", (X,)),
    Hostile("aten.new_empty.default", (X, _NEAR)),
    Hostile("aten.as_strided.default", (X, [10**6, 10**6], [0, 0])),
    Hostile("aten.resize_.default", (W, [10**6])),
    Hostile("aten.set_.source_Tensor", (W, X)),
    Hostile("aten.zeros.default", ([10**10],)),
    Hostile("aten.full.default", ([10**6, 10**6], 1)),
    Hostile("aten.arange.default", (10**10,)),
    Hostile("aten.linspace.default", (0, 1, 10**10)),
    Hostile("aten.eye.default", (10**6,)),
    Hostile("aten.randn.default", ([10**10],)),
    Hostile("aten.repeat.default", (X, [10**6, 1, 1, 1])),
    Hostile("aten.tile.default", (X, [10**6, 1, 1, 1])),
    Hostile("aten.repeat_interleave.self_int", (X, 10**7, 0)),
    Hostile("aten.expand.default", (X, [10**9, -1, -1, -1])),
    Hostile("aten.constant_pad_nd.default", (X, [10**5, 10**5, 10**5, 10**5])),
    Hostile("aten.reflection_pad2d.default", (X, [-9, 9, 7, 7])),
    Hostile("aten.upsample_nearest2d.default", (X, [10**6, 10**6])),
    Hostile("aten.upsample_bilinear2d.default", (X, [-1, 10**5], False)),
    Hostile("aten.im2col.default", (X, [8, 8], [1, 1], [10**4, 10**4], [1, 1])),
    Hostile("aten.col2im.default", (X, [10**6, 10**6], [3, 3], [1, 1], [0, 0], [1, 1])),
    Hostile("aten.unfold.default", (X, 3, 8, 0)),
    Hostile("aten.max_pool2d.default", (X, [0, 0])),
    Hostile("aten.max_pool2d.default", (X, [10**9, 10**9], [1, 1], [5 * 10**8, 5 * 10**8])),
    Hostile("aten.avg_pool2d.default", (X, [2, 2], [0, 0])),
    Hostile("aten.adaptive_avg_pool2d.default", (X, [10**5, 10**5])),
    Hostile("aten.conv2d.default", (X, W, None, [1, 1], [10**5, 10**5], [1, 1], 32)),
    Hostile("aten.conv2d.default", (X, W, None, [0, 0], [1, 1], [0, 0], -1)),
    Hostile("aten.batch_norm.default", (X, W, W, W, W, False, 0.1, 1e-5, True)),
    Hostile("aten.native_group_norm.default", (X, None, None, 1, 32, 64, 0, 1e-5)),
    Hostile("aten.native_group_norm.default", (X, None, None, 10**6, 32, 64, 2, 1e-5)),
    Hostile("aten.embedding.default", (W, X)),
    Hostile("aten.gather.default", (X, 0, X)),
    Hostile("aten.mul_.Tensor", (W, 0.0)),
    Hostile("aten.copy_.default", (W, X)),
    Hostile("aten.fill_.Scalar", (W, float("nan"))),
    Hostile("aten._cdist_forward.default", (X, X, 2.0, None)),
    Hostile("aten._foobar.default", (X,)),
    Hostile("aten.pow.Tensor_Scalar", (X, 10**400)),
    Hostile("aten.triu_indices.default", (10**5, 10**5)),
    Hostile("aten.combinations.default", (X, 10)),
    Hostile("aten.one_hot.default", (X, 10**9)),
    Hostile("aten._nested_tensor_from_mask.default", (X, X)),
    Hostile("aten.record_stream.default", (X, 0)),
    Hostile("aten.view.dtype", (X, {"dtype": "complex128"})),
    Hostile("aten._unsafe_view.default", (X, [10**7])),
    Hostile("aten._unsafe_index.Tensor", (X, [X])),
    Hostile("aten.unsafe_split.Tensor", (X, 0)),
    Hostile("aten.split.Tensor", (X, 0)),
    Hostile("aten.detach_.default", (W,)),
    Hostile("aten.to.device", (X, {"device": "meta"}, {"dtype": "float32"})),
    Hostile("operator.mul", ([X, X], 10**9)),
    Hostile("operator.mul", ([1, 2, 3], 10**9)),
    Hostile("operator.pow", (10, 10**10)),
    Hostile("operator.mul", ("ha", 10**10)),
    Hostile("operator.add", ([X], [X])),
    Hostile("operator.getitem", (X, 10**9)),
    Hostile("operator.floordiv", (1, 0)),
    Hostile("math.factorial", (10**8,)),
    Hostile("math.trunc", (float("inf"),)),
    Hostile("torch.sym_int", (float("nan"),)),
    Hostile("builtins.eval", ("open('CANARY', 'w')",)),
    Hostile("operator.attrgetter", ("__class__",)),
    Hostile("os.system", ("touch CANARY",)),
    Hostile("aten.relu.__init__", (X,)),
    Hostile("aten.__class__.default", (X,)),
    Hostile("prims.device_put.default", (X, {"device": "cpu"})),
    Hostile("higher_order.cond", (X, X, X, [X])),
)


BACKWARD = (
    (
        "aten.max_pool2d_with_indices_backward.default",
        (X, X, [2, 2], [2, 2], [0, 0], [1, 1], False, {"node": "(far)"}),
    ),
    ("aten.max_unpool2d.default", (X, {"node": "(far)"}, [64, 64])),
    ("aten.embedding.default", (W, {"node": "(far)"})),
    ("aten.embedding_dense_backward.default", (X, {"node": "(far)"}, 10, -1, False)),
    ("aten.index_select.default", (X, 1, {"node": "(flat)"})),
    ("aten.take.default", (X, {"node": "(far)"})),
    ("aten.put_.default", (W, {"node": "(far)"}, X)),
    ("aten.scatter.src", (X, 1, {"node": "(far)"}, X)),
    ("aten.index_put_.default", (X, [{"node": "(far)"}], W)),
    ("aten.segment_reduce.default", (X, "sum")),
    ("aten._embedding_bag.default", (W, {"node": "(flat)"}, {"node": "(flat)"})),
    ("aten.fractional_max_pool2d.default", (X, [2, 2], [2, 2], X)),
    ("aten.grid_sampler_2d.default", (X, X, 0, 0, False)),
    ("aten.nll_loss2d.default", (X, {"node": "(far)"})),
    ("aten.bincount.default", ({"node": "(flat)"},)),
    ("aten.gather.default", (X, 1, {"node": "(far)"})),
    ("aten.repeat_interleave.Tensor", ({"node": "(flat)"},)),
)
"""Operators that take indices, which an earlier call makes: far outside of what they index."""


def _calls(row: Hostile, name: str) -> list[dict[str, Any]]:
    """The call, and what makes its indices."""
    call = {"name": name, "target": row.target, "args": list(row.args), "kwargs": dict(row.kwargs)}
    made = []
    for node, shape in (("(far)", [1, 32, 8, 8]), ("(flat)", [64])):
        if {"node": node} in _flat(row.args):
            long = {"dtype": {"dtype": "int64"}}
            made.append(
                {"name": node, "target": "aten.full.default", "args": [shape, FAR], "kwargs": long}
            )
    return [*made, call]


def _flat(args: Any) -> Iterator[Any]:
    for part in args:
        yield part
        if isinstance(part, list):
            yield from _flat(part)


ROWS = (*HOSTILE, *(Hostile(target, args) for target, args in BACKWARD))


def in_slim(row: Hostile) -> Callable[[Path], None]:
    """In place of a slim.pt's first relu."""

    def change(payload: Any) -> None:
        calls = payload["program"]["calls"]
        place = next(n for n, call in enumerate(calls) if call["target"].startswith("aten.relu."))
        calls[place : place + 1] = _calls(row, calls[place]["name"])

    return lambda folder: change_payload(folder / "slimown.pt", change)


def in_program(row: Hostile) -> Callable[[Path], None]:
    """In place of a .pt2's first relu."""

    def change(tree: Any) -> None:
        nodes = tree["graph_module"]["graph"]["nodes"]
        place = next(n for n, node in enumerate(nodes) if "aten.relu." in node["target"])
        (name,) = (output["as_tensor"]["name"] for output in nodes[place]["outputs"])
        nodes[place : place + 1] = [_node(call) for call in _calls(row, name)]

    return lambda folder: change_json(folder / "program.pt2", "models/model.json", change)


def _node(call: dict[str, Any]) -> dict[str, Any]:
    """A call as torch's schema writes it."""
    target = call["target"]
    rows = [("", arg, 1) for arg in call["args"]]
    rows += [(name, arg, 2) for name, arg in call["kwargs"].items()]
    return {
        "target": _stored(target),
        "inputs": [{"name": name, "arg": _argument(arg), "kind": kind} for name, arg, kind in rows],
        "outputs": [{"as_tensor": {"name": call["name"]}}],
        "metadata": {},
        "is_hop_single_tensor_return": None,
    }


def _stored(target: str) -> str:
    if target.startswith("operator."):
        return f"_{target}"
    return f"torch.ops.{target}" if target.startswith(("aten.", "prims.")) else target


def _argument(arg: Any) -> dict[str, Any]:
    if isinstance(arg, dict):
        ((kind, name),) = arg.items()
        numbers = {"float32": 7, "int64": 5, "complex128": 11}
        return {
            "node": {"as_tensor": {"name": name}},
            "dtype": {"as_scalar_type": numbers.get(name, 7)},
            "device": {"as_device": {"type": name, "index": None}},
        }[kind]
    if isinstance(arg, list):
        nodes = bool(arg) and isinstance(arg[0], dict)
        return {"as_tensors": [{"name": x["node"]} for x in arg]} if nodes else {"as_ints": arg}
    kinds = {type(None): "as_none", bool: "as_bool", int: "as_int", float: "as_float"}
    return {kinds.get(type(arg), "as_string"): arg}


@family("crafted")
def operators_in_programs(random: Random) -> Iterator[Fault]:
    meets = ("load program.pt2", "inspect program.pt2", "prune program.pt2 --ratio 0.5 -o out.pt2")
    for row in ROWS:
        yield Fault(
            name=f"a .pt2 calls {row.target}{row.args!r:.60}",
            command=command(random.choice(meets)),
            needs=("program.pt2",),
            plant=in_program(row),
            allows=REFUSED if row.must_be_refused else SAFE,
        )


@family("crafted")
def operators_in_slim_files(random: Random) -> Iterator[Fault]:
    meets = ("load slimown.pt", "export slimown.pt out.pt2 --pt2")
    for row in ROWS:
        meet = random.choices(meets, (3, 1))[0]
        yield Fault(
            name=f"a slim.pt calls {row.target}{row.args!r:.60}",
            command=command(meet),
            needs=("slimown.pt",),
            plant=in_slim(row),
            allows=REFUSED if row.must_be_refused else SAFE,
        )
