"""The embedded facilitator on real nodes (ours, and anvil), paid by x402's own client, and its
chain failing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account

from parhelion.chain.rpc import RpcRefused
from parhelion.payments.facilitator import (
    Ambiguous,
    Code,
    Embedded,
    EmbeddedEvm,
    EvmPayment,
    Outcome,
    Refused,
    Settled,
)
from parhelion.payments.x402 import Expired, FailedOnChain, Landed, Unknown
from parhelion.payments.x402.readers import EvmReader
from parhelion.words import Problem, ProblemCode
from tests.integration.facilitator.evm_shop import PRICE, Shop
from tests.integration.facilitator.faults import (
    FaultyRpc,
    answers_nothing_after,
    hangs,
    is_away,
    is_lost,
    says,
)


@pytest.fixture
def shop(evm_shop: Shop) -> Shop:
    return evm_shop


async def test_a_stock_clients_payment_verifies_and_settles(shop: Shop) -> None:
    payment = await shop.verified()
    assert payment.payer == shop.buyer.address.lower()
    outcome = await shop.settled(payment)
    assert shop.earned() == PRICE
    assert await shop.facilitator().reconcile(payment) == outcome


async def test_what_strangers_bring_is_tried_out_on_a_line_of_its_own(shop: Shop) -> None:
    """However many wait there, what moves money goes another way."""
    trying = FaultyRpc(shop.rpc.rpc)
    shop.carrier = EmbeddedEvm(shop.rpc, shop.relay, time.time, look_every_s=0.01, trying=trying)
    shop.rpc.fail("eth_call", hangs)
    payment = await shop.verified()
    asked = ["eth_blockNumber", "eth_call"]
    assert (sorted(trying.calls), shop.rpc.calls) == (asked, [])
    shop.rpc.heal()
    trying.fail("eth_call", hangs)
    await shop.settled(payment)
    assert sorted(trying.calls) == asked


async def test_a_wallets_balance_is_read(shop: Shop) -> None:
    payment = await shop.verified()
    reader = EvmReader(shop.rpc)
    assert await reader.balance(payment) == 10 * PRICE
    for fault in (is_away, says("0x"), says(None), says("0x" + "zz" * 32)):
        shop.rpc.fail("eth_call", fault)
        with pytest.raises(Problem) as caught:
            await reader.balance(payment)
        assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE


async def test_what_has_been_spent_does_not_verify(shop: Shop) -> None:
    payload = shop.pay()
    payment = await shop.facilitator().verify(payload, shop.offer)
    assert isinstance(payment, EvmPayment)
    await shop.settled(payment)
    again = await shop.facilitator().verify(payload, shop.offer)
    assert isinstance(again, Refused) and again.code is Code.ALREADY_USED


async def test_payments_of_one_moment_share_a_height_and_are_found_from_it(shop: Shop) -> None:
    payments = [await shop.verified() for _ in range(3)]
    assert shop.rpc.calls.count("eth_blockNumber") == 1
    await shop.settled(payments[0])
    # By somebody else's transaction, in a block after the height that all three have.
    await asyncio.to_thread(shop.carry, payments[1])
    outcome = await shop.facilitator().reconcile(payments[1])
    assert isinstance(outcome, Settled) and outcome.landed_micro == PRICE


async def test_five_payments_race_for_money_for_one_and_one_is_settled(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7 * PRICE)
    payments = [await shop.verified(offer) for _ in range(5)]
    facilitator = shop.facilitator()
    outcomes = await asyncio.gather(*(facilitator.settle(each) for each in payments))
    assert sum(isinstance(each, Settled) for each in outcomes) == 1
    refused = [each.code for each in outcomes if isinstance(each, Refused)]
    assert refused == [Code.INSUFFICIENT_BALANCE] * 4
    assert shop.earned() == 7 * PRICE
    # Tried out again in their turn, the losers cost us no gas.
    assert shop.evm.ask("eth_getTransactionCount", shop.relay.address, "latest") == "0x1"


@pytest.mark.slow
async def test_twenty_payments_at_once_all_settle(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7)
    payments = [await shop.verified(offer) for _ in range(20)]
    outcomes = await asyncio.gather(*(shop.settled(each) for each in payments))
    assert len({each.transaction for each in outcomes}) == 20
    assert shop.earned() == 140
    # One count of the chain's, the rest from memory: nobody waits for another's receipt.
    assert shop.rpc.calls.count("eth_getTransactionCount") == 1


async def test_a_call_that_reverts_is_no_payment(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7 * PRICE)
    first, second = await shop.verified(offer), await shop.verified(offer)
    await shop.settled(first)
    shop.rpc.fail("eth_call", says("0x"))
    # What reads after the revert is real again.
    original = shop.rpc.rpc

    async def heals(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
        faulty.heal()
        return await original("eth_sendRawTransaction", params)

    shop.rpc.fail("eth_sendRawTransaction", heals)
    outcome = await shop.facilitator().settle(second)
    assert isinstance(outcome, Refused), outcome
    assert outcome.code is Code.FAILED_ON_CHAIN
    receipt = shop.evm.receipt(outcome.transaction)
    assert receipt["status"] == "0x0"
    assert outcome.fee == int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16) > 0
    assert shop.earned() == 7 * PRICE


async def test_too_little_money_is_refused_before_anything_is_sent(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=11 * PRICE)
    found = await shop.facilitator().verify(shop.pay(offer), offer)
    assert isinstance(found, Refused) and found.code is Code.INSUFFICIENT_BALANCE


async def test_who_carries_an_authorization_first_pays_it_all_the_same(shop: Shop) -> None:
    payment = await shop.verified()
    theirs: list[str] = []

    async def overtaken(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
        theirs.append(await asyncio.to_thread(shop.carry, payment))
        return await faulty.rpc("eth_sendRawTransaction", params)

    shop.rpc.fail("eth_sendRawTransaction", overtaken)
    outcome = await shop.settled(payment)
    assert outcome.transaction == theirs[0]
    assert shop.earned() == PRICE


async def test_a_canceled_authorization_is_refused(shop: Shop) -> None:
    payment = await shop.verified()
    await asyncio.to_thread(shop.cancel, payment)
    for outcome in (
        await shop.facilitator().reconcile(payment),
        await shop.facilitator().settle(payment),
    ):
        assert isinstance(outcome, Refused) and outcome.code is Code.ALREADY_USED
    assert shop.earned() == 0


async def test_the_nonce_after_a_failed_broadcast_is_right(shop: Shop) -> None:
    """Rejected, lost before the node and lost after it: whatever it was, the next one settles."""

    async def rejected(_: FaultyRpc, __: Sequence[Any]) -> Any:
        raise RpcRefused(-32000, "transaction underpriced")

    lost_after = answers_nothing_after("eth_sendRawTransaction")
    kinds: list[tuple[Any, type[Outcome]]] = [
        (rejected, Refused),
        (is_away, Refused),
        (is_lost, Ambiguous),
        (lost_after, Settled),
        (hangs, Ambiguous),
    ]
    await shop.settled(await shop.verified())
    for fault, kind in kinds:
        payment = await shop.verified()
        shop.rpc.fail("eth_sendRawTransaction", fault)
        outcome = await shop.facilitator(budget_s=0.4).settle(payment)
        assert isinstance(outcome, kind), (fault, outcome)
        shop.rpc.heal()
        await shop.settled(await shop.verified())
    assert shop.earned() == (1 + len(kinds) + 1) * PRICE


async def test_a_nonce_that_somebody_else_took_is_asked_for_again(shop: Shop) -> None:
    await shop.settled(await shop.verified())
    await asyncio.to_thread(shop.send, shop.relay, "0x06fdde03")
    await shop.settled(await shop.verified())


async def test_who_is_cancelled_while_he_broadcasts_leaves_a_right_nonce(shop: Shop) -> None:
    await shop.settled(await shop.verified())
    payment = await shop.verified()
    shop.rpc.fail("eth_sendRawTransaction", hangs)
    task = asyncio.create_task(shop.facilitator().settle(payment))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.rpc.heal()
    await shop.settled(await shop.verified())


async def test_an_empty_purse_is_our_trouble_and_not_the_payers(shop: Shop) -> None:
    payment = await shop.verified()
    shop.relay = Account.create()
    shop.__post_init__()
    outcome = await shop.facilitator().settle(payment)
    assert isinstance(outcome, Refused)
    assert outcome.is_ours and outcome.code is Code.FACILITATOR_OUT_OF_FUNDS


async def test_gas_that_is_too_dear_is_our_trouble_and_nothing_is_sent(shop: Shop) -> None:
    payment = await shop.verified()
    shop.rpc.fail("eth_gasPrice", says(hex(10**9)))
    outcome = await shop.facilitator().settle(payment)
    assert isinstance(outcome, Refused)
    assert outcome.is_ours and outcome.code is Code.NETWORK_FEES_TOO_HIGH
    assert "eth_sendRawTransaction" not in shop.rpc.calls


@pytest.mark.slow
@pytest.mark.parametrize("fault", [hangs, is_lost, says({"status": "0x1"}), says("garbage")])
async def test_a_receipt_that_cannot_be_read_is_ambiguous_until_it_can(
    shop: Shop, fault: Any
) -> None:
    payment = await shop.verified()
    shop.rpc.fail("eth_getTransactionReceipt", fault)
    outcome = await shop.facilitator(budget_s=0.3).settle(payment)
    assert isinstance(outcome, Ambiguous) and outcome.transaction
    shop.rpc.heal()
    found = await shop.facilitator().reconcile(payment)
    assert found == Settled(transaction=outcome.transaction, landed_micro=PRICE)


async def test_what_is_unspent_is_open_while_it_is_valid_and_dead_afterwards(shop: Shop) -> None:
    payment = await shop.verified()
    assert isinstance(await shop.facilitator().reconcile(payment), Ambiguous)
    before = payment.valid_before_s + 59
    shop.rpc.fail("eth_getBlockByNumber", says({"timestamp": hex(before)}))
    assert isinstance(await shop.facilitator().reconcile(payment), Ambiguous)
    shop.rpc.fail("eth_getBlockByNumber", says({"timestamp": hex(before + 1)}))
    dead = await shop.facilitator().reconcile(payment)
    assert isinstance(dead, Refused) and dead.code is Code.EXPIRED


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eth_call", "eth_blockNumber"])
@pytest.mark.parametrize("fault", [hangs, is_lost, is_away])
async def test_a_chain_that_is_away_refuses_nobody_and_grants_nothing(
    shop: Shop, method: str, fault: Any
) -> None:
    shop.rpc.fail(method, fault)
    begun = time.monotonic()
    with pytest.raises(Problem) as caught:
        await shop.facilitator(budget_s=0.3).verify(shop.pay(), shop.offer)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert caught.value.retry_after_s
    assert time.monotonic() - begun < 2


@pytest.mark.slow
async def test_another_chains_payment_is_refused(shop: Shop) -> None:
    other = replace(shop.offer, network="eip155:8453")
    carrier = Embedded({"eip155:8453": shop.carrier})
    found = await carrier.verify(shop.pay(), other)
    assert isinstance(found, Refused) and found.code is Code.WRONG_NETWORK
    accepted = replace(shop.pay(), accepted=shop.pay(other).accepted)
    found = await carrier.verify(accepted, other)
    assert isinstance(found, Refused) and found.code is Code.BAD_SIGNATURE


async def test_the_reader_sees_what_landed_whoever_carried_it_and_under_no_name(shop: Shop) -> None:
    """By the transaction's id, by the authorization alone, and where another's id is told."""
    reader = EvmReader(shop.rpc)
    ours, theirs = await shop.verified(), await shop.verified()
    assert await reader.find(ours, None) == Unknown()
    settled = await shop.settled(ours)
    carried = await asyncio.to_thread(shop.carry, theirs)
    await asyncio.to_thread(shop.evm.receipt, carried)
    for payment, transaction in ((ours, settled.transaction), (theirs, carried)):
        landed = Landed(transaction=transaction, amount_micro=PRICE, payer=payment.payer)
        for told in (transaction, None, "0x" + "00" * 32, carried):
            assert await reader.find(payment, told) == landed


async def test_the_reader_frees_what_was_taken_back_or_ended_and_nothing_before(
    shop: Shop,
) -> None:
    reader = EvmReader(shop.rpc)
    payment, canceled = await shop.verified(), await shop.verified()
    await asyncio.to_thread(shop.cancel, canceled)
    sight = await reader.find(canceled, None)
    assert isinstance(sight, FailedOnChain) and "canceled" in sight.reason
    shop.rpc.fail("eth_getBlockByNumber", says({"timestamp": hex(payment.valid_before_s + 59)}))
    assert await reader.find(payment, None) == Unknown()
    shop.rpc.fail("eth_getBlockByNumber", says({"timestamp": hex(payment.valid_before_s + 60)}))
    assert await reader.find(payment, None) == Expired()


@pytest.mark.slow
async def test_verify_and_settle_take_milliseconds(shop: Shop) -> None:
    rows: list[dict[str, float]] = []
    facilitator, offer = shop.facilitator(), replace(shop.offer, amount_micro=1)
    for _ in range(30):
        payload = await asyncio.to_thread(shop.pay, offer)
        begun = time.perf_counter()
        payment = await facilitator.verify(payload, offer)
        verified = time.perf_counter()
        assert isinstance(payment, EvmPayment)
        assert isinstance(await facilitator.settle(payment), Settled)
        took = {"verify": verified - begun, "settle": time.perf_counter() - verified}
        rows.append({name: seconds * 1000 for name, seconds in took.items()} | shop.rpc.spent_ms)
    shown = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    print("median ms on minievm:", shown)
    assert shown["verify"] < 200
