"""The comparison of ids: who is refused, who is not, and how soon."""

from __future__ import annotations

import random

import pytest

from parhelion.coordinator.compare import (
    FAR_RATE,
    IDS_LIMIT,
    OTHER_BACKEND_RATE,
    SAME_BACKEND_RATE,
    Tally,
    Verdict,
    agree,
    tolerance,
)


def run(tally: Tally, rate: float, far_rate: float, dice: random.Random) -> Verdict:
    """The verdict on a node of which so many ids differ, and so many by far."""
    while tally.verdict is Verdict.OPEN:
        far = dice.random() < far_rate
        tally.add(1, int(far or dice.random() < rate), int(far))
    return tally.verdict


@pytest.mark.parametrize("rate", [SAME_BACKEND_RATE, OTHER_BACKEND_RATE])
def test_an_honest_node_is_refused_at_most_once_in_a_thousand_tests(rate: float) -> None:
    dice = random.Random(3)
    verdicts = [run(Tally(rate), rate, FAR_RATE / 2, dice) for _ in range(3000)]
    assert sum(verdict is Verdict.FOREIGN for verdict in verdicts) <= 3


@pytest.mark.parametrize("rate", [0.5, 0.7, 1.0])
def test_another_model_hardly_ever_passes_and_is_found_within_two_probes(rate: float) -> None:
    dice = random.Random(4)
    tallies = [Tally(OTHER_BACKEND_RATE) for _ in range(1000)]
    verdicts = [run(tally, rate, 0.0, dice) for tally in tallies]
    assert sum(verdict is Verdict.SAME for verdict in verdicts) <= 20
    sizes = sorted(tally.compared for tally in tallies)
    assert sizes[len(sizes) // 2] <= 2 * 24


def probes_until_refused(noise: float, dice: random.Random) -> int:
    """How many probes of 28 ids it takes, one test after the other as the prober makes them."""
    tally, probes = Tally(SAME_BACKEND_RATE), 0
    while tally.verdict is not Verdict.FOREIGN and probes < 1000:
        if tally.verdict is Verdict.SAME:
            tally = Tally(SAME_BACKEND_RATE)
        for _ in range(28):
            far = dice.random() < noise
            tally.add(1, int(far or dice.random() < 0.037), int(far))
        probes += 1
    return probes


@pytest.mark.parametrize(("noise", "probes"), [(0.1, 4), (0.05, 8), (0.02, 40)])
def test_a_node_that_makes_up_a_few_ids_is_found_in_time(noise: float, probes: int) -> None:
    dice = random.Random(5)
    took = sorted(probes_until_refused(noise, dice) for _ in range(200))
    assert took[len(took) // 2] <= probes


def test_one_far_id_decides_nothing_and_is_forgotten_after_enough_good_ones() -> None:
    tally = Tally(SAME_BACKEND_RATE)
    tally.add(20, 0)
    assert tally.verdict is Verdict.SAME
    tally.add(1, 1, 1)
    assert tally.verdict is Verdict.OPEN
    tally.add(130, 0)
    assert tally.verdict is Verdict.SAME


def test_what_was_right_before_excuses_nothing() -> None:
    long, short = Tally(SAME_BACKEND_RATE), Tally(SAME_BACKEND_RATE)
    long.add(100_000, 0)
    for tally in (long, short):
        tally.add(5, 5, 5)
        assert tally.verdict is Verdict.FOREIGN


def test_a_test_always_ends() -> None:
    tally = Tally(SAME_BACKEND_RATE)
    for number in range(IDS_LIMIT):
        tally.add(1, int(number % 8 == 0))
    assert tally.verdict is not Verdict.OPEN


def test_the_wider_tolerance_is_for_other_engines() -> None:
    assert tolerance("llama.cpp", "llama.cpp") == SAME_BACKEND_RATE
    assert tolerance("vllm", "llama.cpp") == OTHER_BACKEND_RATE > SAME_BACKEND_RATE


def test_ids_agree_up_to_the_first_difference_or_the_shorter_end() -> None:
    assert agree([1, 2, 3], [1, 2, 4]) == 2
    assert agree([1, 2], [1, 2, 3]) == agree([1, 2, 3], [1, 2]) == 2
    assert agree([], [1]) == 0
