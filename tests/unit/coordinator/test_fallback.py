"""The coordinator's own engine: when no node can serve, labelled, and the treasury's earning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from parhelion.identity import NodeKey, operator_account
from parhelion.ledger import INFRASTRUCTURE, TREASURY
from parhelion.link import Open

COST_MICRO = 3 + 2 * 4


class Backed:
    """A pool with a fallback that has joined, and whose script answers in b's."""

    def __init__(self, pool: Any, own: Any) -> None:
        self.pool, self.own = pool, own


@pytest.fixture
async def backed(closed_pool: Any) -> AsyncIterator[Backed]:
    pool = closed_pool
    key = NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(need=2, fallback=key.peer)
    own = pool.fake(key=key)
    await pool.join(own)
    own.script = pool.answering(pool.B)
    yield Backed(pool, own)


async def test_it_serves_where_no_node_is_online_from_the_start(backed: Backed) -> None:
    pool = backed.pool
    account, secret = await pool.user(1000)
    assert pool.coordinator.health().status == "ready"
    assert pool.coordinator.health().nodes == 0, "it is no node of the pool"
    text, last = await pool.read(await pool.serve(secret))
    assert (text, last.usage.route, last.usage.nodes) == ("bbbb", "fallback", (backed.own.peer,))
    assert await pool.free_micro(account) == 1000 - COST_MICRO
    assert await pool.free_micro(operator_account(backed.own.peer)) == 0
    infrastructure = COST_MICRO * 5 // 100
    assert await pool.free_micro(INFRASTRUCTURE) == infrastructure
    assert await pool.free_micro(TREASURY) == COST_MICRO - infrastructure
    (view,) = pool.coordinator.nodes()
    assert view.fallback
    await pool.assert_settled()


async def test_a_node_always_goes_before_it(backed: Backed) -> None:
    pool = backed.pool
    node = await pool.node(slots=1)
    node.script = pool.answering(pool.A)
    _account, secret = await pool.user(1000)
    for _ in range(3):
        text, last = await pool.read(await pool.serve(secret))
        assert (text, last.usage.route) == ("aaaa", "pool")
    assert backed.own.said(Open) == []
    await pool.assert_settled()


async def test_a_stream_whose_last_node_died_goes_on_there_and_each_is_paid_its_part(
    backed: Backed, quick_signatures: None
) -> None:
    pool = backed.pool
    node = await pool.node()
    account, secret = await pool.user(100_000)
    answer = await pool.serve(secret, max_tokens=40)
    node.step(await node.job(), [pool.A] * 10)
    await anext(answer)
    node.die()
    text, last = await pool.read(answer)
    assert text == "b" * 30
    assert (last.usage.route, last.usage.migrations) == ("fallback", 1)
    await pool.assert_settled()
    cost_micro = 3 + 2 * 40
    assert await pool.free_micro(account) == 100_000 - cost_micro
    for_operators = cost_micro * 85 // 100
    assert await pool.free_micro(operator_account(node.peer)) == for_operators * 10 // 40
    receipt = await pool.receipts.get(answer.receipt, account)
    assert receipt.route == "fallback"


async def test_it_needs_no_invite_and_no_one_else_can_be_it(closed_pool: Any) -> None:
    pool = closed_pool
    key = NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(fallback=key.peer)
    pool.access._mode = "invite"
    stranger = pool.fake()
    await pool.join(stranger)
    assert stranger.carrier.bye is not None
    own = pool.fake(key=key)
    await pool.join(own)
    assert own.carrier.bye is None
