"""Speed is what ids showed: alone, with full slots, in between; None until something was seen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.coordinator.lengths import Lengths
from parhelion.coordinator.pace import Pace
from parhelion.coordinator.registry import Node, Room
from parhelion.coordinator.route import Need
from parhelion.coordinator.speed import Speed
from parhelion.words import NodeCard


def test_nothing_is_known_before_it_is_measured() -> None:
    speed = Speed(slots=8)
    assert speed.prefill_tokens_per_s is None and speed.alone_tokens_per_s is None
    assert speed.full_tokens_per_s is None and speed.tokens_per_s is None
    assert speed.step_s(1) is None


def test_alone_and_full_are_measured_apart_and_interpolated_between() -> None:
    speed = Speed(slots=5)
    speed.decoded(100, 1.0, 1)
    speed.decoded(100, 3.0, 5)
    assert speed.alone_tokens_per_s == pytest.approx(100)
    assert speed.full_tokens_per_s == pytest.approx(5 * 100 / 3)
    assert [speed.step_s(n) for n in (1, 3, 5)] == pytest.approx([0.01, 0.02, 0.03])


def test_past_what_was_measured_streams_share_the_speed() -> None:
    speed = Speed(slots=8)
    speed.decoded(100, 1.0, 1)
    assert speed.step_s(4) == pytest.approx(0.04)
    speed.decoded(100, 1.5, 4)
    assert speed.step_s(4) == pytest.approx(0.015) and speed.step_s(8) == pytest.approx(0.03)


def test_a_node_with_one_slot_is_alone_when_it_is_full() -> None:
    speed = Speed(slots=1)
    speed.decoded(50, 1.0, 1)
    assert speed.alone_tokens_per_s == speed.full_tokens_per_s == pytest.approx(50)


def test_new_samples_outweigh_old_ones_and_short_ones_count_less() -> None:
    speed = Speed(slots=4)
    speed.decoded(100, 1.0, 1)
    for _ in range(20):
        speed.decoded(50, 1.0, 1)
    assert speed.alone_tokens_per_s == pytest.approx(50, rel=0.01)
    speed.decoded(10, 0.1, 1)
    assert speed.alone_tokens_per_s == pytest.approx(50, rel=0.03)


def test_too_little_to_measure_measures_nothing() -> None:
    speed = Speed(slots=4)
    speed.decoded(3, 1.0, 1)
    speed.decoded(100, 0.0, 1)
    speed.prefilled(63, 1.0)
    assert speed == Speed(slots=4)


def test_it_is_known_whether_more_than_one_stream_was_ever_measured() -> None:
    speed = Speed(slots=4)
    speed.decoded(50, 1.0, 1)
    assert not speed.knows_shared
    speed.decoded(50, 1.0, 4)
    assert speed.knows_shared
    single = Speed(slots=1)
    single.decoded(50, 1.0, 1)
    assert not single.knows_shared


@given(
    st.lists(st.tuples(st.integers(4, 500), st.floats(0.01, 100), st.floats(1, 16)), min_size=1),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_a_step_is_between_what_was_seen_or_shares_it(
    samples: list[tuple[int, float, float]], streams: int
) -> None:
    speed = Speed(slots=16)
    for ids, seconds, beside in samples:
        speed.decoded(ids, seconds, beside)
    step_s = speed.step_s(streams)
    seen = [seconds / ids for ids, seconds, _ in samples]
    assert step_s is not None
    assert min(seen) * 0.999 <= step_s <= max(seen) * max(1, streams) * 1.001
    assert speed.step_s(streams) == step_s


def node(slots: int = 4) -> Node:
    card = NodeCard(
        peer="n", name="n", version="", device="", backend="", slots=slots, kv_tokens=10_000,
        models=(),
    )  # fmt: skip
    rooms = {"d": Room(context=5000, slots=slots, kv_tokens=10_000)}
    return Node(card=card, rooms=rooms, connected_at_ms=0, heard_s=0.0, idle_since_s=0.0)


def test_service_measures_prefill_to_the_first_id_and_decode_after_it() -> None:
    one = node()
    one.reserve(Need("d", 100, 100), 10.0)
    pace = Pace(one, "d", 100, 0, 0, 10.0)
    assert one.rooms["d"].prefill_tokens == 100
    pace.made(1, 10.5)
    assert one.rooms["d"].prefill_tokens == 0 and one.rooms["d"].ids_out == 1
    pace.made(40, 11.0)
    pace.close(11.0, 0)
    speed = one.rooms["d"].speed
    assert speed.prefill_tokens_per_s == pytest.approx(200)
    assert speed.alone_tokens_per_s == pytest.approx(80)
    assert one.rooms["d"].ids_out == 0 and one.tokens_per_s == pytest.approx(80)


def test_decode_is_counted_beside_the_mean_number_of_streams() -> None:
    one = node(slots=4)
    need = Need("d", 10, 100)
    for _ in range(4):
        one.reserve(need, 0.0)
    pace = Pace(one, "d", 10, 0, 0, 0.0)
    pace.made(1, 1.0)
    for _ in range(2):
        one.release(need, 1.25)
    pace.made(10, 1.5)
    pace.close(1.5, 0)
    speed = one.rooms["d"].speed
    assert speed.alone_tokens_per_s is None and speed.full_tokens_per_s is None
    assert speed.step_s(3) == pytest.approx(0.05)


def test_a_prompt_behind_another_or_known_to_be_cached_is_no_prefill_sample() -> None:
    one = node()
    first = Pace(one, "d", 100, 0, 0, 0.0)
    behind = Pace(one, "d", 100, 0, 0, 0.0)
    behind.made(1, 5.0)
    first.close(5.0, 0)
    cached = Pace(one, "d", 300, 200, 0, 6.0)
    assert one.rooms["d"].prefill_tokens == 100
    cached.made(1, 6.1)
    cached.close(6.1, 200)
    assert one.rooms["d"].speed.prefill_tokens_per_s is None
    assert one.rooms["d"].prefill_tokens == 0


def test_a_node_that_forgets_its_cache_is_believed_and_one_that_praises_it_is_not() -> None:
    one = node()
    for said in (0, 0, 10_000):
        pace = Pace(one, "d", 300, 200, 0, 0.0)
        pace.made(1, 1.0)
        pace.close(1.0, said)
    assert one.rooms["d"].kept == pytest.approx(0.7 * 0.7 + 0.3 * (1 - 0.7 * 0.7))


def test_a_long_answer_is_measured_while_it_runs() -> None:
    one = node()
    one.reserve(Need("d", 10, 1000), 0.0)
    pace = Pace(one, "d", 10, 0, 0, 0.0)
    pace.made(1, 0.0)
    for number in range(1, 30):
        pace.made(1, number / 20)
    assert one.rooms["d"].speed.alone_tokens_per_s == pytest.approx(20)


def test_the_expected_output_is_the_measured_mean_and_never_more_than_asked_for() -> None:
    lengths = Lengths()
    assert lengths.expected("d", 500) == 500
    lengths.note("d", 100)
    assert (lengths.expected("d", 500), lengths.expected("d", 20)) == (100, 20)
    for _ in range(200):
        lengths.note("d", 40)
    assert lengths.expected("d", 500) == 40 and lengths.expected("e", 9) == 9
