"""The embedded facilitator on a real minisol, paid by x402's own client, and its chain failing."""

from __future__ import annotations

import asyncio
import base64
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from solders.keypair import Keypair

from parhelion.chain.rpc import JsonRpc
from parhelion.chain.solana import associated_account
from parhelion.payments.facilitator import (
    Ambiguous,
    Code,
    EmbeddedSolana,
    Refused,
    Settled,
    SolanaPayment,
)
from parhelion.payments.x402.readers import SolanaReader
from parhelion.testing.minisol import MinisolProcess
from parhelion.words import Problem, ProblemCode
from tests.integration.facilitator.faults import (
    FaultyRpc,
    answers_nothing_after,
    hangs,
    is_away,
    is_lost,
    says,
)
from tests.integration.facilitator.solana_shop import PRICE, Shop


async def test_a_stock_clients_payment_verifies_and_settles(shop: Shop) -> None:
    payment = await shop.verified()
    assert payment.payer == str(shop.buyer.pubkey())
    outcome = await shop.facilitator().settle(payment)
    assert outcome == Settled(transaction=payment.transaction, landed_micro=PRICE)
    assert shop.earned() == PRICE


async def test_a_memo_that_was_offered_is_in_the_transaction(shop: Shop) -> None:
    offer = replace(shop.offer, memo="offer_0123")
    outcome = await shop.facilitator().settle(await shop.verified(offer))
    assert isinstance(outcome, Settled)
    asked = [str(shop.fee_payer.pubkey()), {"commitment": "confirmed"}]
    row = (await shop.rpc("getSignaturesForAddress", asked))[0]
    assert row["memo"] == "[10] offer_0123"


async def test_what_strangers_bring_is_tried_out_on_a_line_of_its_own(shop: Shop) -> None:
    """However many wait there, what moves money goes another way."""
    trying = FaultyRpc(shop.rpc.rpc)
    shop.carrier = EmbeddedSolana(shop.rpc, shop.fee_payer, look_every_s=0.01, trying=trying)
    shop.rpc.fail("simulateTransaction", hangs)
    payment = await shop.verified()
    assert (trying.calls, shop.rpc.calls) == (["simulateTransaction"], [])
    trying.fail("sendTransaction", hangs)
    assert isinstance(await shop.facilitator().settle(payment), Settled)
    assert trying.calls == ["simulateTransaction"]


async def test_a_wallets_balance_is_read_and_a_missing_account_holds_nothing(shop: Shop) -> None:
    payment = await shop.verified()
    reader = SolanaReader(shop.rpc)
    assert await reader.balance(payment) == 10 * PRICE
    nobody = associated_account(str(Keypair().pubkey()), payment.asset)
    assert await reader.balance(msgspec.structs.replace(payment, source=nobody)) == 0
    for fault in (is_away, says({"value": {"amount": "1e3"}}), says(None)):
        shop.rpc.fail("getTokenAccountBalance", fault)
        with pytest.raises(Problem) as caught:
            await reader.balance(payment)
        assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE


async def test_nothing_with_our_signature_leaves_before_it_is_settled(shop: Shop) -> None:
    payment = await shop.verified()
    assert shop.rpc.calls == ["simulateTransaction"]
    assert base64.b64encode(payment.wire).startswith(b"AgAAAA")


async def test_one_payment_that_is_settled_many_times_at_once_moves_once(shop: Shop) -> None:
    payment = await shop.verified()
    facilitator = shop.facilitator()
    outcomes = await asyncio.gather(*(facilitator.settle(payment) for _ in range(10)))
    assert set(outcomes) == {Settled(transaction=payment.transaction, landed_micro=PRICE)}
    assert shop.earned() == PRICE
    again = await facilitator.verify(shop.pay(), shop.offer)
    assert isinstance(again, SolanaPayment) and again.key != payment.key


async def test_what_has_landed_before_does_not_verify(shop: Shop) -> None:
    payload = shop.pay()
    facilitator = shop.facilitator()
    payment = await facilitator.verify(payload, shop.offer)
    assert isinstance(payment, SolanaPayment)
    await facilitator.settle(payment)
    again = await facilitator.verify(payload, shop.offer)
    assert isinstance(again, Refused) and again.code is Code.ALREADY_USED


async def test_five_payments_race_for_money_for_one_and_one_is_settled(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7 * PRICE)
    payments = [await shop.verified(offer) for _ in range(5)]
    before = shop.lamports()
    facilitator = shop.facilitator()
    outcomes = await asyncio.gather(*(facilitator.settle(each) for each in payments))
    settled = [each for each in outcomes if isinstance(each, Settled)]
    refused = [each.code for each in outcomes if isinstance(each, Refused)]
    assert len(settled) == 1
    assert refused == [Code.INSUFFICIENT_BALANCE] * 4
    assert shop.earned() == 7 * PRICE
    # Preflight kept the losers from costing us a fee: two signatures of one transaction.
    assert before - shop.lamports() == 10_001


async def test_a_transaction_that_fails_and_confirms_is_no_payment(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7 * PRICE)
    first, second = await shop.verified(offer), await shop.verified(offer)
    facilitator = shop.facilitator()
    assert isinstance(await facilitator.settle(first), Settled)

    async def unchecked(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
        how = {**params[1], "skipPreflight": True}
        return await faulty.rpc("sendTransaction", [params[0], how])

    shop.rpc.fail("sendTransaction", unchecked)
    outcome = await facilitator.settle(second)
    assert isinstance(outcome, Refused), outcome
    assert outcome.code is Code.INSUFFICIENT_BALANCE
    assert outcome.transaction == second.transaction
    assert outcome.fee == 10_001, "what it cost us is known without asking"
    status = (await shop.rpc("getSignatureStatuses", [[second.transaction]]))["value"][0]
    assert status["confirmationStatus"] in ("confirmed", "finalized") and status["err"]
    assert await facilitator.reconcile(second) == outcome


async def test_too_little_money_is_refused_before_anything_is_signed(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=11 * PRICE)
    found = await shop.facilitator().verify(shop.pay(offer), offer)
    assert isinstance(found, Refused) and found.code is Code.INSUFFICIENT_BALANCE


async def test_an_empty_fee_payer_is_our_trouble_and_not_the_payers(shop: Shop) -> None:
    poor = replace(shop, fee_payer=Keypair())
    with pytest.raises(Problem) as caught:
        await poor.facilitator().verify(poor.pay(), poor.offer)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert "facilitator_out_of_funds" in caught.value.message


async def test_an_answer_to_the_broadcast_that_is_lost_loses_no_payment(shop: Shop) -> None:
    payment = await shop.verified()
    shop.rpc.fail("sendTransaction", answers_nothing_after("sendTransaction"))
    outcome = await shop.facilitator().settle(payment)
    assert outcome == Settled(transaction=payment.transaction, landed_micro=PRICE)


async def test_a_broadcast_that_nobody_took_is_refused_as_our_trouble(shop: Shop) -> None:
    payment = await shop.verified()
    shop.rpc.fail("sendTransaction", is_away)
    outcome = await shop.facilitator().settle(payment)
    assert isinstance(outcome, Refused)
    assert outcome.is_ours and outcome.code is Code.CHAIN_UNAVAILABLE


@pytest.mark.parametrize(
    "fault",
    [
        is_lost,
        pytest.param(hangs, marks=pytest.mark.slow),
        pytest.param(says("1" * 88), marks=pytest.mark.slow),
        pytest.param(says(7), marks=pytest.mark.slow),
    ],
)
async def test_a_broadcast_that_may_have_gone_out_is_ambiguous(shop: Shop, fault: Any) -> None:
    payment = await shop.verified()
    shop.rpc.fail("sendTransaction", fault)
    facilitator = shop.facilitator(budget_s=0.3)
    outcome = await facilitator.settle(payment)
    assert isinstance(outcome, Ambiguous) and outcome.transaction == payment.transaction
    assert isinstance(await facilitator.reconcile(payment), Ambiguous)
    assert shop.earned() == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [hangs, is_lost, says({"value": "garbage"}), says(None)])
async def test_a_chain_that_cannot_be_read_is_ambiguous_until_it_can(
    shop: Shop, fault: Any
) -> None:
    payment = await shop.verified()
    shop.rpc.fail("getSignatureStatuses", fault)
    facilitator = shop.facilitator(budget_s=0.3)
    outcome = await facilitator.settle(payment)
    assert isinstance(outcome, Ambiguous)
    shop.rpc.heal()
    assert await facilitator.reconcile(payment) == Settled(
        transaction=payment.transaction, landed_micro=PRICE
    )


@pytest.mark.parametrize(
    "fault", [hangs, is_lost, is_away, says({}), says("x"), says({"value": 1})]
)
async def test_a_chain_that_is_away_or_mad_refuses_nobody_and_grants_nothing(
    shop: Shop, fault: Any
) -> None:
    shop.rpc.fail("simulateTransaction", fault)
    begun = time.monotonic()
    with pytest.raises(Problem) as caught:
        await shop.facilitator(budget_s=0.3).verify(shop.pay(), shop.offer)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert caught.value.retry_after_s
    assert time.monotonic() - begun < 2


@pytest.mark.slow
async def test_whoever_waits_for_his_turn_too_long_was_never_broadcast(shop: Shop) -> None:
    first, second = await shop.verified(), await shop.verified()
    shop.rpc.fail("sendTransaction", hangs)
    blocking = asyncio.create_task(shop.facilitator(budget_s=1.0).settle(first))
    await asyncio.sleep(0.1)
    waiting = await shop.facilitator(budget_s=0.1).settle(second)
    blocked = await blocking
    assert isinstance(blocked, Ambiguous)
    assert isinstance(waiting, Refused) and waiting.code is Code.CHAIN_UNAVAILABLE


async def test_who_is_cancelled_while_he_broadcasts_leaves_the_turn_to_the_next(
    shop: Shop,
) -> None:
    first, second = await shop.verified(), await shop.verified()
    facilitator = shop.facilitator()
    shop.rpc.fail("sendTransaction", hangs)
    task = asyncio.create_task(facilitator.settle(first))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.rpc.heal()
    assert isinstance(await facilitator.settle(second), Settled)


async def test_what_another_fee_payer_carried_is_found_by_what_the_payer_signed(
    shop: Shop,
) -> None:
    payment = await shop.verified()
    facilitator = shop.facilitator()
    unknown = msgspec.structs.replace(payment, transaction="")
    assert isinstance(await facilitator.reconcile(unknown), Ambiguous)
    settled = await facilitator.settle(payment)
    assert await facilitator.reconcile(unknown) == settled
    other = msgspec.structs.replace(unknown, key="0" * 64)
    assert isinstance(await facilitator.reconcile(other), Ambiguous)


@pytest.mark.slow
async def test_an_expired_blockhash_is_refused_and_an_unseen_payment_dies_with_it(
    tmp_path: Path,
) -> None:
    process = MinisolProcess(tmp_path / "chain", "--slot-ms", "5")
    try:
        async with aiohttp.ClientSession() as session:
            rpc = FaultyRpc(JsonRpc(session, process.url))
            shop = await asyncio.to_thread(Shop(process, rpc).open, 10 * PRICE)
            facilitator = shop.facilitator(budget_s=0.1)
            late, unsent = await shop.verified(), await shop.verified()
            payload = shop.pay()
            rpc.fail("sendTransaction", is_lost)
            assert isinstance(await facilitator.settle(unsent), Ambiguous)
            rpc.heal()
            assert isinstance(await facilitator.reconcile(unsent), Ambiguous)
            # 150 slots until it is too old, 32 more until no fork can take it.
            await asyncio.sleep(1.1)
            dead = await facilitator.reconcile(unsent)
            assert isinstance(dead, Refused) and dead.code is Code.EXPIRED
            for found in (
                await facilitator.settle(late),
                await facilitator.verify(payload, shop.offer),
            ):
                assert isinstance(found, Refused) and found.code is Code.EXPIRED
            assert shop.earned() == 0
    finally:
        process.close(kill=True)


async def test_another_network_is_refused(shop: Shop) -> None:
    other = replace(shop.offer, network="solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")
    found = await shop.facilitator().verify(shop.pay(), other)
    assert isinstance(found, Refused) and found.code is Code.WRONG_NETWORK


@pytest.mark.slow
async def test_verify_and_settle_take_milliseconds(shop: Shop) -> None:
    """The chain's own time apart: until a transaction is confirmed a slot must pass."""
    rows: list[dict[str, float]] = []
    facilitator, offer = shop.facilitator(), replace(shop.offer, amount_micro=1)
    for _ in range(50):
        payload = await asyncio.to_thread(shop.pay, offer)
        begun = time.perf_counter()
        payment = await facilitator.verify(payload, offer)
        verified = time.perf_counter()
        assert isinstance(payment, SolanaPayment)
        assert isinstance(await facilitator.settle(payment), Settled)
        took = {"verify": verified - begun, "settle": time.perf_counter() - verified}
        rows.append({name: seconds * 1000 for name, seconds in took.items()} | shop.rpc.spent_ms)
    shown = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    print("median ms on minisol:", shown)
    assert shown["verify"] < 50
