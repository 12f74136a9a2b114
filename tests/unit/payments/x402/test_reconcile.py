"""The reconciler: what nobody knows of is asked of the chain, and nothing is freed too early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.payments.facilitator.outcomes import Ambiguous, Code, EvmPayment
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.x402 import FailedOnChain, Reconciler, Round, Window
from parhelion.words import Problem, ProblemCode


async def ambiguous(world: Any, lands: bool = False) -> Any:
    """A payment that was sent, and whose facilitator said nothing sure."""
    payment = world.payment()

    async def says(signed: EvmPayment) -> Ambiguous:
        if lands:
            world.chain.carry(signed)
        return Ambiguous(reason="timeout")

    world.chain.settles = says
    with pytest.raises(Problem) as caught:
        await world.pay(payment)
    assert caught.value.code is ProblemCode.PAYMENT_PENDING
    world.chain.settles = None
    return payment


async def test_what_landed_is_credited_and_buys_its_answer_once(world: Any) -> None:
    payment = await ambiguous(world, lands=True)
    assert await world.reconciler.round() == Round(settled=1)
    assert await world.has(await world.wallet()) == (5_000, 0)
    assert (await world.pay(payment)).opened is not None
    with pytest.raises(Problem):
        await world.pay(payment)
    assert world.chain.settled == 1
    await world.mirrors_the_chain()


async def test_what_failed_on_the_chain_is_released(world: Any) -> None:
    payment = await ambiguous(world)
    world.chain.failed[payment.key] = FailedOnChain(transaction="0x" + "44" * 32)
    assert await world.reconciler.round() == Round(failed=1)
    assert await world.state(payment) == "failed"


async def test_what_may_still_land_is_never_freed(world: Any) -> None:
    payment = await ambiguous(world)
    while world.clock.now_ms() // 1000 <= payment_end_s(world, payment) + 30:
        await world.reconciler.round()
        assert await world.state(payment) == "pending"
        world.clock.advance(7)
    world.clock.advance(60)
    assert await world.reconciler.round() == Round(failed=1)
    assert await world.state(payment) == "failed"


def payment_end_s(world: Any, payment: Any) -> int:
    return int(payment.payload.payload["signed"].valid_before_s)


async def test_a_chain_that_is_away_frees_nothing_however_long(world: Any) -> None:
    payment = await ambiguous(world)
    world.chain.is_away = True
    for _ in range(20):
        world.clock.advance(600)
        assert (await world.reconciler.round()).unanswered == 1
    assert await world.state(payment) == "pending"


async def test_looks_come_further_apart_up_to_a_minute(world: Any) -> None:
    await ambiguous(world)
    world.chain.is_behind = True
    waits: list[int] = []
    for _ in range(8):
        await world.reconciler.round()
        due_ms = await world.book.next_due_ms()
        waits.append((due_ms - world.clock.now_ms()) // 1000)
        world.clock.advance(waits[-1])
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


async def test_a_chain_that_hangs_costs_one_deadline_and_not_one_a_claim(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        await ambiguous(world)
    world.chain.looked = 0

    async def hangs(payment: Any, transaction: Any) -> Any:
        world.chain.looked += 1
        await asyncio.sleep(60)

    monkeypatch.setattr(world.chain, "find", hangs)
    monkeypatch.setattr("parhelion.payments.x402.reconcile.FIND_S", 0.05)
    assert await world.reconciler.round() == Round(unanswered=20)
    assert world.chain.looked == 8


async def test_a_crash_between_claim_and_settle_leaves_the_chain_to_tell(world: Any) -> None:
    sent, unsent = world.payment(), world.payment()
    for payment in (sent, unsent):
        await world.cashier.claim(payment, request=world.request(), body_hash="b")
    world.chain.carry(sent.payload.payload["signed"])
    again = await world.restart()
    assert await again.state(unsent) == "pending"
    assert await again.reconciler.round() == Round(settled=1, waiting=1)
    assert await again.has(await again.wallet()) == (5_000, 0)
    assert (await again.pay(sent)).opened is not None
    again.clock.advance(200)
    assert await again.reconciler.round() == Round(failed=1)
    assert await again.state(unsent) == "failed"
    await again.mirrors_the_chain()
    await again.store.close()


async def test_a_claim_whose_settling_hangs_is_the_chains_after_two_minutes(world: Any) -> None:
    payment = world.payment()
    claim = await world.cashier.claim(payment, request=world.request(), body_hash="b")
    assert await world.reconciler.round() == Round()
    world.clock.advance(121)
    world.chain.is_behind = True
    assert await world.reconciler.round() == Round(waiting=1)
    assert await world.state(payment) == "pending"
    assert claim.state == "claimed"


async def test_a_facilitator_that_lied_about_a_refusal_costs_the_payer_nothing(world: Any) -> None:
    payment = world.payment()

    async def lies(signed: EvmPayment) -> Declined:
        world.chain.carry(signed)
        return Declined(code=Code.FACILITATOR_REFUSED, reason="no")

    world.chain.settles = lies
    with pytest.raises(Problem):
        await world.pay(payment)
    assert await world.state(payment) == "failed"
    world.clock.advance(200)
    assert await world.reconciler.round() == Round(settled=1)
    assert await world.has(await world.wallet()) == (5_000, 0)
    await world.mirrors_the_chain()


async def test_a_failed_claim_is_looked_up_once_more_and_then_left_alone(world: Any) -> None:
    payment = world.payment()

    async def refuses(signed: EvmPayment) -> Declined:
        return Declined(code=Code.INSUFFICIENT_BALANCE, reason="too little")

    world.chain.settles = refuses
    with pytest.raises(Problem):
        await world.pay(payment)
    world.clock.advance(200)
    assert await world.reconciler.round() == Round(failed=1)
    assert await world.book.next_due_ms() is None


async def test_reconciler_and_cashier_at_once_book_one_payment_once(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment, request = world.payment(), world.request()
    claim = await world.cashier.claim(payment, request=request, body_hash="b")
    world.clock.advance(121)
    world.chain.carry(payment.payload.payload["signed"])
    paid, told = await asyncio.gather(
        world.cashier.settle(claim, request, world.hold(request)), world.reconciler.round()
    )
    assert paid.opened is not None, "whoever booked it, the request has its answer"
    assert told.settled + told.waiting == 1
    assert await world.has(await world.wallet()) == (0, 5_000)
    await world.mirrors_the_chain()


async def test_the_loop_wakes_for_a_new_pending_payment_and_not_before(world: Any) -> None:
    loop = asyncio.create_task(world.reconciler.run())
    await asyncio.sleep(0.05)
    assert world.chain.looked == 0
    payment = await ambiguous(world, lands=True)
    async with asyncio.timeout(5):
        while await world.state(payment) != "settled":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_claimed_against_landed_is_told_by_network_and_state(world: Any) -> None:
    await world.pay(world.payment())
    await ambiguous(world)
    told = {
        row.state: (row.claims, row.claimed_micro, row.landed_micro)
        for row in await world.book.totals()
    }
    assert told == {"settled": (1, 5_000, 5_000), "pending": (1, 5_000, 0)}


@pytest.mark.parametrize("fails", [False, True])
async def test_what_waits_is_urged_and_what_that_says_decides_nothing(
    world: Any, fails: bool
) -> None:
    urged: list[str] = []

    async def urge(payment: Any) -> None:
        urged.append(payment.key)
        if fails:
            raise OSError("no route to the chain")

    payment = await ambiguous(world)
    window = Window(facilitator=world.chain, reader=world.chain, urge=urge)
    windows = {payment.network.id: window}
    reconciler = Reconciler(world.book, windows, world.clock, world.cashier.pending)
    assert await reconciler.round() == Round(waiting=1)
    assert urged == [payment.key]
    world.chain.carry(payment.payload.payload["signed"])
    world.clock.advance(60)
    assert await reconciler.round() == Round(settled=1)
    assert urged == [payment.key], "what has landed is left alone"
