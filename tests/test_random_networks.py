"""Whatever network is drawn: slim equals the zeroed original, or is refused with a layer's name."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import float64, outputs
from random_networks import (
    OPERATORS,
    Asked,
    Network,
    Step,
    asked_of,
    example,
    judge,
    program_of,
    programs,
)

ASKED = st.builds(
    Asked,
    ratio=st.sampled_from([0.3, 0.5, 0.7]),
    criterion=st.sampled_from(["l1", "random"]),
    heads=st.booleans(),
    block=st.booleans(),
)


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), asked=ASKED, seed=st.integers(0, 2**16))
def test_slim_equals_the_zeroed_original(program, asked, seed):
    assert judge(program, asked, seed=seed)


@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), asked=ASKED, seed=st.integers(0, 2**16))
def test_so_does_what_torch_export_makes_of_it(program, asked, seed):
    assert judge(program, replace(asked, exported=True), seed=seed)


def test_most_random_networks_lose_channels():
    outcomes = [judge(program_of(seed, longest=5), Asked(), seed=seed) for seed in range(40)]
    assert sum(outcome in ("exact", "approximate") for outcome in outcomes) > 20


def test_seeds_ask_for_everything():
    asked = [asked_of(seed) for seed in range(400)]
    assert {(a.heads, a.exported) for a in asked} == {(h, e) for h in (0, 1) for e in (0, 1)}
    assert {a.block for a in asked} == {False, True}
    assert asked_of(7) == asked_of(7)


def test_a_printed_program_makes_the_same_network_again():
    program = program_of(7)
    again = eval(repr(program), {"Program": type(program), "Step": Step})
    first, sample = float64(lambda: Network(program), example, seed=3)
    second, _ = float64(lambda: Network(again), example, seed=3)
    pairs = zip(outputs(first, sample), outputs(second, sample), strict=True)
    assert all(one.equal(other) for one, other in pairs)


def test_the_generator_reaches_every_operator():
    drawn = {step.op for seed in range(200) for step in program_of(seed).steps}
    assert drawn == set(OPERATORS)
