"""Routing: what filters a node out, what ranks it, and how ties are broken."""

from __future__ import annotations

from typing import Any

from parhelion.coordinator.registry import Node, Room
from parhelion.coordinator.route import Need, capable, largest_tokens, pick
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
    rooms = {fields.pop("digest", "d"): Room(context=context, slots=slots, kv_tokens=kv, **busy)}
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


def test_the_sooner_estimated_finish_wins() -> None:
    slow, fast = node("slow", tokens_per_s=10.0), node("fast", tokens_per_s=30.0, slots_busy=1)
    assert picked(slow, fast) == "fast"
    fast.slots_busy = fast.rooms["d"].slots_busy = 3
    assert picked(slow, fast) == "slow"


def test_beside_an_unmeasured_node_the_smaller_busy_share_wins() -> None:
    measured = node("measured", tokens_per_s=1000.0, slots_busy=1)
    assert picked(measured, node("new")) == "new"


def test_ties_go_to_the_longest_idle() -> None:
    assert picked(node("a", idle_since_s=5.0), node("b", idle_since_s=3.0)) == "b"


def test_the_largest_request_is_what_some_node_can_hold() -> None:
    assert largest_tokens([node("a", kv_tokens=50), node("b", kv_tokens=70)], "d") == 70
    assert largest_tokens([node("a")], "d") == 100
    assert largest_tokens([node("a")], "other") is None


def test_the_rate_is_of_the_time_with_work_only() -> None:
    one = node("a")
    one.reserve(NEED, 10.0)
    one.ids_made = 50
    one.release(NEED, 12.0)
    one.sample_rate(100.0)
    assert one.tokens_per_s == 25.0
    one.sample_rate(200.0)
    assert one.tokens_per_s == 25.0
