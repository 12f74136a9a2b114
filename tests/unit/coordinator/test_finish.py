"""When it is better to wait for a busy node than to take a slow one's free slot."""

from __future__ import annotations

from typing import Any

from parhelion.coordinator.finish import finish_s, finishes_s, sooner_elsewhere
from parhelion.coordinator.registry import Node, Room
from parhelion.coordinator.route import Need
from parhelion.words import NodeCard

NEED = Need("d", prompt_tokens=10, max_tokens=500, expected_tokens=100)


def node(peer: str, tokens_per_s: float | None, busy: int = 0, slots: int = 4, **room: Any) -> Node:
    """A node of this speed a stream, however many run."""
    card = NodeCard(
        peer=peer, name=peer, version="", device="", backend="", slots=slots, kv_tokens=10_000,
        models=(),
    )  # fmt: skip
    one = Room(context=1000, slots=slots, kv_tokens=10_000, slots_busy=busy, **room)
    if tokens_per_s is not None:
        for streams in (1, slots):
            one.speed.decoded(100, 100 / tokens_per_s, streams)
    return Node(
        card=card, rooms={"d": one}, connected_at_ms=0, heard_s=0.0, idle_since_s=0.0,
        slots_busy=busy,
    )  # fmt: skip


def test_the_estimate_is_prefill_and_expected_output_at_the_measured_speed() -> None:
    one = node("a", 20.0)
    assert finish_s(one, NEED) == 5.0
    one.rooms["d"].speed.prefilled(100, 10.0)
    assert finish_s(one, NEED) == 6.0
    one.rooms["d"].prefill_tokens = 20
    assert finishes_s([one], NEED) == [8.0]
    assert finish_s(node("b", None), NEED) is None


def test_who_is_first_waits_for_a_much_faster_node_and_who_is_far_behind_does_not() -> None:
    slow, fast = node("slow", 10.0), node("fast", 40.0, busy=4, ids_out=200)
    # Here 10 s. There 2.5 s, and within 7 - 2.5 s its four slots come free more than once.
    sooner = sooner_elsewhere(slow, [fast], NEED)
    assert 4 <= sooner <= 8
    assert sooner_elsewhere(slow, [fast, fast], NEED) == 2 * sooner


def test_nobody_waits_for_a_node_that_is_hardly_faster_or_not_known() -> None:
    slow = node("slow", 10.0)
    assert sooner_elsewhere(slow, [node("same", 10.0, busy=4)], NEED) == 0
    assert sooner_elsewhere(slow, [node("hardly", 13.0, busy=4, ids_out=390)], NEED) == 0
    assert sooner_elsewhere(slow, [node("new", None, busy=4)], NEED) == 0
    assert sooner_elsewhere(node("new", None), [node("fast", 99.0, busy=4)], NEED) == 0


def test_the_rest_of_running_answers_counts() -> None:
    slow = node("slow", 10.0)
    fresh, nearly = node("a", 20.0, busy=1, slots=1), node("a", 20.0, busy=1, slots=1, ids_out=90)
    # Fresh: 5 s until its slot is free and 5 s more. Nearly done: 1.25 s and 5 s.
    assert (sooner_elsewhere(slow, [fresh], NEED), sooner_elsewhere(slow, [nearly], NEED)) == (0, 1)


def test_nobody_waits_for_a_node_that_is_being_tried() -> None:
    slow, fast = node("slow", 10.0), node("fast", 40.0, busy=4, ids_out=200)
    record = fast.rooms["d"].record
    for at_s in (1.0, 2.0, 3.0):
        record.failed(at_s, at_s)
    record.look(100.0)
    assert sooner_elsewhere(slow, [fast], NEED) == 0
