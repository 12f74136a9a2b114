"""When a stage counts its steps as slow: many in a row, by what is usual for as many rows; pure."""

from __future__ import annotations

from itertools import accumulate, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.node.stage_pace import KNOWN_STEPS, SLOW_LEAST_MS, SLOW_TIMES, Pace, SlowRun
from parhelion.words import Step
from tests.unit.node.staging import Scene, ids, open_at, pair_at


@pytest.fixture
async def scene(clock: Any) -> Scene:
    return Scene(clock)


CHUNK = 256
"""Rows of a prompt's chunk, which take many times one id."""


def known(usual_ms: float = 8.0, rows: int = 1) -> SlowRun:
    run = SlowRun()
    for _ in range(KNOWN_STEPS):
        run.stepped(rows, usual_ms)
    return run


def after(run: SlowRun, *steps_ms: float) -> int:
    for took_ms in steps_ms:
        run.stepped(1, took_ms)
    return run.steps


def test_slow_steps_are_counted_in_a_row_however_many_there_are() -> None:
    assert after(known(), *[150.0] * 3) == 3
    # Not one of them is learned from: the hundredth is as slow as the first.
    assert after(known(), *[150.0] * 100) == 100
    assert after(known(), *[150.0] * 7, 9.0) == 0
    assert after(known(), *[150.0] * 7, 9.0, 150.0) == 1


def test_a_step_is_slow_over_five_times_its_usual_and_over_the_floor() -> None:
    assert after(known(8.0), *[SLOW_LEAST_MS] * 50) == 0, "noise, however often"
    assert after(known(40.0), 40.0 * SLOW_TIMES - 1) == 0
    assert after(known(40.0), 40.0 * SLOW_TIMES + 1) == 1


def test_nothing_is_slow_before_it_is_known_what_is_usual() -> None:
    run = SlowRun()
    for _ in range(KNOWN_STEPS - 1):
        run.stepped(1, 8.0)
    assert after(run, 900.0) == 0


def test_a_cold_first_step_does_not_hide_the_slow_ones() -> None:
    run = SlowRun()
    run.stepped(1, 2000.0)
    for _ in range(KNOWN_STEPS * 3):
        run.stepped(1, 8.0)
    assert after(run, 120.0) == 1


def test_a_chunk_of_a_prompt_is_not_measured_by_a_single_id() -> None:
    run = known()
    for _ in range(3 * KNOWN_STEPS):
        run.stepped(CHUNK, 400.0)
    assert run.steps == 0
    for _ in range(8):
        run.stepped(CHUNK, 2100.0)
    assert run.steps == 8
    run.stepped(CHUNK + 7, 400.0)
    assert run.steps == 0


def test_a_kind_of_step_that_is_not_known_says_nothing_of_a_run() -> None:
    run = known()
    after(run, *[150.0] * 5)
    run.stepped(CHUNK, 400.0)
    assert after(run, *[150.0] * 3) == 8


def test_a_machine_that_becomes_slower_bit_by_bit_is_no_slow_stage() -> None:
    growing = list(accumulate(range(200), lambda ms, _: ms * 1.03, initial=8.0))
    assert growing[-1] > 2000.0
    assert after(known(), *growing) == 0


def test_a_stage_that_stays_slow_does_not_end_one_ring_after_the_other() -> None:
    run = known()
    assert after(run, *[300.0] * 12) == 12
    run.anew()
    assert run.steps == 0
    assert after(run, *[300.0] * 200) == 0, "that is what is usual now"
    assert after(run, *[1600.0] * 8) == 8


def test_a_new_ring_forgets_nothing_where_nothing_was_slow() -> None:
    run = known()
    run.anew()
    assert after(run, *[150.0] * 8) == 8


@given(
    st.floats(7.0, 300.0),
    st.lists(st.tuples(st.floats(0.3, 1.7), st.sampled_from([1.0, 1.0, 1.0, 50.0])), max_size=200),
)
def test_the_run_is_the_slow_steps_at_the_end(
    usual_ms: float, steps: list[tuple[float, float]]
) -> None:
    # Some noise, never near the limit; now and then a step that takes fifty times as long.
    run = known(usual_ms)
    took = [usual_ms * noise * times for noise, times in steps]
    slow = [
        times > 1 and ms > max(SLOW_LEAST_MS, SLOW_TIMES * 1.7 * usual_ms)
        for ms, (_, times) in zip(took, steps, strict=True)
    ]
    assert after(run, *took) == len(list(takewhile(bool, reversed(slow))))


def test_a_pace_counts_by_what_all_steps_took_and_carried() -> None:
    pace, busy_ms, rows = Pace(1000.0, 500), 1000.0, 500
    for took_ms in [8.0] * KNOWN_STEPS + [150.0] * 8:
        busy_ms, rows = busy_ms + took_ms, rows + 1
        pace.stepped(busy_ms, rows)
    assert (pace.slow_steps, round(pace.tell_ms(None))) == (8, 150)
    pace.linked()
    assert pace.slow_steps == 0


def test_a_long_step_is_told_once_however_quick_those_after_it_were() -> None:
    pace = Pace()
    pace.stepped(1400.0, 1)
    for step in range(10):
        pace.stepped(1408.0 + 8 * step, 2 + step)
    assert (pace.tell_ms(None), pace.tell_ms(None)) == (1400.0, 0.0)
    pace.fed(10.0)
    assert pace.tell_ms(11.5) == 1500.0, "the present one's so far"


async def test_a_node_says_how_many_steps_were_slow_until_a_new_ring_is_made(
    scene: Scene,
) -> None:
    host = await scene.loaded(start=15, end=30)
    await scene.obey(pair_at("one", "p", "previous"), open_at("one", ids()))
    for number in range(KNOWN_STEPS + 8):
        step = Step("job_a", 1, number, (7,))
        host.makes(step, took_ms=8.0 if number < KNOWN_STEPS else 200.0)
    assert _said(scene) == 8
    await scene.obey(pair_at("one", "q", "previous"))
    assert _said(scene) == 0


def _said(scene: Any) -> int:
    (state,) = scene.stages.states()
    return state.slow_steps
