"""Who waits: accounts take turns, lines are bounded, deadlines end, leavers leave nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion import proof
from parhelion.config import LimitsConfig
from parhelion.link import Open, Signed
from parhelion.words import Problem, ProblemCode


async def test_accounts_take_turns_and_one_account_is_served_in_order(pool: Any) -> None:
    node = await pool.node(slots=1)
    busy = await pool.serve((await pool.user(1000))[1])
    (greedy, first), (modest, second) = await pool.user(1000), await pool.user(1000)
    waiting = [await pool.begin(secret) for secret in (first, first, first, second)]
    assert pool.coordinator.places.waiting == 4
    order = []
    for number in range(5):
        job = await node.job(number)
        hold = (await pool.ledger.explain(job.job.replace("job", "req"))).hold
        order.append(hold.account)
        node.finish(job, [pool.A] * 4)
    assert order[1:] == [greedy, modest, greedy, greedy]
    answers = [busy, *await asyncio.gather(*waiting)]
    for answer in answers:
        await pool.read(answer)
    requests = [message.job.job for message in node.said(Open)][1:]
    mine = [requests[0], requests[2], requests[3]]
    assert mine == sorted(mine)
    await pool.assert_settled()


async def test_a_slot_that_comes_free_goes_to_who_waits(pool: Any) -> None:
    node = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    waiting = await pool.begin(secret)
    assert not waiting.done()
    await first.disconnect()
    second = await waiting
    node.finish(await node.job(1), [pool.A] * 4)
    await pool.read(second)
    await pool.assert_settled()


async def test_kv_tokens_are_reserved_like_slots(pool: Any) -> None:
    await pool.node(slots=8, kv_tokens=10)
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret, max_tokens=4)
    waiting = await pool.begin(secret, max_tokens=4)
    assert not waiting.done()
    await first.disconnect()
    await (await waiting).disconnect()
    await pool.assert_settled()


async def test_a_request_beyond_every_node_is_refused_at_once(pool: Any) -> None:
    await pool.node(kv_tokens=6)
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret, max_tokens=4)
    assert caught.value.code == ProblemCode.NO_NODE
    assert "7 tokens" in caught.value.message


async def test_a_wait_ends_at_the_deadline_and_costs_nothing(pool: Any) -> None:
    await pool.node(slots=1)
    account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret, deadline_s=0.05)
    assert caught.value.code == ProblemCode.DEADLINE_EXCEEDED
    assert caught.value.retry_after_s
    await first.disconnect()
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_a_client_that_leaves_the_queue_leaves_no_hold(pool: Any) -> None:
    await pool.node(slots=1)
    account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    waiting = await pool.begin(secret)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert pool.coordinator.places.waiting == 0
    await first.disconnect()
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_the_queue_is_bounded_in_all_and_by_account(closed_pool: Any) -> None:
    pool = closed_pool
    await pool.open(limits=LimitsConfig(queue_length=3, queue_per_account=2))
    await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    _account, other = await pool.user(1000)
    first = await pool.serve(secret)
    waiting = [await pool.begin(secret), await pool.begin(secret)]
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.QUEUE_SHARE_EXCEEDED
    waiting.append(await pool.begin(other))
    with pytest.raises(Problem) as caught:
        await pool.serve(other)
    assert caught.value.code == ProblemCode.OVERLOADED
    for task in waiting:
        task.cancel()
    await first.disconnect()
    await pool.assert_settled()


async def test_when_the_last_node_leaves_the_queue_is_told(pool: Any) -> None:
    node = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    waiting = await pool.begin(secret)
    node.die()
    with pytest.raises(Problem) as caught:
        await waiting
    assert caught.value.code == ProblemCode.NO_NODE
    with pytest.raises(Problem):
        await pool.read(first)
    await pool.assert_settled()


async def test_a_new_node_serves_who_waits(pool: Any) -> None:
    await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    waiting = await pool.begin(secret)
    second = await pool.node(slots=1)
    answer = await waiting
    second.finish(await second.job(), [pool.A] * 4)
    await pool.read(answer)
    await first.disconnect()
    await pool.assert_settled()


async def test_nobody_overtakes_a_larger_request_that_waits(pool: Any) -> None:
    await pool.node(slots=8, kv_tokens=14)
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret, max_tokens=4)
    large = await pool.begin(secret, max_tokens=7)
    small = await pool.begin(secret, max_tokens=4)
    pool.coordinator.places.serve_queue()
    await asyncio.sleep(0.01)
    assert not large.done() and not small.done()
    await first.disconnect()
    await (await large).disconnect()
    await (await small).disconnect()
    await pool.assert_settled()


async def test_a_client_that_leaves_as_its_turn_comes_gives_the_slot_back(pool: Any) -> None:
    node = await pool.node(slots=1)
    node.signs = False
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    job = await node.job()
    waiting = await pool.begin(secret)
    (relay,) = [r for r in pool.coordinator.service.live.values() if r and not r.attempts]
    leaving = asyncio.create_task(first.disconnect())
    await asyncio.sleep(0.01)
    signed = proof.sign_segment(node.key, node.segment(job, 0))
    pool.coordinator.registry.member(node.peer).hear(Signed(segment=signed))
    # In the same turn of the loop: the slot is reserved, and nobody wants it any more.
    relay.disconnect()
    with pytest.raises(Problem):
        await waiting
    await leaving
    await pool.assert_settled()


async def test_a_request_that_waits_for_a_large_node_blocks_no_small_one(pool: Any) -> None:
    large = await pool.node(slots=1, kv_tokens=50)
    small = await pool.node(slots=1, kv_tokens=10)
    _account, secret = await pool.user(10_000)
    _account, other = await pool.user(10_000)
    running = await pool.serve(secret, max_tokens=20)
    await large.job()
    waiting = await pool.begin(secret, max_tokens=20)
    assert not waiting.done()
    first = await asyncio.wait_for(pool.begin(other, max_tokens=4), 5)
    await small.job()
    # Behind the large one in the same account's line, and still not blocked by it.
    second, third = await pool.begin(secret, max_tokens=4), await pool.begin(other, max_tokens=4)
    small.finish(await small.job(), [pool.A] * 4)
    await pool.read(await first)
    for number in (1, 2):
        small.finish(await small.job(number), [pool.A] * 4)
    for answer in (second, third):
        await pool.read(await asyncio.wait_for(answer, 1))
    assert not waiting.done() and len(large.said(Open)) == 1
    await running.disconnect()
    await (await waiting).disconnect()
    await pool.assert_settled()


async def test_who_waits_for_a_large_node_is_not_overtaken_there(pool: Any) -> None:
    large = await pool.node(slots=1, kv_tokens=50)
    small = await pool.node(slots=1, kv_tokens=10)
    _account, secret = await pool.user(10_000)
    running = [await pool.serve(secret, max_tokens=20), await pool.serve(secret, max_tokens=4)]
    waiting = await pool.begin(secret, max_tokens=20)
    later = await pool.begin(secret, max_tokens=4)
    await running[0].disconnect()
    await (await asyncio.wait_for(waiting, 1)).disconnect()
    assert [message.job.max_tokens for message in large.said(Open)][:2] == [20, 20]
    await running[1].disconnect()
    await (await later).disconnect()
    assert small.said(Open)[0].job.max_tokens == 4
    await pool.assert_settled()
