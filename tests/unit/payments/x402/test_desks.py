"""Desks: a 402 asks no chain, an idle pool calls nobody, and no old blockhash is handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from parhelion.chain.rpc import RpcUnavailable
from parhelion.payments.x402.desks import FRESH_S, STALE_S, Desks
from parhelion.payments.x402.networks import Payee, as_local, known
from parhelion.testing.clock import ManualClock

SOLANA = as_local(known("solana-testnet"))
EVM = as_local(known("base-sepolia"))


def payee(network: Any) -> Payee:
    return Payee(network=network, pay_to="x", facilitator="embedded", rpc_url="http://127.0.0.1:1")


class Node:
    """A chain's node that counts; `answers` may be replaced."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()
        self.fails: Exception | None = None
        self.told: Any = None

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        self.calls += 1
        mine = self.calls
        await self.open.wait()
        if self.fails is not None:
            raise self.fails
        assert method == "getLatestBlockhash"
        return self.told or {"value": {"blockhash": f"hash{mine}", "lastValidBlockHeight": mine}}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def desks_at(node: Node, clock: ManualClock) -> Desks:
    payees, rpcs = (payee(SOLANA), payee(EVM)), {SOLANA.id: node, EVM.id: node}
    return Desks(payees, {SOLANA.id: "fees"}, rpcs, clock)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def hint(desks: Desks) -> str | None:
    solana, evm = desks.now()
    assert evm.hint is None and solana.fee_payer == "fees" and evm.fee_payer == ""
    return None if solana.hint is None else solana.hint.blockhash


async def test_offers_have_a_hint_from_the_second_on_and_asking_never_waits(
    clock: ManualClock,
) -> None:
    node = Node()
    desks = desks_at(node, clock)
    assert hint(desks) is None
    await settled()
    assert [hint(desks) for _ in range(100)] == ["hash1"] * 100
    await settled()
    assert node.calls == 1, "one call for a hundred offers"


async def test_an_idle_pool_calls_nobody(clock: ManualClock) -> None:
    node = Node()
    desks_at(node, clock)
    clock.advance(3600)
    await settled()
    assert node.calls == 0


async def test_an_older_hint_is_renewed_beside_the_offers_by_one_call(clock: ManualClock) -> None:
    node = Node()
    desks = desks_at(node, clock)
    hint(desks)
    await settled()
    clock.advance(FRESH_S)
    node.open.clear()
    assert {hint(desks) for _ in range(10)} == {"hash1"}
    await settled()
    assert node.calls == 2
    node.open.set()
    await settled()
    assert hint(desks) == "hash2"


async def test_who_signs_by_hand_waits_for_a_hint_that_is_fresh_and_hears_its_age(
    clock: ManualClock,
) -> None:
    node = Node()
    desks = desks_at(node, clock)
    assert await desks.freshen(EVM.id) is None
    assert (await desks.freshen(SOLANA.id), hint(desks)) == (0.0, "hash1")
    clock.advance(FRESH_S - 1)
    assert (await desks.freshen(SOLANA.id), node.calls) == (FRESH_S - 1, 1)
    clock.advance(2)
    assert (await desks.freshen(SOLANA.id), hint(desks), node.calls) == (0.0, "hash2", 2)


async def test_a_waiter_that_leaves_takes_the_hint_from_nobody(clock: ManualClock) -> None:
    node = Node()
    node.open.clear()
    desks = desks_at(node, clock)
    leaves, stays = (asyncio.create_task(desks.freshen(SOLANA.id)) for _ in range(2))
    await settled()
    leaves.cancel()
    await settled()
    node.open.set()
    assert (await stays, node.calls) == (0.0, 1)


async def test_a_chain_that_is_away_gives_its_old_hint_with_its_age_and_then_none(
    clock: ManualClock,
) -> None:
    node = Node()
    desks = desks_at(node, clock)
    await desks.freshen(SOLANA.id)
    node.fails = RpcUnavailable("away")
    clock.advance(STALE_S)
    assert await desks.freshen(SOLANA.id) == STALE_S
    clock.advance(1)
    assert await desks.freshen(SOLANA.id) is None
    assert hint(desks) is None


async def test_a_stale_hint_is_left_out_while_the_chain_is_away(clock: ManualClock) -> None:
    node = Node()
    desks = desks_at(node, clock)
    hint(desks)
    await settled()
    node.fails = RpcUnavailable("away")
    clock.advance(STALE_S)
    assert hint(desks) == "hash1"
    await settled()
    clock.advance(1)
    assert hint(desks) is None
    await settled()
    assert node.calls == 2, "whoever is away is not asked at each offer"
    clock.advance(FRESH_S)
    hint(desks)
    await settled()
    assert node.calls == 3


async def test_an_answer_that_took_long_is_as_old_as_its_question(clock: ManualClock) -> None:
    node = Node()
    desks = desks_at(node, clock)
    node.open.clear()
    hint(desks)
    await settled()
    clock.advance(STALE_S + 1)
    node.open.set()
    await settled()
    assert hint(desks) is None


@pytest.mark.parametrize("told", [7, {"value": {}}, {"value": {"blockhash": 1}}, "x"])
async def test_an_answer_in_another_shape_is_no_hint(clock: ManualClock, told: Any) -> None:
    node = Node()
    node.told = told
    desks = desks_at(node, clock)
    hint(desks)
    await settled()
    assert hint(desks) is None


async def test_closing_gives_up_what_is_under_way_and_asks_no_more(clock: ManualClock) -> None:
    node = Node()
    desks = desks_at(node, clock)
    node.open.clear()
    hint(desks)
    await settled()
    await asyncio.wait_for(desks.close(), 1)
    clock.advance(60)
    hint(desks)
    await settled()
    assert node.calls == 1
