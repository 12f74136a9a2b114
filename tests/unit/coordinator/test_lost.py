"""What a failure of ours costs nobody, and what a client's leaving never buys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from parhelion.link import Open
from parhelion.words import Credentials, Problem, ProblemCode

KEY = {"idempotency_key": "k", "body_hash": "h"}


async def engine_fails(pool: Any, node: Any, job: Any) -> None:
    node.fail(job)
    node.sign(job, len(node.made[job.job]))


async def node_dies(pool: Any, node: Any, job: Any) -> None:
    node.die()


async def drain_cuts(pool: Any, node: Any, job: Any) -> None:
    await pool.coordinator.drain(0.01)


@pytest.mark.parametrize("loss", [engine_fails, node_dies, drain_cuts])
async def test_an_unstreamed_answer_that_we_lose_is_not_charged_for_what_never_went_out(
    pool: Any, loss: Callable[[Any, Any, Any], Awaitable[None]]
) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, **KEY)
    reading = asyncio.create_task(answer.whole())
    job = await node.job()
    node.step(job, [pool.A, pool.B])
    await asyncio.sleep(0.01)
    await loss(pool, node, job)
    with pytest.raises(Problem):
        await reading
    assert await pool.free_micro(account) == 1000
    with pytest.raises(Problem) as caught:
        await pool.receipts.get(answer.receipt, account)
    assert caught.value.code == ProblemCode.NOT_FOUND
    await pool.assert_settled()


async def test_an_unstreamed_answer_is_told_whole_however_it_was_chunked(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    reading = asyncio.create_task(answer.whole())
    job = await node.job()
    for _ in range(3):
        node.step(job, [pool.A])
        await asyncio.sleep(0.005)
    node.finish(job, [pool.B])
    assert (await reading).text == "aaab"


async def test_a_run_that_its_client_left_is_replayed_and_never_run_again(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, **KEY)
    node.step(await node.job(), [pool.A, pool.B])
    assert (await anext(answer)).text == "ab"
    await answer.disconnect()
    for _ in range(3):
        again = await pool.coordinator.serve(pool.ask(**KEY), Credentials(bearer=secret))
        text, last = await pool.read(again)
        assert (text, last.finish_reason, last.usage.cost) == ("ab", "cancelled", "7")
        assert again.receipt == answer.receipt
    assert len(node.said(Open)) == 1
    assert await pool.free_micro(account) == 1000 - 7
    # The evidence lives for a quarter of an hour; then only the receipt is left.
    pool.clock.s += 16 * 60
    node.beat()
    with pytest.raises(Problem) as caught:
        await pool.coordinator.serve(pool.ask(**KEY), Credentials(bearer=secret))
    assert caught.value.code == ProblemCode.IDEMPOTENCY_FINISHED
    assert answer.receipt in caught.value.message
    await pool.assert_settled()


async def test_a_nodes_word_on_the_context_is_never_the_clients_fault(pool: Any) -> None:
    nodes = [await pool.node(), await pool.node()]
    for node in nodes:
        node.script = lambda node, job: node.fail(job, "context_length_exceeded")
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.ENGINE_FAILED
    assert sum(len(node.said(Open)) for node in nodes) == 2
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()
