"""Nodes that nobody timed count as equally quick; once they are timed, layers are where they are
quick, and nowhere else for noise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from parhelion.coordinator.layer_times import BELIEVED_TIMINGS, ROUNDS_LEAST
from parhelion.coordinator.planner import Measured, Member, ModelShape, Plan, Pool, plan, repair
from parhelion.coordinator.second_look import (
    QUICK_LOAD_S,
    Timed,
    is_sure,
    when_idle,
    would_move,
)
from parhelion.link import LoadStage, TimeStage
from tests.unit.coordinator.rings import Rig, StageNode
from tests.unit.coordinator.test_noisy_timings import LAYER_MS, LAYERS, SEEDS, Bench, lengths

QUICK_S, SLOW_S = 0.01, 0.04
ORDERS = 1 + 2 * ROUNDS_LEAST
"""To time a stage once on a quiet machine: one to warm up, and two in each round."""


SETTLE_S = 0.02


@pytest.fixture(autouse=True)
def plans_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parhelion.coordinator.pipelines.SETTLE_S", SETTLE_S)


def layers(rig: Rig) -> dict[str, int]:
    """Of the one ring at work, by peer; nothing while there is none."""
    rings = [one.session for one in rig.pipelines.deployments.values()]
    seats = [seat for ring in rings if ring is not None for seat in ring.seats]
    return {seat.peer: seat.end - seat.start for seat in seats}


def timings(one: StageNode) -> float:
    return len(one.node.said(TimeStage)) / ORDERS


async def settled(rig: Rig) -> None:
    """As long as a plan takes to be made and followed."""
    await asyncio.sleep(5 * SETTLE_S)
    await rig.serving()


async def test_a_pool_with_one_slow_node_moves_layers_once_it_is_timed(rig: Rig) -> None:
    quick = await rig.join(layers=5, layer_s=QUICK_S)
    slow = await rig.join(layers=5, layer_s=SLOW_S)
    await rig.until(lambda: layers(rig))
    assert layers(rig) == {quick.peer: 5, slow.peer: 1}
    (deployment,) = rig.pipelines.deployments.values()
    assert deployment._runs == 1, "nobody was served by halves first"
    assert timings(quick) == timings(slow) == BELIEVED_TIMINGS
    await settled(rig)
    assert rig.pipelines.changes == 2, "a plan, and another one by measured speed"


async def test_equal_nodes_do_not_move_for_noise(rig: Rig) -> None:
    # All that one is asked in the first timing finds its machine busy.
    busy = await rig.join(layers=5, layer_s=QUICK_S, off_times=ORDERS)
    equal = await rig.join(layers=5, layer_s=QUICK_S)
    await rig.serving()
    assert layers(rig) == {busy.peer: 3, equal.peer: 3}
    assert timings(busy) == timings(equal) == 2, "it was looked at again"
    await settled(rig)
    assert rig.pipelines.changes == 1


async def test_nodes_that_are_alike_are_timed_once(rig: Rig) -> None:
    nodes = [await rig.join(layers=5, layer_s=QUICK_S * off) for off in (1.0, 1.1)]
    await rig.serving()
    await settled(rig)
    assert [timings(one) for one in nodes] == [1, 1]
    assert rig.pipelines.changes == 1


async def test_layers_that_take_long_to_load_move_while_streams_end_where_they_are(
    rig: Rig,
) -> None:
    for layer_s in (QUICK_S, SLOW_S):
        await rig.join(layers=5, layer_s=layer_s, load_s=QUICK_LOAD_S + 1, keeps_fetching=True)
    _account, secret = await rig.pool.user(1000)
    stages = await rig.serving()
    answer = await rig.pool.serve(secret)
    await rig.until(lambda: stages[0].went)
    assert set(layers(rig).values()) == {3}, "it serves while what is to move is fetched"
    name = stages[0].went[-1].job
    fetches = await fetching(rig, stages)
    for one, order in zip(stages, fetches, strict=True):
        one.keeps_fetching = False
        one.obey(order)
    stages[-1].made(name, 0, (rig.pool.A,) * 4, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("aaaa", 0)
    await rig.until(lambda: sorted(layers(rig).values()) == [1, 5])


async def fetching(rig: Rig, stages: tuple[StageNode, ...]) -> list[LoadStage]:
    """What each was told to fetch."""

    def asked() -> list[list[LoadStage]]:
        return [[m for m in one.node.said(LoadStage) if m.only_fetch] for one in stages]

    await rig.until(lambda: all(asked()))
    return [orders[-1] for orders in asked()]


async def test_a_slow_standby_that_takes_a_place_is_looked_at_when_its_streams_are_done(
    rig: Rig,
) -> None:
    for _ in range(2):
        await rig.join(layers=5, layer_s=QUICK_S)
    stages = await rig.serving()
    slow = await rig.join(layers=5, layer_s=SLOW_S)
    await rig.until(lambda: slow.peer in rig.pipelines.plan.standby)
    _account, secret = await rig.pool.user(1000)
    answer = await rig.pool.serve(secret)
    await rig.until(lambda: stages[0].went)
    name = stages[0].went[-1].job
    stages[1].node.die()
    again = await rig.serving(epoch=2)
    assert layers(rig)[slow.peer] == 3
    await rig.until(lambda: any(go.attempt == 2 for go in again[0].went))
    seen = timings(slow)
    await settled(rig)
    assert timings(slow) == seen == 1, "while it serves nothing is timed"
    again[-1].made(name, 0, (rig.pool.A,) * 4, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("aaaa", 1)
    await rig.until(lambda: layers(rig) == {stages[0].peer: 5, slow.peer: 1})
    assert timings(slow) == BELIEVED_TIMINGS


async def test_who_comes_while_an_idle_pipeline_is_timed_does_not_wait_for_it() -> None:
    node: Any = SimpleNamespace(slots_busy=0, on_slots=None)
    began = 0

    async def time() -> Timed:
        nonlocal began
        began += 1
        await asyncio.sleep(0 if began > 2 else 60)
        return Timed({})

    def now_busy(slots: int) -> None:
        node.slots_busy = slots
        node.on_slots(node)

    timing = asyncio.create_task(when_idle(node, time))
    for number in (1, 2):
        await asyncio.sleep(0.01)
        assert began == number
        now_busy(1)
        await asyncio.sleep(0.01)
        assert began == number, "it is given up, and not begun while somebody is there"
        now_busy(0)
    assert await timing == Timed({}) and node.on_slots is None


async def test_a_pipeline_whose_users_come_back_each_time_is_left_alone() -> None:
    node: Any = SimpleNamespace(slots_busy=0, on_slots=None)

    async def time() -> Timed:
        node.slots_busy = 1
        node.on_slots(node)
        asyncio.get_running_loop().call_soon(left)
        await asyncio.sleep(60)
        raise AssertionError("it was given up")

    def left() -> None:
        node.slots_busy = 0
        if node.on_slots is not None:
            node.on_slots(node)

    async with asyncio.timeout(5):
        assert await when_idle(node, lambda: after(time)) is None


async def after(work: Callable[[], Awaitable[Timed]]) -> Timed:
    await asyncio.sleep(0.001)
    return await work()


# --- noise ------------------------------------------------------------------------------------


async def first_deal(bench: Bench) -> tuple[Plan, Plan]:
    """A pool's first plan, and that by which it serves."""
    first = plan(bench.pool())

    async def time() -> Timed:
        await bench.time()
        last = {peer: bench.workshop.times[peer, "d"]._timings[-1] for peer in "ab"}
        return Timed(last)

    async def moves(id: str, timed: Timed) -> bool:
        pools = (bench.pool(), bench.pool_of(timed.layer_ms))
        return would_move(first, pools, id, "ab")

    made = first
    if await is_sure("pipeline-1", await time(), moves, time):
        for peer in "ab":
            made = repair(made, Measured(peer=peer), bench.pool())
    return first, made


async def test_equal_nodes_of_a_busy_machine_serve_as_they_were_dealt_first() -> None:
    for seed in SEEDS:
        first, made = await first_deal(Bench(seed))
        assert made == first, seed


async def test_a_node_four_times_slower_is_found_so_on_a_busy_machine_too() -> None:
    found = 0
    for seed in SEEDS[:20]:
        bench = Bench(seed)
        bench.nodes[1].layer_ms = 4 * LAYER_MS
        _first, made = await first_deal(bench)
        found += max(lengths(made)) > LAYERS * 2 // 3
    assert found >= 15, "the others are seen five minutes later"


def test_a_pipeline_moves_only_where_one_timing_and_all_of_them_say_so() -> None:
    shape = ModelShape(digest="d", layer_bytes=(100,) * LAYERS)

    def pool(**layer_ms: float) -> Pool:
        members = (
            Member(peer=peer, memory_bytes=2000, layer_ms=layer_ms.get(peer)) for peer in "ab"
        )
        return Pool(models=(shape,), members=tuple(members), rtt=lambda _one, _other: 0.3)

    made = plan(pool())
    (pipeline,) = made.pipelines
    assert would_move(made, [pool(a=1.0, b=4.0)], pipeline.id, "ab")
    assert not would_move(made, [pool(a=1.0, b=1.1)], pipeline.id, "ab")
    assert not would_move(made, [pool(a=1.0, b=4.0), pool(a=1.0, b=1.0)], pipeline.id, "ab")
    assert not would_move(made, [pool(a=1.0, b=4.0)], "pipeline-9", "ab")
