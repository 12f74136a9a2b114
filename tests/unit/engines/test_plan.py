from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parhelion.engines.plan import (
    SMOOTH_RATIO,
    Held,
    Pace,
    PaceMeter,
    Prefill,
    common_prefix,
    prefill_budget,
    reusable,
    share_prefill,
)

milliseconds = st.floats(0.01, 500.0)


@given(milliseconds, milliseconds, st.integers(0, 16))
def test_prefill_keeps_within_its_limits_or_is_one_id(
    decode_ms: float, id_ms: float, streams: int
) -> None:
    ids = prefill_budget(Pace(decode_ms, id_ms), streams, 80.0, 512)
    assert 1 <= ids <= 512 - streams
    if ids > 1:
        assert ids * id_ms <= 80.0 + 1e-6
        assert not streams or decode_ms + ids * id_ms <= SMOOTH_RATIO * decode_ms + 1e-6


@given(milliseconds, milliseconds, st.integers(0, 16))
def test_prefill_takes_all_that_its_limits_leave(
    decode_ms: float, id_ms: float, streams: int
) -> None:
    more = 1 + prefill_budget(Pace(decode_ms, id_ms), streams, 80.0, 10**6)
    too_long = more * id_ms > 80.0
    too_wide = streams > 0 and decode_ms + more * id_ms > SMOOTH_RATIO * decode_ms
    assert too_long or too_wide


prefills = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 600)), min_size=1, max_size=20)


@given(prefills, st.integers(1, 512))
def test_shares_add_up_to_no_more_than_the_budget_and_starve_nobody_oldest(
    sizes: list[tuple[int, int]], budget: int
) -> None:
    waiting = [Prefill(seq, remaining, cap) for seq, (remaining, cap) in enumerate(sizes)]
    shares = dict(share_prefill(waiting, budget))
    assert sum(shares.values()) <= budget
    assert all(0 < n <= waiting[seq].remaining for seq, n in shares.items())
    assert all(n <= waiting[seq].cap for seq, n in shares.items())
    assert shares[0] >= min((budget + 1) // 2, waiting[0].remaining, waiting[0].cap)
    room = sum(min(one.remaining, one.cap) for one in waiting)
    assert sum(shares.values()) == min(budget, room)


def test_a_short_prompt_overtakes_long_ones_but_not_the_oldest() -> None:
    waiting = [Prefill(0, 4000, 4000), Prefill(1, 3000, 3000), Prefill(2, 5, 5)]
    assert dict(share_prefill(waiting, 16)) == {0: 8, 2: 5, 1: 3}


def test_the_meter_learns_the_speed_and_forgives_one_hiccup() -> None:
    meter = PaceMeter()
    for _ in range(40):
        meter.measured(2, 0, 20.0)
        meter.measured(2, 10, 70.0)
    assert 19 < meter.pace(2).decode_ms < 21
    assert 4.5 < meter.pace(2).prefill_id_ms < 5.5
    meter.measured(2, 0, 3000.0)
    assert meter.pace(2).decode_ms < 40


ids = st.lists(st.integers(0, 3), max_size=60)


@given(ids, ids)
def test_the_common_prefix_is_what_a_loop_counts(a: list[int], b: list[int]) -> None:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    assert common_prefix(np.array(a, np.int32), np.array(b, np.int32)) == count


def held(seq: int, scope: str, size: int, parked: bool = True) -> Held:
    return Held(seq, scope, np.arange(size, dtype=np.int32), parked)


def test_a_prefix_is_reused_only_inside_its_scope() -> None:
    wanted = np.arange(100, dtype=np.int32)
    assert reusable(wanted, "mine", [held(0, "yours", 100)]) is None
    found = reusable(wanted, "mine", [held(0, "yours", 100), held(1, "mine", 60)])
    assert found is not None
    assert (found.seq, found.length) == (1, 60)


def test_the_last_prompt_id_is_always_left_to_decode() -> None:
    found = reusable(np.arange(100, dtype=np.int32), "s", [held(0, "s", 300)])
    assert found is not None
    assert found.length == 99


def test_a_sequence_is_taken_over_when_little_is_lost_and_nobody_runs_it() -> None:
    wanted = np.arange(100, dtype=np.int32)
    over = reusable(wanted, "s", [held(0, "s", 120)])
    copied = reusable(wanted, "s", [held(0, "s", 500)])
    running = reusable(wanted, "s", [held(0, "s", 120, parked=False)])
    assert over is not None and over.take_over
    assert copied is not None and not copied.take_over
    assert running is not None and not running.take_over
