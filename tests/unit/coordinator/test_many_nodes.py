"""What thousands of nodes may cost: heartbeats and sweeps look at one node, not at all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.dispatch import Kind, Seated, sim_node
from parhelion.config import NodesConfig
from parhelion.coordinator import news as news_module
from parhelion.coordinator import prober, trials
from parhelion.coordinator.news import News
from parhelion.coordinator.registry import Node, Registry
from parhelion.identity import NodeKey
from parhelion.link import Heartbeat
from tests.unit.coordinator.test_prober import HONEST, settle


class Counting(Registry):
    """A registry that counts how often somebody looks at all nodes."""

    looks = 0

    def nodes(self) -> Any:
        self.looks += 1
        return super().nodes()


def registry(need: int, count: int) -> tuple[Counting, list[Node]]:
    members = Counting(NodesConfig(), need, lambda: None)
    nodes = [sim_node(f"n{number}", Kind(20.0)) for number in range(count)]
    for node in nodes:
        members.enter(Seated(node))
    return members, nodes


def test_a_heartbeat_counts_no_nodes_also_while_the_pool_waits_for_more() -> None:
    members, nodes = registry(need=9, count=8)
    members.looks = 0
    for node in nodes * 10:
        members.refresh(node, 1.0)
    assert members.looks == 0
    assert not members.complete()
    members.enter(Seated(sim_node("n8", Kind(20.0))))
    assert members.complete(), "the ninth is counted when it comes"


def test_a_pool_that_waits_counts_a_node_when_it_becomes_ready_and_not_before() -> None:
    members, _nodes = registry(need=2, count=1)
    late = sim_node("late", Kind(20.0))
    (room,) = late.rooms.values()
    room.engine_fault = "loading"
    members.enter(Seated(late))
    assert not members.complete()
    room.engine_fault = None
    members.refresh(late, 1.0)
    assert members.complete()


async def test_those_who_watch_are_told_of_changes_and_not_of_heartbeats(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "TELL_S", 0.02)
    told: list[int] = []
    pool.coordinator.watch_nodes(lambda: told.append(len(pool.coordinator.nodes())))
    node = await pool.node()
    await until(lambda: told == [1])
    for _ in range(5):
        node.carrier.hear(Heartbeat(sent_at_ms=0, slots_busy=0, engine="ready"))
        await asyncio.sleep(0.005)
    assert told == [1]
    node.carrier.hear(Heartbeat(sent_at_ms=0, slots_busy=0, engine="crashed"))
    await until(lambda: told == [1, 1])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_storm_of_changes_is_told_now_and_then_and_its_last_one_always() -> None:
    heard: list[int] = []
    version = 0
    news = News()
    news.watch(lambda: heard.append(version))
    for version in range(200):
        news.touch(version)
        await asyncio.sleep(0)
    assert len(heard) <= 1
    async with asyncio.timeout(5):
        while heard[-1:] != [199]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert len(heard) <= 2
    news.touch(200)
    news.close()
    await asyncio.sleep(0.01)
    assert len(heard) <= 2, "nothing is told any more"


@pytest.fixture
async def proven(closed_pool: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A pool with an engine of its own, in which who passed a probe is due again at once."""
    monkeypatch.setattr(prober, "LOOK_S", 0.002)
    monkeypatch.setattr(prober, "AGAIN_S", 0.0)
    monkeypatch.setattr(trials, "PROBES_AT_ONCE", 1)
    key = NodeKey.load_or_create(closed_pool.folder / "own.key")
    await closed_pool.open(fallback=key.peer, probe=True)
    own = closed_pool.fake(key=key)
    own.script = HONEST
    await closed_pool.join(own)
    yield closed_pool


async def test_nodes_that_are_due_again_keep_no_new_one_from_its_first_probe(proven: Any) -> None:
    for _ in range(3):
        node = proven.fake()
        node.script = HONEST
        await proven.join(node)
        await settle(proven, node, "ready")
