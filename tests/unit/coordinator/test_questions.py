"""Questions of probes: no two alike, of all lengths, and nothing in them that only probes have."""

from __future__ import annotations

import random

from parhelion.coordinator.questions import (
    LONGEST_IDS,
    LONGEST_SENTENCES,
    MAX_TOKENS,
    SHORTEST_IDS,
    draw,
)


def test_no_two_questions_are_alike_and_equal_dice_draw_equal_ones() -> None:
    dice = random.Random(1)
    drawn = [draw(dice) for _ in range(500)]
    assert len({str(one.messages) for one in drawn}) == 500
    short = [draw(dice, 1) for _ in range(500)]
    assert len({str(one.messages[-1].content) for one in short}) >= 497
    assert draw(random.Random(2)) == draw(random.Random(2))


def test_questions_are_of_all_lengths_and_never_longer_than_asked_for() -> None:
    dice = random.Random(3)
    words = sorted(len(str(draw(dice).messages[-1].content).split()) for _ in range(500))
    assert words[50] < 25 < 150 < words[450]
    assert all(str(draw(dice, 1).messages[-1].content).count(".") <= 3 for _ in range(200))
    assert words[-1] < 16 * (LONGEST_SENTENCES + 2)


def test_greedy_and_sampled_ones_are_drawn_and_none_rests_on_the_edge_of_a_nucleus() -> None:
    dice = random.Random(4)
    drawn = [draw(dice) for _ in range(300)]
    greedy = sum(one.params.temperature == 0 for one in drawn)
    assert 50 < greedy < 250
    assert all(one.params.top_p == 1 and one.params.min_p == 0 for one in drawn)
    assert {one.max_tokens for one in drawn} == set(MAX_TOKENS)


def test_every_answer_is_left_before_its_end() -> None:
    dice = random.Random(5)
    assert min(MAX_TOKENS) > LONGEST_IDS
    assert {draw(dice).ids for _ in range(600)} == set(range(SHORTEST_IDS, LONGEST_IDS + 1))
