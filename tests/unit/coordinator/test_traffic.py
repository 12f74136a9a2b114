"""Figures of the last minute and the last hour: measured or None; never 0 for what is unknown."""

from __future__ import annotations

import pytest

from parhelion.coordinator.traffic import (
    POINTS_LIMIT,
    STEP_S,
    WAITS_LIMIT,
    WINDOW_S,
    Totals,
    Traffic,
    Wait,
    Window,
    quantiles,
)


def stepped(window: Window, now_s: float, totals: Totals, waits: tuple[float, ...] = ()) -> None:
    window.step(now_s, int(now_s * 1000), totals, waits, queue=0, running=0)


def test_nothing_is_told_before_it_was_measured() -> None:
    window = Window()
    assert window.figures(5.0, Totals(9, 9), [1.0])[1:] == (None, None, None, None)
    window.begin(10.0, Totals(9, 9))
    figures = window.figures(10.25, Totals(9, 9), [])
    assert figures[1:] == (0.0, 0.0, None, None), "nothing came: that was counted; nobody waited"
    figures = window.figures(10.5, Totals(9, 12), [])
    assert figures.window_s == 0.5
    assert figures[1:] == (0.0, None, None, None), "half a second is no rate of what came"
    assert window.figures(12.0, Totals(9, 12), [])[1:3] == (0.0, 1.5)


def test_what_was_before_the_first_look_counts_for_nothing() -> None:
    window = Window()
    window.begin(0.0, Totals(1000, 1000))
    figures = window.figures(10.0, Totals(1010, 1200), [])
    assert (figures.requests_per_s, figures.tokens_per_s) == (1.0, 20.0)


def test_a_rate_is_over_the_last_minute_and_forgets_what_was_before() -> None:
    window, now_s = Window(), 0.0
    stepped(window, now_s, Totals(0, 0))
    while now_s < 300.0:  # 100 requests a step for five minutes, then none.
        now_s += STEP_S
        stepped(window, now_s, Totals(int(10 * now_s), int(100 * now_s)))
    busy = window.figures(now_s, Totals(3000, 30_000), [])
    assert (busy.window_s, busy.requests_per_s, busy.tokens_per_s) == (WINDOW_S, 10.0, 100.0)
    while now_s < 300.0 + WINDOW_S:
        now_s += STEP_S
        stepped(window, now_s, Totals(3000, 30_000))
    quiet = window.figures(now_s + 3.0, Totals(3000, 30_000), [])
    assert WINDOW_S <= quiet.window_s <= WINDOW_S + STEP_S
    assert (quiet.requests_per_s, quiet.tokens_per_s) == (0.0, 0.0)


def test_an_answer_that_could_not_be_settled_makes_no_rate_negative() -> None:
    window = Window()
    window.begin(0.0, Totals(0, 0))
    stepped(window, 10.0, Totals(0, 500))
    stepped(window, 20.0, Totals(0, 0))  # Its 500 tokens are gone from the totals.
    stepped(window, 30.0, Totals(1, 40))
    assert [point.tokens_per_s for point in window.points] == [50.0, 0.0, 4.0]
    assert window.figures(30.0, Totals(1, 40), []).tokens_per_s == 540 / 30


def test_points_are_of_an_hour_and_each_of_its_own_step() -> None:
    window = Window()
    for count in range(2 * POINTS_LIMIT):
        stepped(window, STEP_S * count, Totals(count * count, 0), (float(count),))
    assert len(window.points) == POINTS_LIMIT == 3600 / STEP_S
    last = window.points[-1]
    count = 2 * POINTS_LIMIT - 1
    assert last.requests_per_s == (count**2 - (count - 1) ** 2) / STEP_S
    assert last.ttft_p50_s == float(count)


def test_waits_are_those_whose_first_token_came_in_the_window() -> None:
    traffic = Traffic()
    traffic.ended(5, Wait(at_s=10.0, wait_s=9.0))
    traffic.ended(5, Wait(at_s=70.0, wait_s=0.5))
    traffic.ended(0, None)
    assert (traffic.requests, traffic.tokens) == (3, 10)
    assert traffic.waits_since(60.0) == [0.5]


def test_waits_are_bounded_however_many_answers_end() -> None:
    traffic = Traffic()
    for count in range(WAITS_LIMIT + 100):
        traffic.ended(1, Wait(1.0, float(count)))
    assert len(traffic.waits_since(0.0)) == WAITS_LIMIT


@pytest.mark.parametrize(
    ("waits", "p50_s", "p95_s"),
    [
        ([], None, None),
        ([3.0], 3.0, 3.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([float(n) for n in range(100, 0, -1)], 50.0, 95.0),
    ],
)
def test_a_quantile_is_a_wait_that_somebody_had(
    waits: list[float], p50_s: float | None, p95_s: float | None
) -> None:
    assert quantiles(waits, (0.5, 0.95)) == (p50_s, p95_s)
