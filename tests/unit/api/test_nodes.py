"""/v1/nodes and its stream: what a page gets, resumes, and never buffers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.api import nodes as listing
from parhelion.api.nodes import PIECE_NODES, framed
from parhelion.api.shapes import NodesChange
from parhelion.coordinator import NodesEvent, NodeView, PlanView, readers
from parhelion.coordinator import feed as feeds


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_S", 0.0)


def told(body: bytes) -> list[tuple[str, Any]]:
    """Id and data of every event; comments and the retry line are left out."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            assert set(lines) == {"id", "data"}, "a named event would pass onmessage by"
            found.append((lines["id"], msgspec.json.decode(lines["data"])))
    return found


async def events(pool: Any, exchange: Any, count: int) -> list[tuple[str, Any]]:
    await pool.until(lambda: len(told(exchange.response.body)) >= count)
    return told(exchange.response.body)


async def leave(exchange: Any) -> None:
    exchange.drop()
    async with asyncio.timeout(5):
        await exchange.task


async def change(pool: Any, slots_busy: int) -> None:
    pool.coordinator.slots_busy = slots_busy
    pool.coordinator.feed.touch()
    await asyncio.sleep(0.002)


async def test_a_page_gets_everything_at_once_and_then_each_change(pool: Any) -> None:
    exchange = pool.start("GET", "/v1/nodes/stream")
    ((first, snapshot),) = await events(pool, exchange, 1)
    assert exchange.response.status == 200
    assert exchange.response.headers["content-type"].startswith("text/event-stream")
    assert exchange.response.headers["x-accel-buffering"] == "no"
    assert exchange.response.bodies[0].startswith(b"retry: ")
    assert snapshot["type"] == "snapshot"
    assert snapshot["nodes"] == (await pool.call("GET", "/v1/nodes")).json["data"]
    await change(pool, 5)
    _, (second, changed) = await events(pool, exchange, 2)
    assert changed["type"] == "change" and changed["removed"] == []
    assert [node["slots_busy"] for node in changed["nodes"]] == [5]
    assert first != second
    await leave(exchange)
    assert not pool.coordinator.feed._readers


async def test_a_page_that_comes_back_gets_what_it_missed_and_nothing_twice(pool: Any) -> None:
    exchange = pool.start("GET", "/v1/nodes/stream")
    ((last, _snapshot),) = await events(pool, exchange, 1)
    await leave(exchange)
    await change(pool, 2)
    await change(pool, 3)
    again = pool.start("GET", "/v1/nodes/stream", headers={"last-event-id": last})
    got = await events(pool, again, 2)
    assert [data["type"] for _id, data in got] == ["change", "change"]
    assert [data["nodes"][0]["slots_busy"] for _id, data in got] == [2, 3]
    await leave(again)
    for foreign in ("", "x", "e0-999", "\xff", "e1-1"):
        other = pool.start("GET", "/v1/nodes/stream", headers={"last-event-id": foreign})
        assert (await events(pool, other, 1))[0][1]["type"] == "snapshot"
        await leave(other)


async def test_a_page_that_has_everything_still_hears_that_it_is_connected(pool: Any) -> None:
    exchange = pool.start("GET", "/v1/nodes/stream")
    ((last, _snapshot),) = await events(pool, exchange, 1)
    again = pool.start("GET", "/v1/nodes/stream", headers={"last-event-id": last})
    await again.until_bodies(1)
    assert again.response.status == 200 and not told(again.response.body)
    # Quiet streams are kept alive: the pool's own setting is 0.1 s here.
    await pool.until(lambda: b": keep-alive\n\n" in again.response.body)
    await leave(exchange)
    await leave(again)


async def test_a_slow_reader_costs_no_memory_and_gets_one_fuller_event(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RECORD_EVENTS", 4)
    exchange = pool.start("GET", "/v1/nodes/stream")
    await events(pool, exchange, 1)
    exchange.reading.clear()
    for count in range(2, 40):
        await change(pool, count)
    assert len(pool.coordinator.feed._record) == 4
    exchange.reading.set()
    got = await events(pool, exchange, 3)
    assert [data["type"] for _id, data in got[1:]][-1] == "snapshot"
    assert got[-1][1]["nodes"][0]["slots_busy"] == 39
    assert len(got) < 6
    await leave(exchange)


async def test_of_a_large_pool_no_write_is_larger_than_a_piece(pool: Any) -> None:
    (here,) = pool.coordinator.nodes()
    pool.coordinator.gone = tuple(
        msgspec.structs.replace(here, peer=f"12D3KooW{number:044}", device="x" * 200)
        for number in range(1000)
    )
    exchange = pool.start("GET", "/v1/nodes/stream")
    ((_id, snapshot),) = await events(pool, exchange, 1)
    assert max(map(len, exchange.response.bodies)) < 64 * 1024
    assert snapshot["nodes"] == (await pool.call("GET", "/v1/nodes")).json["data"]
    assert (len(snapshot["nodes"]), snapshot["removed"]) == (1001, [])
    await leave(exchange)


@pytest.mark.parametrize("nodes", [0, 1, PIECE_NODES, PIECE_NODES + 1, 3 * PIECE_NODES])
def test_pieces_make_one_event_on_one_line(pool: Any, nodes: int) -> None:
    (here,) = pool.coordinator.nodes()
    many = tuple(msgspec.structs.replace(here, peer=str(number)) for number in range(nodes))
    written = tuple(msgspec.json.encode(node) for node in many)
    event = NodesEvent(7, "e-7", whole=False, nodes=written, removed=("gone",))
    pieces = list(framed(event))
    assert len(pieces) == max(1, -(-nodes // PIECE_NODES))
    body = NodesChange(type="change", nodes=many, removed=("gone",))
    assert b"".join(pieces) == b"id: e-7\ndata: " + msgspec.json.encode(body) + b"\n\n"


async def test_the_stream_ends_when_the_coordinator_stops(pool: Any) -> None:
    exchange = pool.start("GET", "/v1/nodes/stream")
    await events(pool, exchange, 1)
    pool.coordinator.feed.close()
    async with asyncio.timeout(5):
        await exchange.task
    assert exchange.response.complete


async def test_one_reader_too_many_is_503_with_what_to_do(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "READERS_LIMIT", readers.READERS_FOR_ACCOUNTS + 1)
    exchange = pool.start("GET", "/v1/nodes/stream")
    await events(pool, exchange, 1)
    refused = await pool.call("GET", "/v1/nodes/stream")
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] and "/v1/nodes" in refused.error["hint"]
    await leave(exchange)


async def test_readers_are_counted_by_address_whatever_a_stranger_says(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "READERS_PER_SITE_LIMIT", 1)
    exchange = pool.start("GET", "/v1/nodes/stream", client="192.0.2.9")
    await events(pool, exchange, 1)
    said = {"x-forwarded-for": "192.0.2.10"}
    refused = await pool.call("GET", "/v1/nodes/stream", headers=said, client="192.0.2.9")
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] and "/v1/nodes" in refused.error["hint"]
    await leave(exchange)


async def test_one_stranger_behind_a_proxy_keeps_no_signed_in_reader_out(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential that is bad is as good as none, and no reason to be refused what all may see."""
    monkeypatch.setattr(readers, "READERS_HIDDEN_LIMIT", 1)
    monkeypatch.setattr(readers, "READERS_PER_ACCOUNT_LIMIT", 1)
    hidden = {"x-forwarded-for": "192.0.2.10"}
    opened = await pool.call("POST", "/v1/accounts/recovery", {})
    mine = {"cookie": opened.headers["set-cookie"].split(";")[0], **hidden}
    bad = {"cookie": "parhelion_session=ses-prl-" + "A" * 43, **hidden}
    secret, _ = await pool.key()
    ways = [{"headers": bad}, {"headers": mine}, {"headers": hidden, "key": secret}]
    reading = []
    for way in ways:
        reading.append(pool.start("GET", "/v1/nodes/stream", **way))
        await events(pool, reading[-1], 1)
    for way in (*ways, {"headers": hidden}, {"headers": hidden, "key": "sk-prl-none"}):
        refused = await pool.call("GET", "/v1/nodes/stream", **way)
        assert (refused.status, refused.error["code"]) == (503, "overloaded"), way
    for exchange in reading:
        await leave(exchange)


async def test_head_of_the_stream_ends(pool: Any) -> None:
    response = await pool.call("HEAD", "/v1/nodes/stream")
    assert response.status == 200 and response.body == b""
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_an_unknown_query_is_refused_before_the_stream_begins(pool: Any) -> None:
    assert (await pool.call("GET", "/v1/nodes/stream?a=1")).status == 400


async def test_what_nobody_knows_is_null_and_what_a_node_says_is_marked(pool: Any) -> None:
    (node,) = (await pool.call("GET", "/v1/nodes")).json["data"]
    unknown = ("utilisation", "tokens_per_s", "first_id_s", "success_rate", "samples")
    assert all(node[name] is None for name in unknown)
    assert {"device", "backend", "version"} <= set(node["reported"])
    assert "tokens_per_s" not in node["reported"]


async def test_a_node_that_left_is_listed_with_why_and_serves_no_model(pool: Any) -> None:
    (here,) = pool.coordinator.nodes()
    gone: NodeView = msgspec.structs.replace(
        here, peer="12D3KooWGone", state="gone", reason="silent for 6.0 s"
    )
    pool.coordinator.gone = (gone,)
    nodes = (await pool.call("GET", "/v1/nodes")).json["data"]
    assert [node["state"] for node in nodes] == ["ready", "gone"]
    (model,) = (await pool.call("GET", "/v1/models")).json["data"]
    assert model["nodes"] == 1


async def test_a_long_list_is_made_twice_a_second_and_a_short_one_for_each_who_asks(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(slots: int) -> Any:
        pool.coordinator.slots_busy = slots
        (node,) = (await pool.call("GET", "/v1/nodes")).json["data"]
        return node["slots_busy"]

    assert [await busy(2), await busy(3)] == [2, 3]
    monkeypatch.setattr(listing, "FEW", 0)
    assert [await busy(4), await busy(5)] == [4, 4]
    pool.clock.ahead_s += listing.KEPT_S
    assert await busy(6) == 6


async def test_the_plan_is_public_and_written_once_for_all_who_get_the_same(pool: Any) -> None:
    view = PlanView(epoch=3, standby=("12D3KooWx",), reasons=("because",))
    pool.coordinator.planned = view
    first = await pool.call("GET", "/v1/plan")
    assert first.status == 200
    assert first.json == msgspec.json.decode(msgspec.json.encode(view))
    assert (await pool.call("GET", "/v1/plan")).body == first.body
    pool.coordinator.planned = PlanView(epoch=4)
    assert (await pool.call("GET", "/v1/plan")).json["epoch"] == 4
    assert (await pool.call("GET", "/v1/plan?x=1")).status == 400
    assert (await pool.call("HEAD", "/v1/plan")).body == b""
