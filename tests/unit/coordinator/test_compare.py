"""The comparison of greedy ids: who is refused, who is not, and how soon."""

from __future__ import annotations

import random

import pytest

from parhelion.coordinator.compare import (
    IDS_LIMIT,
    OTHER_BUILD_RATE,
    SAME_BUILD_RATE,
    Tally,
    Verdict,
    agree,
    tolerance,
)


def run(tally: Tally, rate: float, dice: random.Random) -> Verdict:
    """The verdict on a node of which so many ids differ."""
    while tally.verdict is Verdict.OPEN:
        tally.add(1, int(dice.random() < rate))
    return tally.verdict


@pytest.mark.parametrize("rate", [SAME_BUILD_RATE, OTHER_BUILD_RATE])
def test_an_honest_node_is_refused_at_most_once_in_a_thousand_tests(rate: float) -> None:
    dice = random.Random(3)
    verdicts = [run(Tally(rate), rate, dice) for _ in range(5000)]
    assert sum(verdict is Verdict.FOREIGN for verdict in verdicts) <= 5


@pytest.mark.parametrize("rate", [0.5, 0.7, 1.0])
def test_another_model_hardly_ever_passes_and_is_found_within_two_probes(rate: float) -> None:
    dice = random.Random(4)
    tallies = [Tally(OTHER_BUILD_RATE) for _ in range(2000)]
    verdicts = [run(tally, rate, dice) for tally in tallies]
    assert sum(verdict is Verdict.SAME for verdict in verdicts) <= 20
    sizes = sorted(tally.compared for tally in tallies)
    assert sizes[len(sizes) // 2] <= 2 * 24


def test_a_test_always_ends() -> None:
    tally = Tally(SAME_BUILD_RATE)
    for number in range(IDS_LIMIT):
        tally.add(1, int(number % 8 == 0))
    assert tally.verdict is not Verdict.OPEN


def test_the_wider_tolerance_is_for_other_builds() -> None:
    assert tolerance("cpu-x", "cpu-x") == SAME_BUILD_RATE < tolerance("cuda", "cpu-x")


def test_ids_agree_up_to_the_first_difference_or_the_shorter_end() -> None:
    assert agree([1, 2, 3], [1, 2, 4]) == 2
    assert agree([1, 2], [1, 2, 3]) == agree([1, 2, 3], [1, 2]) == 2
    assert agree([], [1]) == 0
