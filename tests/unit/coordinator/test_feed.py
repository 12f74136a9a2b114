"""The record of the nodes' changes: nothing is missed, nothing grows, and slow readers get less."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.coordinator import feed as feeds
from parhelion.coordinator import readers as readers_of
from parhelion.coordinator.feed import NodeFeed, NodesEvent, Reader
from parhelion.coordinator.roster import GONE_KEPT, PARDONED, REFUSED_KEPT, SHOWN_S, Roster
from parhelion.coordinator.views import NodeView
from parhelion.identity import Caller
from parhelion.words import Problem, ProblemCode


def view(peer: str, **fields: Any) -> NodeView:
    known = {
        "name": peer, "peer": peer, "operator": f"node:{peer}", "state": "ready", "reason": None,
        "models": (), "slots": 4, "slots_busy": 0, "tokens_per_s": None, "version": "1",
        "device": "cpu", "backend": "x", "connected_at_ms": 1, "served": 0, "failed": 0,
    }  # fmt: skip
    return NodeView(**{**known, **fields})


class Pool:
    """Nodes that a test changes, and a feed of them that looks at once."""

    def __init__(self, *peers: str) -> None:
        self.views = {peer: view(peer) for peer in peers}
        self.looks = 0
        self.feed = NodeFeed(self._look, "e0")

    def _look(self) -> tuple[NodeView, ...]:
        self.looks += 1
        return tuple(self.views.values())

    async def change(self, peer: str, **fields: Any) -> None:
        """A node changes, and the feed has noticed."""
        self.views[peer] = msgspec.structs.replace(self.views[peer], **fields)
        self.feed.touch()
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_S", 0.0)


async def nexts(reader: Reader) -> NodesEvent:
    async with asyncio.timeout(5):
        return await anext(reader)


def seen(event: NodesEvent) -> list[NodeView]:
    return [msgspec.json.decode(node, type=NodeView) for node in event.nodes]


def busy(event: NodesEvent) -> list[tuple[str, int | None]]:
    return [(node.peer, node.slots_busy) for node in seen(event)]


async def test_a_new_reader_gets_everything_and_then_only_what_changes() -> None:
    pool = Pool("a", "b")
    with pool.feed.follow(None) as reader:
        first = await nexts(reader)
        assert first.whole and busy(first) == [("a", 0), ("b", 0)]
        waiting = asyncio.create_task(nexts(reader))
        await pool.change("b", slots_busy=3)
        second = await waiting
        assert not second.whole and busy(second) == [("b", 3)]
        assert second.id != first.id
        del pool.views["a"]
        await pool.change("b")
        assert (await nexts(reader)).removed == ("a",)


async def test_what_was_missed_comes_after_the_last_id_in_order() -> None:
    pool = Pool("a")
    with pool.feed.follow(None) as reader:
        last = (await nexts(reader)).id
    for count in (1, 2, 3):
        await pool.change("a", slots_busy=count)
    with pool.feed.follow(last) as reader:
        got = [await nexts(reader) for _ in range(3)]
        assert [busy(event) for event in got] == [[("a", 1)], [("a", 2)], [("a", 3)]]
        assert not any(event.whole for event in got)
    with pool.feed.follow(got[1].id) as reader:
        assert busy(await nexts(reader)) == [("a", 3)]


@pytest.mark.parametrize(
    "foreign", ["e1-1", "e0-99", "e0-0", "e0--1", "e0-x", "e0-٣", "x", "e0-" + "9" * 60]
)
async def test_an_id_that_is_not_ours_gets_everything(foreign: str) -> None:
    pool = Pool("a")
    with pool.feed.follow(foreign) as reader:
        assert (await nexts(reader)).whole


async def test_a_reader_that_fell_out_of_the_record_gets_everything_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "RECORD_EVENTS", 3)
    pool = Pool("a")
    with pool.feed.follow(None) as slow:
        await nexts(slow)
        for count in (1, 2, 3):
            await pool.change("a", slots_busy=count)
        assert busy(await nexts(slow)) == [("a", 1)]
        for count in (4, 3, 2, 1):
            await pool.change("a", slots_busy=count)
        event = await nexts(slow)
        assert event.whole and busy(event) == [("a", 1)]
        waiting = asyncio.create_task(nexts(slow))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "all of it was in the one event"
        waiting.cancel()


async def test_the_record_is_bounded_in_nodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RECORD_NODES", 10)
    pool = Pool(*(f"n{number}" for number in range(8)))
    with pool.feed.follow(None) as reader:
        await nexts(reader)
        for count in (1, 2, 3):
            for peer in pool.views:
                pool.views[peer] = msgspec.structs.replace(pool.views[peer], slots_busy=count)
            pool.feed.touch()
            await asyncio.sleep(0.001)
        kept = pool.feed._record
        assert sum(len(event.nodes) for event in kept) <= 10
        assert (await nexts(reader)).whole


async def test_what_has_not_changed_is_shared_by_all_events_and_written_once() -> None:
    pool = Pool("a", "b")
    with pool.feed.follow(None) as early:
        first = await nexts(early)
        pool.views = {peer: msgspec.structs.replace(view) for peer, view in pool.views.items()}
        await pool.change("b", slots_busy=1)
        with pool.feed.follow(None) as late:
            second = await nexts(late)
            assert (await nexts(early)).nodes[0] is second.nodes[1]
    assert second.nodes[0] is first.nodes[0] and second.nodes[1] is not first.nodes[1]


@pytest.mark.parametrize("behind", [0, 1])
async def test_an_id_of_the_coordinator_before_its_restart_is_no_id(behind: int) -> None:
    """Its number may well be one of ours by now."""
    before, now = Pool("a"), Pool("a")
    now.feed = NodeFeed(now._look, "e1")
    ids: list[str] = []
    for pool, changes in ((before, 3 - behind), (now, 3)):
        with pool.feed.follow(None) as reader:
            ids.append((await nexts(reader)).id)
            for count in range(1, changes + 1):
                await pool.change("a", slots_busy=count)
                ids[-1] = (await nexts(reader)).id
    with now.feed.follow(ids[0]) as reader:
        event = await nexts(reader)
        assert event.whole and busy(event) == [("a", 3)]


async def test_nobody_is_recorded_for_while_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LINGER_S", 0.0)
    pool = Pool("a")
    with pool.feed.follow(None) as reader:
        last = (await nexts(reader)).id
    looks = pool.looks
    await pool.change("a", slots_busy=1)
    assert pool.looks == looks
    # What went by unseen cannot be told in order: a reader that was here gets everything.
    with pool.feed.follow(last) as reader:
        event = await nexts(reader)
        assert event.whole and busy(event) == [("a", 1)]


async def test_many_changes_at_once_are_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_S", 0.05)
    pool = Pool("a")
    with pool.feed.follow(None) as reader:
        await nexts(reader)
        looks, began_s = pool.looks, asyncio.get_running_loop().time()
        for count in range(200):
            await pool.change("a", slots_busy=count)
        took_s = asyncio.get_running_loop().time() - began_s
        assert pool.looks - looks <= took_s / feeds.LOOK_S + 1


def fill(pool: Pool, *callers: Caller) -> list[Reader]:
    return [pool.feed.follow(None, caller) for caller in callers]


def refusal(pool: Pool, caller: Caller) -> Problem:
    with pytest.raises(Problem) as caught:
        pool.feed.follow(None, caller)
    assert caught.value.code == ProblemCode.OVERLOADED and caught.value.retry_after_s
    assert "/v1/nodes" in caught.value.hint
    return caught.value


STRANGERS_LIMIT = readers_of.READERS_LIMIT - readers_of.READERS_FOR_ACCOUNTS


async def test_readers_are_counted_and_leave_their_place() -> None:
    pool = Pool("a")
    readers = fill(pool, *(Caller(str(site)) for site in range(STRANGERS_LIMIT)))
    refusal(pool, Caller())
    with readers[0]:
        pass
    pool.feed.follow(None, Caller())


async def test_one_address_cannot_take_every_readers_place() -> None:
    pool, here = Pool("a"), Caller("here")
    readers = fill(pool, *[here] * readers_of.READERS_PER_SITE_LIMIT)
    assert "from this address" in refusal(pool, here).message
    assert "from this address" in refusal(pool, Caller("here", "acct_new")).message
    pool.feed.follow(None, Caller("elsewhere"))
    with readers[0]:
        pass
    pool.feed.follow(None, here)


async def test_one_stranger_behind_a_proxy_takes_no_place_of_who_is_known() -> None:
    pool = Pool("a")
    fill(pool, *[Caller()] * readers_of.READERS_HIDDEN_LIMIT)
    assert "through a proxy" in refusal(pool, Caller()).message
    mine = Caller("", "acct_1")
    fill(pool, Caller("here"), *[mine] * readers_of.READERS_PER_ACCOUNT_LIMIT)
    assert "with this account" in refusal(pool, mine).message
    pool.feed.follow(None, Caller("", "acct_2"))


async def test_strangers_from_however_many_addresses_leave_places_for_who_is_signed_in() -> None:
    pool = Pool("a")
    fill(pool, *(Caller(str(site)) for site in range(STRANGERS_LIMIT)))
    refusal(pool, Caller("here"))
    kept = range(readers_of.READERS_FOR_ACCOUNTS)
    fill(pool, *(Caller("", f"acct_{at}") for at in kept))
    refusal(pool, Caller("", "acct_late"))


async def test_the_end_of_the_coordinator_ends_every_reader() -> None:
    pool = Pool("a")
    with pool.feed.follow(None) as reader:
        await nexts(reader)
        waiting = asyncio.create_task(nexts(reader))
        await asyncio.sleep(0)
        pool.feed.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


# --- who is shown ---------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s


def test_who_left_is_shown_for_a_while_and_known_for_longer() -> None:
    clock = Clock()
    roster = Roster(clock)
    roster.left(view("a", slots_busy=3, tokens_per_s=5.0), "silent for 6.0 s")
    (gone,) = roster.shown()
    assert (gone.state, gone.reason, gone.slots_busy) == ("gone", "silent for 6.0 s", 0)
    assert (gone.utilisation, gone.left_at_ms, gone.tokens_per_s) == (None, 1_000_000, 5.0)
    clock.s += SHOWN_S + 1
    assert not roster.shown()
    assert roster.names.by_id("a") == roster.names.by_id("node:a") == {"a"}
    roster.came("a")
    assert not roster.names.by_id("a")


def test_a_refused_stranger_is_shown_by_its_key_alone_and_has_no_name_for_clients() -> None:
    roster = Roster(Clock())
    roster.refused("12D3KooWx", "this node was banned")
    (refused,) = roster.shown()
    assert (refused.state, refused.slots, refused.device) == ("refused", None, None)
    assert refused.reason == "this node was banned"
    assert not roster.names.by_id("12D3KooWx")


def test_a_member_that_is_refused_is_one_entry() -> None:
    roster = Roster(Clock())
    roster.left(view("a"), "banned")
    roster.refused("a", "banned")
    assert [(one.peer, one.state) for one in roster.shown()] == [("a", "refused")]
    assert roster.names.by_name("a") == {"a"}


def test_who_is_pardoned_is_away_and_not_refused() -> None:
    roster = Roster(Clock())
    roster.left(view("a"), "banned")
    for peer in ("a", "stranger"):
        roster.refused(peer, "banned")
        roster.pardoned(peer)
    assert [(one.peer, one.state, one.reason) for one in roster.shown()] == [
        ("a", "gone", PARDONED)
    ]
    roster.pardoned("nobody")


def test_strangers_do_not_fill_the_memory() -> None:
    roster = Roster(Clock())
    for number in range(GONE_KEPT + 10):
        roster.left(view(f"m{number}"), "x")
        roster.refused(f"s{number}", "x")
    known = [number for number in range(GONE_KEPT + 10) if roster.names.by_id(f"m{number}")]
    assert known == list(range(10, GONE_KEPT + 10))
    assert not roster.names.by_id("s9")
    assert len(roster.shown()) == GONE_KEPT + REFUSED_KEPT


# --- of a real coordinator ------------------------------------------------------------------------


async def test_the_pool_tells_joining_work_and_leaving_with_the_reason(pool: Any) -> None:
    node = await pool.node(slots=1)
    with pool.coordinator.feed.follow(None) as reader:
        (first,) = seen(await nexts(reader))
        assert (first.peer, first.state, first.utilisation) == (node.peer, "ready", 0.0)
        assert (first.success_rate, first.tokens_per_s, first.first_id_s) == (None, None, None)
        _account, secret = await pool.user(1000)
        answer = await pool.serve(secret)
        node.beat()
        (second,) = seen(await nexts(reader))
        assert (second.state, second.utilisation) == ("busy", 1.0)
        node.finish(await node.job(), [pool.A] * 4)
        await pool.read(answer)
        node.die()
        while second.state != "gone":
            (second,) = seen(await nexts(reader))
        assert second.reason == "socket closed" and second.first_id_s is not None
    assert [one.state for one in pool.coordinator.known_nodes()] == ["gone"]
    assert not pool.coordinator.nodes()


async def test_a_node_that_is_back_is_shown_once(pool: Any) -> None:
    node = await pool.node()
    node.die()
    await asyncio.wait_for(node.task, 5)
    again = pool.fake(key=node.key)
    await pool.join(again)
    assert [one.state for one in pool.coordinator.known_nodes()] == ["ready"]


async def test_a_node_that_is_refused_is_shown_as_such_with_why(pool: Any) -> None:
    node = pool.fake()
    await pool.join(node, slots=0)
    assert node.carrier.bye is not None
    (shown,) = pool.coordinator.known_nodes()
    assert (shown.peer, shown.state) == (node.peer, "refused")
    assert "slots must be" in shown.reason


async def test_a_banned_node_is_refused_and_not_merely_gone(pool: Any) -> None:
    node = await pool.node()
    pool.coordinator.expel(node.peer, "sold fake answers")
    await asyncio.wait_for(node.task, 5)
    (shown,) = pool.coordinator.known_nodes()
    assert (shown.state, shown.reason) == ("refused", "sold fake answers")


@pytest.mark.parametrize("name", ["12D3KooWother", "node:x", "acct_1", "amber-heron-0000"])
async def test_no_node_is_called_like_another_ones_id(pool: Any, name: str) -> None:
    node = pool.fake()
    await pool.join(node, name=name)
    assert node.carrier.bye is not None and node.carrier.bye.code == ProblemCode.LINK_REFUSED
