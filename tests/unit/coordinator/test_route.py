"""Routing: what filters a node out, what ranks it, and how ties are broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from parhelion.coordinator.provider import Choice
from parhelion.coordinator.registry import Node, Room
from parhelion.coordinator.route import LOOK_NODES, Need, capable, largest_tokens, pick
from parhelion.words import NodeCard, ServedModel

NEED = Need("d", prompt_tokens=10, max_tokens=10)


def node(peer: str, **fields: Any) -> Node:
    slots, kv = fields.pop("slots", 4), fields.pop("kv_tokens", 1000)
    card = NodeCard(
        peer=peer, name=peer, version="", device="", backend="", slots=slots, kv_tokens=kv,
        models=(ServedModel(digest="d", context=100),),
    )  # fmt: skip
    busy = {"slots_busy": fields.get("slots_busy", 0), "kv_busy": fields.pop("kv_busy", 0)}
    context = fields.pop("context", 100)
    room = Room(context=context, slots=slots, kv_tokens=kv, **busy)
    if speed := fields.pop("speed", None):
        # Shared evenly by all streams.
        room.speed.decoded(100, 100 / speed, 1)
        room.speed.decoded(100, 100 * slots / speed, slots)
    rooms = {fields.pop("digest", "d"): room}
    return Node(
        card=card, rooms=rooms, connected_at_ms=0, heard_s=0.0,
        **{"idle_since_s": 0.0, **fields},
    )  # fmt: skip


def picked(*nodes: Node, without: tuple[str, ...] = ()) -> str | None:
    found = pick(nodes, NEED, without)
    return found.peer if found else None


def test_only_ready_nodes_with_the_model_and_room_are_picked() -> None:
    assert picked(node("a", state="suspect")) is None
    assert picked(node("a", state="draining")) is None
    assert picked(node("a", state="failed")) is None
    assert picked(node("a", digest="other")) is None
    assert picked(node("a", context=19)) is None
    assert picked(node("a", slots_busy=4)) is None
    assert picked(node("a", kv_busy=981)) is None
    assert picked(node("a"), without=("a",)) is None
    assert picked(node("a", context=20, kv_busy=980, slots_busy=3)) == "a"


def test_a_suspect_node_is_waited_for_but_not_picked() -> None:
    assert capable([node("a", state="suspect")], NEED)
    assert not capable([node("a", state="failed")], NEED)


@pytest.mark.parametrize("wish", [Choice(ignore=frozenset({"n1"})), Choice(sort="latency")])
def test_a_wish_looks_at_no_more_nodes_than_the_router_itself(wish: Choice) -> None:
    looked = 0

    def many() -> Iterator[Node]:
        nonlocal looked
        for number in range(2 * LOOK_NODES):
            looked += 1
            yield node(f"n{number}")

    assert pick(many(), replace(NEED, choice=wish)) is not None
    assert looked <= LOOK_NODES + 1


def test_an_order_of_nodes_is_over_all_of_them() -> None:
    nodes = [node(f"n{number}") for number in range(2 * LOOK_NODES)]
    last = Choice(order=(frozenset({nodes[-1].peer}),))
    assert pick(nodes, replace(NEED, choice=last)) is nodes[-1]


def test_the_sooner_estimated_finish_wins() -> None:
    slow, fast = node("slow", speed=10.0), node("fast", speed=30.0, slots_busy=1)
    assert picked(slow, fast) == "fast"
    fast.slots_busy = fast.rooms["d"].slots_busy = 3
    assert picked(slow, fast) == "slow"


def test_a_node_that_is_not_measured_gets_a_first_job_and_then_waits_for_its_measure() -> None:
    measured = node("measured", speed=1000.0, slots_busy=1)
    assert picked(measured, node("new")) == "new"
    assert picked(node("measured", speed=1000.0), node("new", slots_busy=1)) == "measured"
    slow, fast = node("slow", speed=10.0), node("fast", speed=30.0, idle_since_s=2.0)
    assert picked(slow, fast, node("new", idle_since_s=1.0)) == "new"
    measured = node("measured", speed=1000.0, slots_busy=2)
    assert picked(slow, measured, node("new", slots_busy=1)) == "measured"


def test_where_no_node_is_measured_the_least_busy_wins() -> None:
    assert picked(node("a", slots_busy=2), node("b", slots_busy=1), node("c", slots_busy=3)) == "b"


def test_among_equal_finishes_the_cheaper_wins_and_then_the_one_that_holds_the_prompt() -> None:
    cheap, dear = node("cheap", price_micro=1), node("dear", price_micro=2)
    held = replace(NEED, cached={"dear": 64})
    assert pick([dear, cheap], held) is cheap
    dear.price_micro = 1
    assert pick([cheap, dear], held) is dear


def test_an_over_priced_node_is_never_picked() -> None:
    dear = node("dear", price_micro=2)
    assert pick([dear], replace(NEED, max_price_micro=2)) is dear
    assert pick([dear], replace(NEED, max_price_micro=1)) is None


def test_a_conversation_goes_back_to_its_node_unless_that_costs_more_than_it_saves() -> None:
    need = replace(NEED, prompt_tokens=80, cached={"home": 64})
    home, other = node("home", speed=10.0), node("other", speed=10.0)
    for one in (home, other):
        one.rooms["d"].speed.prefilled(100, 1.0)
    assert pick([other, home], need) is home
    # 64 tokens of prefill are 0.64 s; two streams more are 2 s of slower decode.
    home.slots_busy = home.rooms["d"].slots_busy = 2
    assert pick([other, home], need) is other
    home.slots_busy = home.rooms["d"].slots_busy = 0
    home.rooms["d"].kept = 0.0
    home.idle_since_s = 1.0
    need = replace(need, cached={})
    assert pick([other, home], need) is other


def test_prompts_that_wait_for_their_prefill_count() -> None:
    behind, free = node("behind", speed=10.0), node("free", speed=9.0)
    for one in (behind, free):
        one.rooms["d"].speed.prefilled(100, 1.0)
    assert picked(behind, free) == "behind"
    behind.rooms["d"].prefill_tokens = 500
    assert picked(behind, free) == "free"


def test_an_idle_dead_or_failing_node_never_wins() -> None:
    failing, good = node("failing", speed=30.0), node("good", speed=10.0, slots_busy=3)
    assert picked(failing, good) == "failing"
    record = failing.rooms["d"].record
    for at_s in (1.0, 2.0, 3.0):
        record.failed(at_s, at_s)
    assert picked(failing, good) == "good"
    assert picked(failing) is None and not capable([failing], NEED)
    assert picked(node("dead", state="suspect"), node("gone", state="gone"), good) == "good"


def test_a_single_fault_makes_a_node_count_as_slower() -> None:
    once, never = node("once", speed=11.0), node("never", speed=10.0)
    assert picked(once, never) == "once"
    once.rooms["d"].record.failed(1.0, 1.0)
    assert picked(once, never) == "never"


def test_half_open_lets_one_job_through() -> None:
    trial = node("trial")
    record = trial.rooms["d"].record
    for at_s in (1.0, 2.0, 3.0):
        record.failed(at_s, at_s)
    assert not record.look(7.9) and picked(trial) is None
    assert record.look(8.0) and picked(trial) == "trial"
    trial.reserve(NEED, 8.0)
    assert picked(trial) is None and capable([trial], NEED)
    record.succeeded(9.0)
    assert picked(trial) == "trial"


def test_ties_go_to_the_longest_idle() -> None:
    assert picked(node("a", idle_since_s=5.0), node("b", idle_since_s=3.0)) == "b"


def test_the_largest_request_is_what_some_node_can_hold() -> None:
    assert largest_tokens([node("a", kv_tokens=50), node("b", kv_tokens=70)], "d") == 70
    assert largest_tokens([node("a")], "d") == 100
    assert largest_tokens([node("a")], "other") is None


def test_a_resumed_answer_is_prefill_of_what_is_out_and_decode_of_what_is_left() -> None:
    need = Need("d", prompt_tokens=20, max_tokens=60, expected_tokens=40)
    rest = need.resumed(30)
    assert (rest.prompt_tokens, rest.max_tokens, rest.output_tokens) == (50, 30, 10)
    assert rest.kv_tokens == need.kv_tokens, "the room that it takes is the same"
    # Longer than expected already: a quarter of an answer is still to come, and at most the bound.
    assert need.resumed(45).output_tokens == 10
    assert need.resumed(59).output_tokens == 1
    assert replace(need, expected_tokens=None).resumed(30).output_tokens == 30
    reader, writer = node("reader", speed=10.0), node("writer", speed=20.0)
    reader.rooms["d"].speed.prefilled(100, 0.1)
    writer.rooms["d"].speed.prefilled(100, 10.0)
    # 40 ids: 4.02 s and 4 s; of the last 10 with 50 to prefill: 1.05 s and 5.5 s.
    assert pick([reader, writer], replace(need, prompt_tokens=10, cached={"writer": 10})) is writer
    assert pick([reader, writer], rest) is reader
