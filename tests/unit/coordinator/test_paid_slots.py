"""Whoever pays with the request has a slot before anything is settled, and leaves none behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from parhelion.link import Open
from parhelion.payments import Buyer
from parhelion.words import Ask, Credentials, Problem, ProblemCode, Quote


class Paying:
    """A gate whose payments settle when a test says so; all else is the pool's own."""

    def __init__(self, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool = pool
        self.settles: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
        self.reserved = asyncio.Event()
        self._identify, self._take = pool.gate.identify, pool.gate.take
        monkeypatch.setattr(pool.gate, "identify", self.identify)
        monkeypatch.setattr(pool.gate, "take", self.take)

    async def identify(self, ask: Ask, credentials: Credentials, *more: Any) -> Buyer:
        buyer = await self._identify(ask, credentials, *more)
        return replace(buyer, buys=True, payment=b"signed") if credentials.payment else buyer

    async def take(
        self, ask: Ask, buyer: Buyer, quote: Quote, *, reserve: Any = None, **more: Any
    ) -> Any:
        if reserve is None:
            return await self._take(ask, buyer, quote, **more)
        free = await reserve()
        self.reserved.set()
        refused = await self.settles
        if refused is not None:
            free()
            raise refused
        return await self._take(ask, replace(buyer, buys=False), quote, **more)

    async def serve(self, secret: str, **fields: Any) -> Any:
        credentials = Credentials(bearer=secret, payment=b"signed")
        return await self.pool.coordinator.serve(self.pool.ask(**fields), credentials)


@pytest.fixture
async def paying(pool: Any, monkeypatch: pytest.MonkeyPatch) -> Paying:
    return Paying(pool, monkeypatch)


async def test_the_slot_is_reserved_while_the_payment_settles_and_used_afterwards(
    pool: Any, paying: Paying
) -> None:
    node = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    buying = asyncio.create_task(paying.serve(secret, max_tokens=2))
    await paying.reserved.wait()
    other = await pool.begin(secret, max_tokens=2)
    await asyncio.sleep(0.05)
    assert not node.said(Open) and not other.done(), "the one slot is the payer's"
    paying.settles.set_result(None)
    answer = await buying
    node.finish(await node.job(), [pool.A, pool.B])
    text, _ = await pool.read(answer)
    assert text == "ab"
    node.finish(await node.job(1), [pool.B, pool.B])
    assert (await pool.read(await other))[0] == "bb"
    await pool.assert_settled()


async def test_a_payment_that_fails_gives_its_slot_back(pool: Any, paying: Paying) -> None:
    node = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    buying = asyncio.create_task(paying.serve(secret, max_tokens=2))
    await paying.reserved.wait()
    paying.settles.set_result(Problem(ProblemCode.PAYMENT_REQUIRED, "the wallet is empty"))
    with pytest.raises(Problem, match="the wallet is empty"):
        await buying
    answer = await pool.serve(secret, max_tokens=1)
    node.finish(await node.job(), [pool.A])
    assert (await pool.read(answer))[0] == "a"


async def test_a_client_that_leaves_while_it_waits_for_a_slot_pays_nothing(
    pool: Any, paying: Paying
) -> None:
    node = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret, max_tokens=2)
    buying = asyncio.create_task(paying.serve(secret, max_tokens=2))
    await asyncio.sleep(0.05)
    buying.cancel()
    await asyncio.wait([buying])
    await asyncio.sleep(0.05)
    assert pool.coordinator.places.waiting == 0, "its place in line is somebody else's now"
    node.finish(await node.job(), [pool.A, pool.B])
    await pool.read(first)
    await pool.settled()
    assert not paying.reserved.is_set()
    assert pool.coordinator.places.waiting == 0


async def test_a_payer_that_left_before_the_answer_began_frees_the_slot(
    pool: Any, paying: Paying
) -> None:
    node = await pool.node(slots=1)
    account, secret = await pool.user(1000)
    buying = asyncio.create_task(paying.serve(secret, max_tokens=2))
    await paying.reserved.wait()
    buying.cancel()
    await asyncio.wait([buying])
    paying.settles.set_result(None)
    await pool.settled()
    assert await pool.held_micro(account) == 0
    answer = await pool.serve(secret, max_tokens=1)
    node.finish(await node.job(), [pool.A])
    assert (await pool.read(answer))[0] == "a"


async def test_a_node_that_dies_while_the_payment_settles_is_replaced(
    pool: Any, paying: Paying
) -> None:
    first = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    buying = asyncio.create_task(paying.serve(secret, max_tokens=2))
    await paying.reserved.wait()
    second = await pool.node(slots=1)
    first.die()
    await asyncio.sleep(0.05)
    paying.settles.set_result(None)
    answer = await buying
    second.finish(await second.job(), [pool.A, pool.B])
    assert (await pool.read(answer))[0] == "ab"
    await pool.assert_settled()
