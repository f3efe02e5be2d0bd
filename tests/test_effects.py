"""A program that changes what it was given is told apart from one that only computes."""

from __future__ import annotations

import pytest

from slimnet.program.effects import side_effect

X, W = {"node": "x"}, {"node": "w"}


def call(target, *args, name="y", **kwargs):
    return {"name": name, "target": target, "args": list(args), "kwargs": kwargs}


HARMLESS = {
    "its own result": [call("aten.neg.default", X), call("aten.relu_.default", {"node": "y"})],
    "evaluation": [call("aten.dropout.default", X, 0.5, False)],
    "batch statistics": [
        call("aten.batch_norm.default", X, None, None, None, None, True, 0.1, 1e-5, False)
    ],
    "integers": [call("aten.sym_size.int", X, 0), call("operator.mul", {"node": "y"}, 2)],
}
HARMFUL = {
    "an input": [call("aten.relu_.default", X)],
    "a weight": [call("aten.add_.Tensor", W, X)],
    "a view of one": [call("aten.view.default", X, [6]), call("aten.relu_.default", {"node": "y"})],
    "one of its parts": [
        call("aten.chunk.default", X, 2, name="parts"),
        call("operator.getitem", {"node": "parts"}, 0),
        call("aten.relu_.default", {"node": "y"}),
    ],
    "what a dropout hands back": [
        call("aten.dropout.default", X, 0.5, False),
        call("aten.relu_.default", {"node": "y"}),
    ],
    "training mode": [call("aten.dropout.default", X, 0.5, True)],
    "running statistics": [
        call("aten.batch_norm.default", X, None, None, W, W, True, 0.1, 1e-5, False)
    ],
    "random slopes": [call("aten.rrelu.default", X, 0.1, 0.3, True)],
}


@pytest.mark.parametrize("calls", HARMLESS.values(), ids=HARMLESS)
def test_computing_is_no_side_effect(calls):
    assert side_effect(calls, ["x", "w"]) is None


@pytest.mark.parametrize("calls", HARMFUL.values(), ids=HARMFUL)
def test_what_changes_its_inputs_is_told_by_name(calls):
    found = side_effect(calls, ["x", "w"])
    assert found is not None and found.startswith("aten.")
    assert found.endswith(("writes into a weight or an input", "runs in training mode"))
