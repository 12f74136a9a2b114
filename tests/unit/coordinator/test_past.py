"""What a node did is held against it, or for it, also after it has left and come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.dispatch import DIGEST, Kind, Seated, sim_node
from parhelion.config import NodesConfig
from parhelion.coordinator import past as past_module
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.room import FULL_S, TRIAL_PAUSE_S
from parhelion.link import Open
from parhelion.words import Problem, ServedModel


async def rejoin(pool: Any, node: Any, **card: Any) -> Any:
    """The same key, over a new connection; the old one is closed by its node."""
    node.die()
    await asyncio.wait_for(node.task, 5)
    again = pool.fake(key=node.key)
    await pool.join(again, **card)
    return again


def view(pool: Any) -> Any:
    (seen,) = pool.coordinator.nodes()
    return seen


def look(pool: Any, *nodes: Any) -> None:
    """Time passes in which these nodes beat and no job moves; the coordinator looks."""
    for _ in range(8):
        pool.clock.s += 1.0
        for node in nodes:
            pool.coordinator.registry.member(node.peer).node.heard_s = pool.clock.s
        pool.coordinator.registry.sweep(pool.clock.s)


async def test_who_let_a_job_stand_still_is_paused_also_after_it_reconnects(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    await node.job()
    look(pool, node)
    with pytest.raises(Problem):
        await pool.read(answer)
    assert view(pool).state == "failed"
    again = await rejoin(pool, node)
    assert view(pool).state == "failed" and "no progress" in view(pool).reason
    with pytest.raises(Problem):
        await pool.serve(secret)
    pool.clock.s += TRIAL_PAUSE_S
    again.beat()
    await asyncio.sleep(0.01)
    first, second = await pool.serve(secret), await pool.begin(secret)
    await asyncio.sleep(0.01)
    assert len(again.said(Open)) == 1, "one on trial, and not all of its slots"
    again.script = pool.answering(pool.A)
    again.finish(await again.job(), [pool.A] * 4)
    for one in (first, await second):
        assert (await pool.read(one))[0] == "aaaa"
    await pool.assert_settled()


async def test_a_node_that_calls_its_engine_new_is_on_trial_and_not_clean(pool: Any) -> None:
    node = await pool.node()
    room = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST]
    room.stall("it stood still", pool.clock.s)
    node.beat("restarting", "it crashed")
    node.beat()
    await asyncio.sleep(0.01)
    assert (view(pool).state, view(pool).reason) == ("ready", "on trial: it stood still")
    _account, secret = await pool.user(1000)
    answer, waiting = await pool.serve(secret), await pool.begin(secret)
    await asyncio.sleep(0.01)
    assert len(node.said(Open)) == 1
    room.stall("it stood still", pool.clock.s)
    assert room.trial_from_s == pool.clock.s + 2 * TRIAL_PAUSE_S, "twice the first one"
    node.script = pool.answering(pool.A)
    node.finish(await node.job(), [pool.A] * 4)
    for one in (answer, await waiting):
        assert (await pool.read(one))[0] == "aaaa"
    node.beat()
    await asyncio.sleep(0.01)
    assert (view(pool).state, view(pool).reason) == ("ready", None)


async def test_who_offers_another_model_for_once_is_not_clean_for_the_first(pool: Any) -> None:
    from tests.unit.coordinator.conftest import Model, model_card

    other = "9" * 64
    pool.catalogue.default = Model(model_card(id="tests/other", digest=other))
    node = await pool.node()
    room = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST]
    room.stall("it stood still", pool.clock.s)
    elsewhere = await rejoin(pool, node, models=(ServedModel(digest=other, context=1000),))
    assert view(pool).state == "ready"
    await rejoin(pool, elsewhere)
    assert (view(pool).state, view(pool).reason) == ("failed", "it stood still")


async def test_a_pause_after_a_hand_back_outlasts_the_connection(pool: Any) -> None:
    node = await pool.node()
    node.script = lambda node, job: node.fail(job, "overloaded")
    _account, secret = await pool.user(1000)
    left = await pool.serve(secret)
    await asyncio.sleep(0.02)
    await left.disconnect()
    again = await rejoin(pool, node)
    again.script = pool.answering(pool.A)
    waiting = await pool.begin(secret)
    await asyncio.sleep(0.02)
    assert not again.said(Open), "it said a moment ago that it has no place"
    pool.clock.s += FULL_S
    again.beat()
    await asyncio.sleep(0.01)
    pool.coordinator.registry.sweep(pool.clock.s)
    assert (await pool.read(await waiting))[0] == "aaaa"


async def test_what_a_node_served_and_failed_is_counted_over_its_reconnections(pool: Any) -> None:
    node = await pool.node()
    node.script = pool.answering(pool.A)
    _account, secret = await pool.user(1000)
    for _ in range(3):
        await pool.read(await pool.serve(secret))
    node.script = None
    lost = await pool.serve(secret)
    await node.job(3)
    node.die()
    await asyncio.wait_for(node.task, 5)
    (gone,) = pool.coordinator.known_nodes()
    assert (gone.state, gone.served, gone.failed, gone.samples) == ("gone", 3, 1, 4)
    with pytest.raises(Problem):
        await pool.read(lost)
    again = pool.fake(key=node.key)
    await pool.join(again)
    again.script = pool.answering(pool.A)
    await pool.read(await pool.serve(secret))
    seen = view(pool)
    assert (seen.served, seen.failed, seen.samples) == (4, 1, 5)
    assert seen.success_rate == 4 / 5


# --- how many are remembered ----------------------------------------------------------------------


def come_and_go(registry: Registry, name: str, served: int) -> Node:
    member = Seated(sim_node(name, Kind(20.0)))
    registry.enter(member)
    member.node.history.served += served
    registry.leave(member)
    return member.node


def test_nodes_that_did_nothing_push_nobody_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_module, "PAST_LIMIT", 4)
    registry = Registry(NodesConfig(), 1, lambda: None)
    bad = come_and_go(registry, "bad", served=1)
    bad.rooms[DIGEST].stall("it stood still", 0.0)
    for number in range(20):
        come_and_go(registry, f"fresh{number}", served=0)
    back = Seated(sim_node("bad", Kind(20.0)))
    registry.enter(back)
    assert back.node.rooms[DIGEST].stuck == "it stood still" and back.node.served == 1


def test_the_memory_of_nodes_that_left_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_module, "PAST_LIMIT", 4)
    registry = Registry(NodesConfig(), 1, lambda: None)
    for number in range(20):
        come_and_go(registry, f"n{number}", served=number + 1)
    found = []
    for number in range(20):
        back = Seated(sim_node(f"n{number}", Kind(20.0)))
        registry.enter(back)
        found.append(back.node.served)
    assert found == [0] * 16 + [17, 18, 19, 20]
