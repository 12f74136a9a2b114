from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.engines.micro_batches import (
    BETTER,
    KNOWN_SAMPLES,
    STALE_S,
    TRIES,
    MicroBatches,
    choose,
    cut,
    estimates,
    round_ms,
    sizes,
    usual,
    worth_a_trial,
)
from parhelion.engines.stage_messages import Feed

_spec = importlib.util.spec_from_file_location(
    "fake_stages", Path(__file__).with_name("fake_stages.py")
)
assert _spec is not None and _spec.loader is not None
ring: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ring)

QUICK_FOUR = {1: 14.5, 2: 27.5, 3: 40.2, 4: 24.2, 8: 46.0}
"""11 layers of TinyLlama's shape in Q4_0: llama.cpp has a quick product for four rows."""

PACKAGED = {1: 3.7, 2: 8.9, 3: 10.9, 4: 13.9, 8: 26.1}
"""The first of two stages of the packaged model."""

FLAT = dict.fromkeys(range(1, 65), 10.0)
"""A GPU: more rows cost hardly more."""

actives, stage_counts = st.integers(1, 64), st.integers(2, 12)
cost_tables = st.dictionaries(st.integers(1, 64), st.floats(0.0, 500.0), max_size=64)
aways = st.none() | st.floats(0.0, 1000.0)


# --- the decision -----------------------------------------------------------------------------


@settings(max_examples=50)
@given(actives, stage_counts, cost_tables, aways, cost_tables, st.none() | st.integers(1, 64))
def test_what_is_chosen_is_never_estimated_worse_than_the_usual_rule(
    active: int,
    stages: int,
    costs: dict[int, float],
    away_ms: float | None,
    seen_ms: dict[int, float],
    had: int | None,
) -> None:
    even = usual(active, stages).rows
    rows = choose(active, stages, costs, away_ms, seen_ms, had)
    if away_ms is None or even not in costs or active == 1:
        assert rows == even, "what is not known changes nothing"
    else:
        takes_ms = estimates(active, stages, costs, away_ms, seen_ms)
        assert takes_ms[rows] <= takes_ms[even]


@settings(max_examples=50)
@given(actives, stage_counts, st.data())
def test_every_sequence_has_room_in_a_micro_batch(
    active: int, stages: int, data: st.DataObject
) -> None:
    for rows in sizes(active, stages):
        assert 1 <= rows <= active
        made = cut(active, stages, rows)
        assert made.rows * made.flights >= active
        assert made == usual(active, stages) or made.flights == -(-active // rows)


@pytest.mark.parametrize(
    ("costs", "stages", "active", "away_ms", "rows"),
    [
        # A step of four rows costs less than one of two or three.
        (QUICK_FOUR, 2, 4, 1.0, 4),
        (QUICK_FOUR, 2, 5, 1.0, 4),
        (QUICK_FOUR, 2, 8, 1.0, 4),
        # Of four on three stages two go twice: four single steps keep all stages at work.
        (QUICK_FOUR, 3, 4, 1.0, 1),
        (QUICK_FOUR, 3, 8, 1.0, 4),
        # Two rows cost two steps of one, all on one stage at a time.
        (QUICK_FOUR, 2, 2, 1.0, 1),
        # Far links: single rows hide the most of it; near ones leave nothing to hide.
        (PACKAGED, 2, 8, 50.0, 1),
        (PACKAGED, 2, 8, 1.0, 4),
        # A step that costs the same for any rows, or nothing known of the way.
        (FLAT, 2, 8, 50.0, 4),
        (FLAT, 3, 8, 0.0, 3),
        (PACKAGED, 2, 8, None, 4),
        (QUICK_FOUR, 3, 1, 50.0, 1),
    ],
)
def test_the_size_follows_what_steps_and_the_way_cost(
    costs: Mapping[int, float], stages: int, active: int, away_ms: float | None, rows: int
) -> None:
    assert choose(active, stages, costs, away_ms, {}, None) == rows


def test_a_choice_does_not_flap_where_two_sizes_are_about_as_good() -> None:
    had, changes = None, 0
    for turn in range(100):
        # What two rows cost moves about what four cost, by less than the margin.
        costs = {1: 90.0, 2: 10.0, 4: 20.0 * (0.9 if turn % 2 else 1.1)}
        rows = choose(8, 2, costs, 0.0, {}, had)
        changes += had is not None and rows != had
        had = rows
    assert changes == 0
    # Once it is chosen it stays while it is not worse, though it would not be chosen anew.
    costs = {1: 90.0, 2: 10.0, 4: 22.5}
    assert round_ms(8, 2, 2, costs, 0.0) > BETTER * round_ms(8, 2, 4, costs, 0.0)
    assert choose(8, 2, costs, 0.0, {}, None) == 4 and choose(8, 2, costs, 0.0, {}, 2) == 2
    assert choose(8, 2, {**costs, 4: 20.0}, 0.0, {}, 2) == 4, "back without a margin"


def test_what_a_round_was_seen_to_take_counts_more_than_what_it_should() -> None:
    assert choose(8, 2, PACKAGED, 50.0, {}, None) == 1
    assert choose(8, 2, PACKAGED, 50.0, {4: 80.0, 2: 90.0, 1: 120.0}, 1) == 4
    # What slows all sizes down alike makes no other one look better.
    assert choose(8, 2, PACKAGED, 1.0, {4: 300.0}, None) == 4


def test_only_what_could_pay_is_worth_a_trial() -> None:
    assert worth_a_trial(8, 2, {}, 50.0) == () and worth_a_trial(8, 2, PACKAGED, None) == ()
    assert worth_a_trial(8, 2, {4: 14.0}, 50.0) == (1,), "one row first: others are held to it"
    assert worth_a_trial(8, 2, {1: 10.0, 4: 10.5}, 1.0) == (), "a GPU gains nothing by either"
    assert worth_a_trial(4, 2, {1: 14.5, 2: 27.5}, 1.0) == (4,)
    assert worth_a_trial(1, 2, {}, 50.0) == ()


# --- learning ---------------------------------------------------------------------------------


def go_on(made: MicroBatches, sizes_ms: Mapping[int, float], now_s: float, steps: int) -> float:
    """Eight streams on two stages of the packaged model, 50 ms away; rounds take `sizes_ms`."""
    for _ in range(steps):
        rows = made.cut(8, now_s, may_try=True).rows
        made.stepped(rows, PACKAGED[rows], now_s)
        made.flew(rows, 2 * (PACKAGED[rows] + 0.6) + 50.0, now_s)
        made.went_round(8, rows, sizes_ms[rows], now_s)
        now_s += 0.1
    return now_s


def learned(costs: Mapping[int, float], away_ms: float, active: int, stages: int) -> MicroBatches:
    """After 100 steps of which each is as large as it may be."""
    made = MicroBatches(stages)
    for _ in range(100):
        rows = made.cut(active, 0.0, may_try=True).rows
        made.stepped(rows, costs[rows], 0.0)
        made.flew(rows, stages * (costs[rows] + 0.6) + away_ms, 0.0)
    return made


@pytest.mark.parametrize(
    ("costs", "away_ms", "active", "stages", "rows"),
    [
        (QUICK_FOUR, 1.0, 4, 2, 4),
        (QUICK_FOUR, 1.0, 8, 3, 4),
        (PACKAGED, 50.0, 8, 2, 1),
        (FLAT, 50.0, 8, 2, 4),
    ],
)
def test_costs_are_learned_from_steps_and_flights_alone(
    costs: Mapping[int, float], away_ms: float, active: int, stages: int, rows: int
) -> None:
    assert learned(costs, away_ms, active, stages).cut(active, 0.0, may_try=True).rows == rows


def test_a_size_that_is_seen_to_be_slower_is_given_up_for_a_while() -> None:
    made = MicroBatches(2)
    as_seen = {1: 150.0, 2: 100.0, 4: 80.0, 8: 110.0}  # Single rows: 60 by what is known of steps.
    now_s = go_on(made, as_seen, 0.0, 200)
    until_s, chosen = now_s + 5 * STALE_S, list[int]()
    while now_s < until_s:
        chosen.append(made.cut(8, now_s, may_try=True).rows)
        now_s = go_on(made, as_seen, now_s, 1)
    assert chosen[0] == 4 and chosen.count(4) > 0.85 * len(chosen)
    assert 1 in chosen, "what was slow is tried again: neighbours come and go"


def test_a_size_that_pays_proves_itself_against_the_usual_one_again() -> None:
    made = MicroBatches(2)
    now_s = go_on(made, {1: 60.0, 2: 70.0, 4: 80.0, 8: 110.0}, 0.0, 200)
    assert made.cut(8, now_s, may_try=True).rows == 1
    now_s = go_on(made, {1: 90.0, 2: 85.0, 4: 50.0, 8: 110.0}, now_s, int(3 * STALE_S / 0.1))
    assert made.cut(8, now_s, may_try=True).rows == 4


def test_nothing_is_tried_beside_a_prompt() -> None:
    made = MicroBatches(2)
    for _ in range(2 * KNOWN_SAMPLES):
        made.stepped(4, 14.0, 0.0)
        made.flew(4, 80.0, 0.0)
    assert made.cut(8, 0.0, may_try=True).rows == 1
    assert made.cut(8, 0.0, may_try=False) == usual(8, 2)


def test_a_trial_that_comes_to_nothing_ends() -> None:
    made = MicroBatches(2)
    for _ in range(2 * KNOWN_SAMPLES):
        made.stepped(2, 27.5, 0.0)
        made.stepped(1, 14.5, 0.0)
        made.flew(2, 60.0, 0.0)
    tried = 0
    while made.cut(4, 0.0, may_try=True).rows == 4:
        made.stepped(2, 27.5, 0.0)  # Two of the four are never there.
        tried += 1
        assert tried <= TRIES
    assert tried == TRIES and made.cut(4, 0.0, may_try=True).rows != 4


def test_a_step_that_was_held_up_now_and_then_moves_nothing() -> None:
    made = learned(PACKAGED, 1.0, 8, 2)
    for turn in range(30):
        made.stepped(4, 400.0 if turn % 3 == 0 else 13.9, 0.0)
        made.flew(4, 900.0 if turn % 3 == 0 else 30.0, 0.0)
        assert made.cut(8, 0.0, may_try=True).rows == 4


# --- in the ring ------------------------------------------------------------------------------


def made_in(stages: int, streams: int, costs: Mapping[int, float], delay_ms: float) -> list[int]:
    """Ids that each of so many streams has after 1.5 s."""
    pipeline = ring.Ring(stages, slots=streams, kv_tokens=5000)
    first, decoder = pipeline.loops[0], pipeline.decoders[0]
    clock_s = [0.0, 0.0]  # What it is, and what a step at work adds to it.
    plain = decoder.decode

    def decode(batch: Any) -> int:
        clock_s[1] = costs.get(batch.size, 12.0 * batch.size) / 1e3
        return int(plain(batch))

    decoder.decode, first._clock_s = decode, lambda: sum(clock_s)
    for n in range(streams):
        pipeline.begin(ring.job(f"j{n}", [1 + n], 500))
    busy_until_s, arriving = [0.0] * stages, list[tuple[float, int, bytes]]()
    while clock_s[0] < 1.5:
        for one in [one for one in arriving if one[0] <= clock_s[0]]:
            arriving.remove(one)
            pipeline.loops[one[1]].tell(Feed(frame=one[2]))
        for place, loop in enumerate(pipeline.loops):
            if busy_until_s[place] <= clock_s[0] and loop.ready:
                loop.step()
                clock_s[1] = 0.0
                rows = pipeline.said[place][-1].rows
                took_s = costs.get(rows, 12.0 * rows) / 1e3
                busy_until_s[place] = clock_s[0] + took_s
                to = (place + 1) % stages
                frame = pipeline.inboxes[to].popleft()
                arriving.append((busy_until_s[place] + delay_ms / 1e3, to, frame))
        clock_s[0] += 0.001
    return [len(pipeline.ids(f"j{n}")) for n in range(streams)]


@pytest.mark.parametrize(
    ("stages", "streams", "costs", "delay_ms", "gain"),
    [
        (2, 4, QUICK_FOUR, 0.5, 1.05),
        (3, 8, QUICK_FOUR, 0.5, 1.15),
        (2, 8, PACKAGED, 25.0, 1.1),
        (2, 5, QUICK_FOUR, 0.5, 0.97),
        (3, 4, QUICK_FOUR, 0.5, 1.1),
        (2, 8, FLAT, 0.5, 0.95),
    ],
)
def test_a_ring_makes_more_and_every_stream_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
    stages: int,
    streams: int,
    costs: Mapping[int, float],
    delay_ms: float,
    gain: float,
) -> None:
    ours = made_in(stages, streams, costs, delay_ms)
    monkeypatch.setattr(MicroBatches, "cut", lambda self, n, now_s, may_try: usual(n, self._stages))
    before = made_in(stages, streams, costs, delay_ms)
    assert sum(ours) >= gain * sum(before), (ours, before)
    assert min(ours) >= 0.8 * max(ours) and min(ours) >= 0.9 * min(before), (ours, before)
