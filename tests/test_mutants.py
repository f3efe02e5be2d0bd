"""The proof notices wrong rules and wrong cuts: a part of the benchmark that plants them all."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from operators import EXAMPLES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import mutants

SOME = [
    *("flip", "roll", "cat", "select", "view", "permute", "constant_pad_nd", "cummax", "sort"),
    *("convolution", "addmm", "bmm", "native_batch_norm", "native_layer_norm", "native_group_norm"),
    *("_softmax", "_weight_norm_interface", "mean", "lstm", "scaled_dot_product_attention"),
    *("index_select", "pixel_shuffle", "expand", "mul", "where", "embedding", "glu_jvp"),
]


def test_what_is_tried_here_has_an_example():
    assert len([name for name in SOME if name in EXAMPLES]) > 20


@pytest.mark.parametrize("how", mutants.CHANGES)
def test_no_wrong_rule_is_certified(how):
    named = [name for name in SOME if name in EXAMPLES]
    found = Counter(mutants.outcome(EXAMPLES[name], name, how) for name in named)
    assert not found["missed"]
    assert found["noticed"] > (0 if how in ("without pins", "without statistics") else 3), found


def test_no_wrong_cut_is_certified():
    found = list(mutants.cut_mutants(""))
    assert len(found) >= 40
    assert [row for row in found if row[2] != "noticed"] == []


def test_a_proof_that_sees_nothing_would_be_seen(monkeypatch):
    monkeypatch.setattr(mutants, "certify", lambda *given: None)
    found = Counter(outcome for _, _, outcome in mutants.cut_mutants("swap"))
    assert found["missed"] > 10 and not found["noticed"]
    assert mutants.outcome(EXAMPLES["flip"], "flip", "shifted") == "missed"
