"""A payment whose fee has become too low waits for nobody's patience: it is offered more for, under
its own nonce, and those behind it move on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from parhelion.chain.rpc import JsonRpc
from parhelion.payments.facilitator import Ambiguous, EmbeddedEvm, EvmPayment, Settled
from tests.integration.chain.minievm.processes import (
    BASE_FEE_WEI,
    LIKE_BASE,
    Anvil,
    anvil,
    minievm,
)
from tests.integration.facilitator.evm_shop import PRICE, Shop
from tests.integration.facilitator.faults import FaultyRpc

PUSH_S = 0.2
BLOCK_S = 0.1
RISEN_WEI = 50 * BASE_FEE_WEI
TOO_DEAR_WEI = 10**9


class Blocks:
    """anvil's blocks come when we say, with the base fee that we say.

    None comes while something waits that cannot pay it: anvil would drop that from its pool, where
    a node of Base keeps it, and all that comes after it, until the base fee falls.
    """

    def __init__(self, node: Anvil) -> None:
        self.node = node
        self.base_fee_wei = BASE_FEE_WEI

    def mine(self) -> None:
        self.node.ask("anvil_setNextBlockBaseFeePerGas", hex(self.base_fee_wei))
        if min(self.offered(), default=self.base_fee_wei) >= self.base_fee_wei:
            self.node.ask("evm_mine")
        # Who asks for the price is told that of the block to come.
        self.node.ask("anvil_setNextBlockBaseFeePerGas", hex(self.base_fee_wei))

    def offered(self) -> list[int]:
        """What those that wait would pay at most for a unit of gas."""
        waiting = self.node.ask("txpool_content")["pending"].values()
        return [int(each["maxFeePerGas"], 16) for line in waiting for each in line.values()]

    async def rise(self, base_fee_wei: int) -> None:
        self.base_fee_wei = base_fee_wei
        await asyncio.to_thread(self.mine)

    @contextlib.asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """A block every BLOCK_S."""

        async def forever() -> None:
            while True:
                await asyncio.to_thread(self.mine)
                await asyncio.sleep(BLOCK_S)

        task = asyncio.create_task(forever())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with anvil(*LIKE_BASE) as made:
        yield made


@pytest_asyncio.fixture
async def shop(node: Anvil) -> AsyncIterator[Shop]:
    node.ask("evm_setAutomine", True)
    node.ask("anvil_setNextBlockBaseFeePerGas", hex(BASE_FEE_WEI))
    async with aiohttp.ClientSession() as session:
        rpc = FaultyRpc(JsonRpc(session, node.rpc))
        made = await asyncio.to_thread(Shop(node, rpc).open, 10 * PRICE)
        made.carrier = carrier_of(made)
        node.ask("evm_setAutomine", False)
        node.ask("anvil_setNextBlockBaseFeePerGas", hex(BASE_FEE_WEI))
        yield made


def carrier_of(shop: Shop, **more: Any) -> EmbeddedEvm:
    return EmbeddedEvm(
        shop.rpc, shop.relay, time.time, look_every_s=0.02, push_after_s=PUSH_S, **more
    )


def used(shop: Shop) -> int:
    """How many nonces of the fee payer's are used."""
    return int(shop.evm.ask("eth_getTransactionCount", shop.relay.address, "latest"), 16)


def nonce_of(shop: Shop, transaction: str) -> int:
    return int(shop.evm.ask("eth_getTransactionByHash", transaction)["nonce"], 16)


def funded(shop: Shop) -> None:
    """Wait until the gift is in a block."""
    ends_at_s = time.monotonic() + 20
    while shop.evm.ask("eth_getBalance", shop.relay.address, "latest") == "0x0":
        assert time.monotonic() < ends_at_s
        time.sleep(0.05)


async def stuck(shop: Shop, blocks: Blocks) -> tuple[EvmPayment, str]:
    """A payment that was sent, and the base fee rose before its block came."""
    payment = await shop.verified()
    outcome = await shop.facilitator(budget_s=PUSH_S / 2).settle(payment)
    assert isinstance(outcome, Ambiguous) and outcome.transaction
    await blocks.rise(RISEN_WEI)
    assert used(shop) == 0, "it waits"
    return payment, outcome.transaction


@pytest.mark.slow
async def test_a_fee_that_became_too_low_is_raised_within_the_settling(
    shop: Shop, node: Anvil
) -> None:
    blocks = Blocks(node)
    payment = await shop.verified()
    settling = asyncio.create_task(shop.facilitator(budget_s=10).settle(payment))
    await asyncio.sleep(PUSH_S / 2)
    await blocks.rise(RISEN_WEI)
    async with blocks.coming():
        outcome = await settling
    assert isinstance(outcome, Settled), outcome
    assert (shop.earned(), used(shop), nonce_of(shop, outcome.transaction)) == (PRICE, 1, 0)
    assert shop.rpc.calls.count("eth_sendRawTransaction") > 1


@pytest.mark.slow
async def test_a_payment_that_waits_holds_up_none_that_comes_after_it(
    shop: Shop, node: Anvil
) -> None:
    blocks = Blocks(node)
    first, sent = await stuck(shop, blocks)
    second = await shop.verified()
    await asyncio.sleep(PUSH_S)
    async with blocks.coming():
        outcome = await shop.facilitator(budget_s=10).settle(second)
    assert isinstance(outcome, Settled), outcome
    found = await shop.facilitator().reconcile(first)
    assert isinstance(found, Settled) and found.transaction != sent
    assert nonce_of(shop, found.transaction) == 0 and nonce_of(shop, outcome.transaction) == 1
    assert (shop.earned(), used(shop)) == (2 * PRICE, 2)


@pytest.mark.slow
async def test_what_nobody_waits_for_is_raised_when_it_is_asked_for(
    shop: Shop, node: Anvil
) -> None:
    blocks = Blocks(node)
    payment, _ = await stuck(shop, blocks)
    await asyncio.sleep(PUSH_S)
    assert isinstance(await shop.facilitator().reconcile(payment), Ambiguous)
    await asyncio.to_thread(blocks.mine)
    assert isinstance(await shop.facilitator().reconcile(payment), Settled)
    assert (shop.earned(), used(shop)) == (PRICE, 1)


@pytest.mark.slow
async def test_one_that_is_settled_again_keeps_its_nonce(shop: Shop, node: Anvil) -> None:
    """As withdrawals do, which are sent until they land."""
    blocks = Blocks(node)
    payment, _ = await stuck(shop, blocks)
    await asyncio.sleep(PUSH_S)
    async with blocks.coming():
        outcome = await shop.facilitator(budget_s=10).settle(payment)
    assert isinstance(outcome, Settled), outcome
    assert (shop.earned(), used(shop), nonce_of(shop, outcome.transaction)) == (PRICE, 1, 0)


@pytest.mark.slow
async def test_what_an_earlier_process_left_in_the_line_is_taken_out_of_it(
    shop: Shop, node: Anvil
) -> None:
    blocks = Blocks(node)
    forgotten, _ = await stuck(shop, blocks)
    shop.carrier = carrier_of(shop)
    payment = await shop.verified()
    async with blocks.coming():
        outcome = await shop.facilitator(budget_s=10).settle(payment)
    assert isinstance(outcome, Settled), outcome
    assert nonce_of(shop, outcome.transaction) == 1
    assert (shop.earned(), used(shop)) == (PRICE, 2)
    # Its payer has lost nothing: it is open until it ends, and can be carried by anybody.
    assert isinstance(await shop.facilitator().reconcile(forgotten), Ambiguous)


@pytest.mark.slow
async def test_more_than_the_limit_is_never_offered_and_a_fall_of_the_price_is_waited_for(
    shop: Shop, node: Anvil
) -> None:
    blocks = Blocks(node)
    payment, _ = await stuck(shop, blocks)
    blocks.base_fee_wei = TOO_DEAR_WEI
    async with blocks.coming():
        assert isinstance(await shop.facilitator(budget_s=1.5).settle(payment), Ambiguous)
        assert used(shop) == 0
        assert 0 < blocks.offered()[0] * 150_000 <= 10**14
        blocks.base_fee_wei = RISEN_WEI
        outcome = await shop.facilitator(budget_s=10).settle(payment)
    assert isinstance(outcome, Settled), outcome
    assert (shop.earned(), used(shop)) == (PRICE, 1)


@pytest.mark.slow
async def test_one_that_its_node_lost_is_sent_again_under_the_same_nonce(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Also where blocks take long, and each sending takes the place of the one before."""
    options = ("--block-ms", "1500")
    with minievm(tmp_path_factory.mktemp("minievm"), *options) as evm:
        async with aiohttp.ClientSession() as session:
            rpc = FaultyRpc(JsonRpc(session, evm.rpc))
            shop = await asyncio.to_thread(Shop(evm, rpc).open, 10 * PRICE)
            shop.carrier = carrier_of(shop)
            await asyncio.to_thread(funded, shop)
            payment = await shop.verified()

            async def forgets(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
                faulty.heal()
                return "0x" + "00" * 32

            rpc.fail("eth_sendRawTransaction", forgets)
            outcome = await shop.facilitator(budget_s=10).settle(payment)
            assert isinstance(outcome, Settled), outcome
            assert (shop.earned(), used(shop)) == (PRICE, 1)
            assert rpc.calls.count("eth_sendRawTransaction") > 2
