"""Whatever network is drawn: slim equals the zeroed original, or is refused with a layer's name."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import float64, outputs
from random_networks import OPERATORS, Network, Step, example, judge, program_of, programs


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    program=programs(),
    ratio=st.sampled_from([0.3, 0.5, 0.7]),
    criterion=st.sampled_from(["l1", "random"]),
    seed=st.integers(0, 2**16),
)
def test_slim_equals_the_zeroed_original(program, ratio, criterion, seed):
    assert judge(program, ratio=ratio, criterion=criterion, seed=seed)


def test_most_random_networks_lose_channels():
    outcomes = [
        judge(program_of(seed, longest=5), ratio=0.5, criterion="l1", seed=seed)
        for seed in range(40)
    ]
    assert sum(outcome in ("exact", "approximate") for outcome in outcomes) > 20


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
