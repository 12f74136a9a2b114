"""A payment buys once, is booked once, and is never lost: the cashier against every outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.payments.facilitator.outcomes import Ambiguous, Code, EvmPayment, Settled
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.x402 import Cashier, Earlier, FailedOnChain, Landed, Window
from parhelion.payments.x402.claim_book import Unopened
from parhelion.store import Refused, Statement
from parhelion.words import Problem, ProblemCode

PAYER = "0x" + "aa" * 20


async def code_of(paying: Any) -> ProblemCode:
    with pytest.raises(Problem) as caught:
        await paying
    return caught.value.code


async def test_a_payment_is_credited_to_its_wallet_and_held_in_one_unit(world: Any) -> None:
    payment = world.payment()
    paid = await world.pay(payment)
    account = await world.wallet()
    assert paid.settlement.account == account
    assert await world.has(account) == (0, 5_000)
    assert await world.state(payment) == "settled"
    await world.mirrors_the_chain()


async def test_what_was_not_used_stays_with_the_payer_and_its_history_says_where_from(
    world: Any,
) -> None:
    paid = await world.pay(world.payment())
    await world.ledger.void(paid.opened, "no node")
    account = await world.wallet()
    assert await world.has(account) == (5_000, 0)
    entries = await world.ledger.history(account, limit=10)
    assert [entry.kind for entry in entries] == ["void", "hold", "deposit"]
    assert entries[-1].memo == f"x402 {paid.settlement.transaction}"


async def test_the_presented_keys_account_is_credited_instead_of_the_wallet(world: Any) -> None:
    await world.ledger.open_account("acct_key", "user")
    await world.pay(world.payment(), account="acct_key")
    assert await world.has("acct_key") == (0, 5_000)
    assert await world.wallet() is None


async def test_the_same_payment_twenty_times_in_parallel_buys_one_grant(world: Any) -> None:
    payment = world.payment()
    told = await asyncio.gather(*(world.pay(payment) for _ in range(20)), return_exceptions=True)
    paid = [one for one in told if not isinstance(one, BaseException)]
    problems = [one for one in told if isinstance(one, Problem)]
    assert (len(paid), len(problems)) == (1, 19)
    assert {problem.code for problem in problems} <= {
        ProblemCode.PAYMENT_PENDING,
        ProblemCode.PAYMENT_USED,
    }
    assert (world.chain.settled, await world.holds()) == (1, 1)
    await world.mirrors_the_chain()


async def test_the_second_asker_is_told_the_transaction_and_the_request(world: Any) -> None:
    payment = world.payment()
    paid = await world.pay(payment)
    with pytest.raises(Problem) as caught:
        await world.pay(payment)
    assert caught.value.code is ProblemCode.PAYMENT_USED
    assert paid.settlement.transaction in caught.value.message
    assert paid.opened.id.removeprefix("hold_") in caught.value.message
    assert world.chain.verified == 1, "the chain is not asked about what the books know"


async def test_the_same_payment_after_a_restart_buys_nothing_again(world: Any) -> None:
    payment = world.payment()
    await world.pay(payment)
    again = await world.restart()
    told = await asyncio.gather(*(code_of(again.pay(payment)) for _ in range(5)))
    assert set(told) == {ProblemCode.PAYMENT_USED}
    assert await again.holds() == 1
    await again.store.close()


async def test_two_first_payments_of_one_wallet_at_once_open_one_account(world: Any) -> None:
    one, two = await asyncio.gather(world.pay(world.payment()), world.pay(world.payment()))
    assert one.settlement.account == two.settlement.account
    assert await world.has(one.settlement.account) == (0, 10_000)
    await world.mirrors_the_chain()


async def test_a_payment_that_is_refused_buys_nothing_and_may_be_sent_again(world: Any) -> None:
    async def refuses(payment: EvmPayment) -> Declined:
        return Declined(code=Code.INSUFFICIENT_BALANCE, reason="the payer holds too little")

    payment = world.payment()
    world.chain.settles = refuses
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_REQUIRED
    assert await world.state(payment) == "failed"
    assert await world.holds() == 0
    world.chain.settles = None
    assert (await world.pay(payment)).opened is not None
    await world.mirrors_the_chain()


async def test_a_payment_that_does_not_verify_leaves_no_row(world: Any) -> None:
    async def refuses(payment: EvmPayment) -> Declined:
        return Declined(code=Code.BAD_SIGNATURE, reason="not theirs")

    payment = world.payment()
    world.chain.verifies = refuses
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_REQUIRED
    assert await world.state(payment) is None


async def test_a_facilitator_that_is_down_is_503_and_never_free(world: Any) -> None:
    async def is_down(payment: EvmPayment) -> Declined:
        return Declined(code=Code.FACILITATOR_UNAVAILABLE, reason="connection refused")

    payment = world.payment()
    world.chain.settles = is_down
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_UNAVAILABLE
    assert (await world.state(payment), await world.holds()) == ("failed", 0)


async def test_a_facilitator_that_verifies_another_payment_is_not_believed(world: Any) -> None:
    other = world.signed()

    async def swaps(payment: EvmPayment) -> EvmPayment:
        return other

    world.chain.verifies = swaps
    assert await code_of(world.pay(world.payment())) is ProblemCode.PAYMENT_UNAVAILABLE


async def raises(payment: EvmPayment) -> Any:
    raise ConnectionResetError("in the middle of it")


async def says_ambiguous(payment: EvmPayment) -> Any:
    return Ambiguous(reason="502")


@pytest.mark.parametrize("settles", [raises, says_ambiguous])
async def test_an_ambiguous_payment_is_pending_and_cannot_be_claimed_again(
    world: Any, settles: Any
) -> None:
    payment = world.payment()
    world.chain.settles = settles
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_PENDING
    assert await world.state(payment) == "pending"
    assert world.cashier.pending.is_set()
    world.chain.settles = None
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_PENDING
    assert world.chain.settled == 1, "it is never sent a second time while it may have landed"


async def test_settled_on_a_facilitators_word_alone_grants_nothing(world: Any) -> None:
    async def lies(payment: EvmPayment) -> Settled:
        return Settled(transaction="0x" + "11" * 32, landed_micro=payment.amount_micro)

    payment = world.payment()
    world.chain.settles = lies
    world.chain.is_away = True
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_PENDING
    assert await world.holds() == 0


def embedded(world: Any) -> None:
    """From now on the facilitator is our own: what it says has landed it has read itself."""
    window = Window(facilitator=world.chain, reader=world.chain, is_embedded=True)
    world.cashier = Cashier(world.book, {world.payment().network.id: window}, world.clock)


async def test_what_our_own_facilitator_read_on_the_chain_is_not_read_twice(world: Any) -> None:
    async def carries(payment: EvmPayment) -> Settled:
        transaction = world.chain.carry(payment)
        return Settled(transaction=transaction, landed_micro=payment.amount_micro)

    embedded(world)
    world.chain.settles = carries
    paid = await world.pay(world.payment())
    assert (paid.settlement.amount_micro, world.chain.looked) == (5_000, 0)
    assert await world.holds() == 1


async def test_what_our_own_facilitator_did_not_read_is_looked_up(world: Any) -> None:
    embedded(world)
    world.chain.is_away = True
    assert await code_of(world.pay(world.payment())) is ProblemCode.PAYMENT_PENDING
    assert (world.chain.looked, await world.holds()) == (1, 0)


async def test_a_landed_payment_of_nothing_grants_nothing(world: Any) -> None:
    async def carries_nothing(payment: EvmPayment) -> Settled:
        return Settled(transaction="0x" + "33" * 32, landed_micro=0)

    embedded(world)
    world.chain.settles = carries_nothing
    payment = world.payment()
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_REQUIRED
    assert (await world.state(payment), await world.holds()) == ("failed", 0)


async def test_a_payment_that_failed_on_the_chain_is_refused_whatever_was_said(world: Any) -> None:
    payment = world.payment()
    transaction = "0x" + "22" * 32

    async def lies(signed: EvmPayment) -> Settled:
        world.chain.failed[signed.key] = FailedOnChain(transaction=transaction)
        return Settled(transaction=transaction)

    world.chain.settles = lies
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_REQUIRED
    assert (await world.state(payment), await world.holds()) == ("failed", 0)


async def test_another_amount_than_offered_is_credited_and_buys_nothing(world: Any) -> None:
    payment = world.payment()

    async def short(signed: EvmPayment) -> Settled:
        return Settled(transaction=world.chain.carry(signed, 4_999))

    world.chain.settles = short
    paid = await world.pay(payment)
    assert paid.opened is None
    assert await world.has(await world.wallet()) == (4_999, 0)
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_USED
    await world.mirrors_the_chain()


async def test_one_transaction_told_for_two_payments_is_credited_once(world: Any) -> None:
    first, second = world.signed(), world.signed()
    shared = "0x" + "33" * 32

    async def one_for_all(signed: EvmPayment) -> Settled:
        world.chain.landed.clear()
        for each in (first, second):
            world.chain.landed[each.key] = Landed(
                transaction=shared, amount_micro=5_000, payer=PAYER, slot=1
            )
        return Settled(transaction=shared)

    world.chain.settles = one_for_all
    await world.pay(world.payment(first))
    assert await code_of(world.pay(world.payment(second))) is ProblemCode.PAYMENT_PENDING
    assert await world.has(await world.wallet()) == (0, 5_000)
    assert await world.holds() == 1
    del world.chain.landed[second.key]
    await world.mirrors_the_chain()


async def test_a_client_that_leaves_is_credited_and_may_come_back_for_its_answer(
    world: Any,
) -> None:
    payment, begun, go = world.payment(), asyncio.Event(), asyncio.Event()

    async def slow(signed: EvmPayment) -> Settled:
        begun.set()
        await go.wait()
        return Settled(transaction=world.chain.carry(signed))

    world.chain.settles = slow
    paying = asyncio.create_task(world.pay(payment))
    await begun.wait()
    paying.cancel()
    await asyncio.gather(paying, return_exceptions=True)
    go.set()
    await world.cashier.close()
    assert await world.has(await world.wallet()) == (5_000, 0)
    assert (await world.pay(payment)).opened is not None
    assert world.chain.settled == 1
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_USED
    await world.mirrors_the_chain()


async def test_where_the_hold_is_refused_the_money_is_booked_all_the_same(world: Any) -> None:
    payment = world.payment()
    request = world.request()
    claim = await world.cashier.claim(payment, request=request, body_hash="b")

    async def refused(settlement: Any, first: Any) -> Any:
        await world.store.commit([*first, Statement("mine", "DELETE FROM holds", (), rows=1)])

    with pytest.raises(Unopened) as caught:
        await world.cashier.settle(claim, request, refused)
    assert isinstance(caught.value.__cause__, Refused) and caught.value.__cause__.name == "mine"
    assert await world.has(await world.wallet()) == (5_000, 0)
    assert (await world.pay(payment)).opened is not None, "its grant is still to be had, once"
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_USED


async def test_a_claim_that_finds_no_slot_is_released_and_may_come_again(world: Any) -> None:
    payment, request = world.payment(), world.request()
    claim = await world.cashier.claim(payment, request=request, body_hash="b")
    await world.cashier.release(claim, "no slot")
    assert await world.state(payment) == "failed"
    assert (await world.pay(payment)).opened is not None


async def test_the_same_identifier_and_body_gives_the_earlier_result_and_takes_no_money(
    world: Any,
) -> None:
    name = "pay_0123456789abcdef"
    first = await world.pay(world.payment(identifier=name))
    again = await world.cashier.claim(
        world.payment(identifier=name), request=world.request(), body_hash="b"
    )
    assert again == Earlier(request=first.opened.id.replace("hold_", "req_"), paid=first.settlement)
    assert world.chain.settled == 1


async def test_the_same_bytes_with_their_identifier_give_the_earlier_result(world: Any) -> None:
    """What a buyer sends again after a lost answer is the payment that it has signed already."""
    payment = world.payment(identifier="pay_0123456789abcdef")
    first = await world.pay(payment)
    again = await world.cashier.claim(payment, request=world.request(), body_hash="b")
    assert isinstance(again, Earlier)
    assert again.paid == first.settlement
    paying = world.cashier.claim(payment, request=world.request(), body_hash="other")
    assert await code_of(paying) is ProblemCode.IDEMPOTENCY_MISMATCH
    assert world.chain.settled == 1


async def test_a_copy_that_is_checked_while_the_first_lands_is_not_told_to_pay_again(
    world: Any,
) -> None:
    """To its facilitator it is used up; to its sender it is the payment that just bought."""
    payment = world.payment()

    async def verifies(_: EvmPayment) -> Declined:
        world.chain.verifies = None
        await world.pay(payment)
        return Declined(code=Code.ALREADY_USED, reason="it has landed before")

    world.chain.verifies = verifies
    assert await code_of(world.pay(payment)) is ProblemCode.PAYMENT_USED
    assert world.chain.settled == 1


async def test_the_same_bytes_without_an_identifier_are_refused(world: Any) -> None:
    payment = world.payment()
    await world.pay(payment)
    paying = world.cashier.claim(payment, request=world.request(), body_hash="b")
    assert await code_of(paying) is ProblemCode.PAYMENT_USED


async def test_the_same_identifier_with_another_body_is_refused(world: Any) -> None:
    name = "pay_0123456789abcdef"
    await world.pay(world.payment(identifier=name))
    paying = world.pay(world.payment(identifier=name), body_hash="other")
    assert await code_of(paying) is ProblemCode.IDEMPOTENCY_MISMATCH
    assert world.chain.settled == 1


async def test_two_payments_of_one_identifier_at_once_settle_one(world: Any) -> None:
    name = "pay_0123456789abcdef"
    told = await asyncio.gather(
        *(world.pay(world.payment(identifier=name)) for _ in range(8)), return_exceptions=True
    )
    assert len([one for one in told if not isinstance(one, BaseException)]) == 1
    assert world.chain.settled == 1


async def test_an_identifier_is_another_payers_own(world: Any) -> None:
    name = "pay_0123456789abcdef"
    await world.pay(world.payment(identifier=name))
    other = world.signed(payer="0x" + "bb" * 20)
    assert (await world.pay(world.payment(other, identifier=name))).opened is not None


async def test_an_identifier_whose_payment_failed_may_be_used_by_the_next(world: Any) -> None:
    name = "pay_0123456789abcdef"

    async def refuses(payment: EvmPayment) -> Declined:
        return Declined(code=Code.INSUFFICIENT_BALANCE, reason="too little")

    world.chain.settles = refuses
    await code_of(world.pay(world.payment(identifier=name)))
    world.chain.settles = None
    assert (await world.pay(world.payment(identifier=name))).opened is not None


async def test_who_read_a_landed_payment_on_the_chain_gets_nothing_for_it(world: Any) -> None:
    payment = world.payment()
    world.chain.settles = says_ambiguous
    await code_of(world.pay(payment, body_hash="mine"))
    world.chain.carry(payment.payload.payload["signed"])
    await world.reconciler.round()
    world.chain.settles = None
    assert await code_of(world.pay(payment, body_hash="theirs")) is ProblemCode.PAYMENT_USED
    assert await code_of(world.pay(payment, body_hash="")) is ProblemCode.PAYMENT_USED
    assert (await world.pay(payment, body_hash="mine")).opened is not None
    await world.mirrors_the_chain()
