"""Slots and memory are a model's own at its node, and a busy node hands back without an error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.coordinator.breaker import FAULTS_LIMIT
from parhelion.coordinator.registry import Node, Room, check_card
from parhelion.coordinator.room import FULL_LIMIT_S, FULL_S, HAND_BACKS_FREE
from parhelion.coordinator.route import Need, capable, largest_tokens, pick
from parhelion.link import Open
from parhelion.words import NodeCard, Problem, ProblemCode, ServedModel

SMALL, LARGE = "5" * 64, "1" * 64


def card(*models: ServedModel, slots: int = 5, kv_tokens: int = 1200) -> NodeCard:
    return NodeCard(
        peer="n", name="n", version="", device="", backend="", slots=slots, kv_tokens=kv_tokens,
        models=models,
    )  # fmt: skip


TWO = card(
    ServedModel(digest=SMALL, context=500, slots=1, kv_tokens=200),
    ServedModel(digest=LARGE, context=500, slots=4, kv_tokens=1000),
)


def node_of(told: NodeCard) -> Node:
    rooms = check_card(told, "n", lambda _digest: True)
    return Node(card=told, rooms=rooms, connected_at_ms=0, heard_s=0.0, idle_since_s=0.0)


def test_a_model_has_its_own_slots() -> None:
    node = node_of(TWO)
    small, large = Need(SMALL, 10, 10), Need(LARGE, 10, 10)
    node.reserve(small, 0.0)
    assert pick([node], small) is None
    assert pick([node], large) is node
    node.release(small, 1.0)
    assert pick([node], small) is node
    assert (node.slots_busy, node.rooms[SMALL].kv_busy) == (0, 0)


def test_a_model_has_its_own_memory() -> None:
    node = node_of(TWO)
    assert not capable([node], Need(SMALL, 150, 51))
    assert capable([node], Need(LARGE, 150, 51))
    assert (largest_tokens([node], SMALL), largest_tokens([node], LARGE)) == (200, 500)
    node.reserve(Need(LARGE, 400, 100), 0.0)
    node.reserve(Need(LARGE, 400, 99), 0.0)
    assert pick([node], Need(LARGE, 1, 1)) is None
    assert pick([node], Need(SMALL, 100, 100)) is node


def test_a_card_that_names_no_share_offers_all_it_has_to_each_model_together() -> None:
    node = node_of(card(ServedModel(digest=SMALL, context=9), ServedModel(digest=LARGE, context=9)))
    assert node.rooms[SMALL] == Room(context=9, slots=5, kv_tokens=1200)
    for _ in range(5):
        node.reserve(Need(SMALL, 1, 1), 0.0)
    assert pick([node], Need(LARGE, 1, 1)) is None


@pytest.mark.parametrize("share", [{"slots": 6}, {"slots": -1}, {"kv_tokens": 1201}])
def test_a_model_with_more_than_its_node_has_is_refused(share: dict[str, int]) -> None:
    with pytest.raises(Problem) as caught:
        node_of(card(ServedModel(digest=SMALL, context=9, **share)))
    assert caught.value.code == ProblemCode.LINK_REFUSED


async def test_a_job_that_is_handed_back_goes_to_another_node_without_an_error(pool: Any) -> None:
    full = await pool.node()
    full.script = lambda node, job: node.fail(job, "overloaded")
    account, secret = await pool.user(1000)
    waiting = await pool.begin(secret)
    other = await pool.node()
    answer = await waiting
    job = await other.job()
    assert job.attempt == 2
    other.finish(job, [pool.A] * 4)
    text, last = await pool.read(answer)
    assert (text, last.usage.nodes) == ("aaaa", (other.peer,))
    assert len(full.said(Open)) == 1
    assert [view.failed for view in pool.coordinator.nodes()] == [0, 0]
    assert await pool.free_micro(account) == 1000 - 11
    await pool.assert_settled()


async def test_a_job_that_is_handed_back_waits_for_the_same_node(pool: Any) -> None:
    node = await pool.node()
    node.script = lambda node, job: node.fail(job, "overloaded")
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    await asyncio.sleep(0.05)
    assert len(node.said(Open)) == 1, "it is not asked again at once"
    node.script = pool.answering(pool.A)
    pool.clock.s += 1.5
    node.beat()
    pool.coordinator.registry.sweep(pool.clock.s)
    assert (await pool.read(answer))[0] == "aaaa"
    assert len(node.said(Open)) == 2
    await pool.assert_settled()


async def test_an_answer_that_ends_makes_room_for_what_was_handed_back(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    running = await pool.serve(secret)
    first = await node.job()
    node.script = lambda node, job: node.fail(job, "overloaded")
    answer = await pool.serve(secret)
    await asyncio.sleep(0.05)
    node.script = pool.answering(pool.A)
    node.finish(first, [pool.B] * 4)
    assert (await pool.read(running))[0] == "bbbb"
    assert (await pool.read(answer))[0] == "aaaa"
    await pool.assert_settled()


async def test_a_node_that_hands_everything_back_ends_in_a_503_and_costs_nothing(
    pool: Any,
) -> None:
    node = await pool.node()
    node.script = lambda node, job: node.fail(job, "overloaded")
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, deadline_s=60.0)
    reading = asyncio.create_task(pool.read(answer))
    while not reading.done():
        pool.clock.s += 1.5
        node.beat()
        await asyncio.sleep(0.001)
        pool.coordinator.registry.sweep(pool.clock.s)
    with pytest.raises(Problem) as caught:
        await reading
    assert caught.value.code == ProblemCode.NO_NODE and caught.value.retry_after_s
    assert len(node.said(Open)) == HAND_BACKS_FREE + FAULTS_LIMIT, "then its breaker is open"
    (view,) = pool.coordinator.nodes()
    assert (view.failed, view.success_rate) == (FAULTS_LIMIT, 0.0)
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_a_slot_that_was_given_up_without_a_signature_costs_the_next_one_no_error(
    pool: Any, quick_signatures: None
) -> None:
    node = await pool.node(slots=1)
    node.signs = False
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    await node.job()
    await first.disconnect()
    # We think that the slot is free, the node knows better.
    node.script = lambda node, job: node.fail(job, "overloaded")
    second = await pool.serve(secret)
    await asyncio.sleep(0.1)
    assert len(node.said(Open)) == 2
    node.script = pool.answering(pool.A)
    pool.clock.s += 1.1
    pool.coordinator.registry.sweep(pool.clock.s)
    assert (await pool.read(second))[0] == "aaaa"
    await pool.assert_settled()


def test_each_hand_back_in_a_row_doubles_the_pause_and_a_whole_answer_ends_it() -> None:
    room = Room(context=9, slots=2, kv_tokens=9)
    pauses, blamed = [], []
    for _ in range(8):
        blamed.append(room.hand_back(10.0))
        assert room.full_until_s is not None
        pauses.append(room.full_until_s - 10.0)
        assert not room.hand_back(10.5), "what was open at the same time says nothing more"
        room.full_until_s = None
    assert pauses == [FULL_S, 2.0, 4.0, 8.0, 16.0, 32.0, FULL_LIMIT_S, FULL_LIMIT_S]
    assert blamed == [False] * HAND_BACKS_FREE + [True] * (8 - HAND_BACKS_FREE)
    room.recover()
    assert not room.hand_back(10.0) and room.full_until_s == 10.0 + FULL_S


async def test_a_node_that_hands_all_back_costs_nobody_an_answer_and_is_blamed(pool: Any) -> None:
    idle = await pool.node()
    idle.script = lambda node, job: node.fail(job, "overloaded")
    busy = await pool.node(slots=2)
    secrets = [(await pool.user(1000))[1] for _ in range(20)]
    asked = [asyncio.create_task(pool.serve(one, deadline_s=60.0)) for one in secrets]
    done = 0
    while done < 20:
        # Its slots are never empty while somebody waits.
        async with asyncio.timeout(5):
            while len(opened := busy.said(Open)) <= done:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for message in opened[done:]:
            busy.finish(message.job, [pool.A] * 4)
        done = len(opened)
        pool.clock.s += 2.0
        busy.beat()
        idle.beat()
        await asyncio.sleep(0.02)
        pool.coordinator.registry.sweep(pool.clock.s)
        await asyncio.sleep(0.02)
    for task in asked:
        assert (await pool.read(await task))[0] == "aaaa"
    assert len(idle.said(Open)) <= 2 * 8 + 4, "from the third pause on one is tried at a time"
    seen = {view.peer: view for view in pool.coordinator.nodes()}
    assert seen[idle.peer].failed and seen[idle.peer].success_rate == 0.0
    assert (seen[busy.peer].failed, seen[busy.peer].success_rate) == (0, 1.0)
    await pool.assert_settled()


async def test_who_is_handed_back_is_served_before_who_came_later(pool: Any) -> None:
    busy = await pool.node(slots=1)
    secrets = [(await pool.user(1000))[1] for _ in range(4)]
    first = await pool.serve(secrets[0])
    running = await busy.job()
    idle = await pool.node(slots=1)
    handed: list[Any] = []
    idle.script = lambda node, job: handed.append(job)
    second = await pool.serve(secrets[1])
    later = [await pool.begin(secret) for secret in secrets[2:]]
    idle.fail(handed[0], "overloaded")
    await asyncio.sleep(0.01)
    busy.script = pool.answering(pool.A)
    busy.finish(running, [pool.B] * 4)
    for answer in (first, second, *await asyncio.gather(*later)):
        await pool.read(answer)
    jobs = [message.job.job for message in busy.said(Open)]
    assert jobs[:2] == [running.job, handed[0].job]
    await pool.assert_settled()
