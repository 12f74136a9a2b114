"""One balance pays for what it covers, and burns no fee of ours, however many are signed for it.

The chain here has slots: within one, each payment passes its simulation by itself, and when it ends
they are applied one after the other. What fails then has cost its fee.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parhelion.payments.facilitator.outcomes import Code, EvmPayment, Settled, unavailable
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.x402 import Cashier, Window, cashier
from parhelion.payments.x402.losses import Loss
from parhelion.payments.x402.strangers import FAILED_AT_ONCE, FAILED_ON_CHAIN_TIMES
from parhelion.words import Problem, ProblemCode
from tests.unit.payments.x402.conftest import NETWORK

PAYER, OTHER = "0x" + "aa" * 20, "0x" + "bb" * 20
PRICE = 5_000
FEE = 60_000


class Slots:
    """Wallets on a chain whose slots end when a test says so."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.has = {PAYER: PRICE, OTHER: PRICE}
        self.waiting: list[tuple[EvmPayment, asyncio.Future[Any]]] = []
        self.sent = 0
        self.asked = 0
        self.is_deaf = False
        world.chain.verifies = self.verify
        world.chain.settles = self.settle
        window = Window(
            facilitator=world.chain, reader=world.chain, is_embedded=True, balance=self.balance
        )
        world.cashier = Cashier(world.book, {NETWORK.id: window}, world.clock)

    async def verify(self, payment: EvmPayment) -> Any:
        if self.has[payment.payer] < payment.amount_micro:
            return Declined(code=Code.INSUFFICIENT_BALANCE, reason="too little")
        return payment

    async def balance(self, payment: Any) -> int:
        self.asked += 1
        if self.is_deaf:
            raise unavailable(Code.CHAIN_UNAVAILABLE, "no answer")
        return self.has[payment.payer]

    async def settle(self, payment: EvmPayment) -> Any:
        self.sent += 1
        landed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((payment, landed))
        return await landed

    def end(self) -> None:
        """The slot ends."""
        for payment, landed in self.waiting:
            if self.has[payment.payer] < payment.amount_micro:
                code, transaction = Code.INSUFFICIENT_BALANCE, f"0x{payment.nonce[2:]}"
                failed = Declined(code=code, reason="no", transaction=transaction, fee=FEE)
                landed.set_result(failed)
                continue
            self.has[payment.payer] -= payment.amount_micro
            transaction = self.world.chain.carry(payment)
            done = Settled(transaction=transaction, landed_micro=payment.amount_micro)
            landed.set_result(done)
        self.waiting.clear()


@pytest.fixture
async def slots(world: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slots]:
    monkeypatch.setattr(cashier, "BALANCE_LOOKS_S", (0.0, 0.01, 0.01))
    made = Slots(world)
    yield made
    made.end()


def paying(slots: Slots, count: int, payer: str = PAYER, **more: Any) -> list[asyncio.Task[Any]]:
    world = slots.world
    payments = [world.payment(world.signed(PRICE, payer), **more) for _ in range(count)]
    return [asyncio.create_task(world.pay(each)) for each in payments]


async def ended(slots: Slots, tasks: list[asyncio.Task[Any]]) -> tuple[int, list[Problem]]:
    """How many were served, and what the others were told."""
    while any(not task.done() for task in tasks):
        await asyncio.sleep(0.03)
        slots.end()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    problems = [one for one in told if isinstance(one, Problem)]
    served = [one for one in told if not isinstance(one, BaseException)]
    assert len(served) + len(problems) == len(told), told
    return len(served), problems


async def test_five_that_race_for_money_for_one_send_one(slots: Slots) -> None:
    served, problems = await ended(slots, paying(slots, 5))
    assert (served, slots.sent) == (1, 1)
    assert {problem.code for problem in problems} == {ProblemCode.PAYMENT_REQUIRED}
    assert all("insufficient_balance" in problem.message for problem in problems)
    assert slots.world.book.losses.read() == ()


async def test_a_balance_for_three_pays_for_three(slots: Slots) -> None:
    slots.has[PAYER] = 3 * PRICE + PRICE // 2
    served, problems = await ended(slots, paying(slots, 9))
    assert (served, slots.sent, len(problems)) == (3, 3, 6)


async def test_what_has_landed_is_no_more_on_its_way(slots: Slots) -> None:
    slots.has[PAYER] = 2 * PRICE
    assert (await ended(slots, paying(slots, 1)))[0] == 1
    assert (await ended(slots, paying(slots, 1)))[0] == 1
    assert slots.asked == 0, "alone, the chain's own trial tells"


async def test_who_pays_alone_waits_for_nobody_else(slots: Slots) -> None:
    tasks = [*paying(slots, 4), *paying(slots, 1, OTHER)]
    served, _ = await ended(slots, tasks)
    assert served == 2
    assert tasks[-1].exception() is None


async def on_its_way(slots: Slots) -> Any:
    """The one payment that was sent, as soon as it was, and where its fate is told."""
    async with asyncio.timeout(5):
        while not slots.waiting:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    return slots.waiting.pop()


async def test_what_just_landed_is_not_counted_twice_for_long(slots: Slots) -> None:
    """It is gone from the balance before it is booked: the second look finds both done."""
    slots.has[PAYER] = 2 * PRICE
    first = paying(slots, 1)
    payment, landed = await on_its_way(slots)
    slots.has[PAYER] -= PRICE
    second = paying(slots, 1)
    while not slots.asked:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    transaction = slots.world.chain.carry(payment)
    landed.set_result(Settled(transaction=transaction, landed_micro=PRICE))
    assert (await ended(slots, [*first, *second]))[0] == 2


async def test_one_that_may_have_been_sent_is_on_its_way_until_the_chain_tells(
    slots: Slots,
) -> None:
    world = slots.world
    tasks = paying(slots, 1)
    _, landed = await on_its_way(slots)
    landed.set_exception(ConnectionResetError("in the middle of it"))
    with pytest.raises(Problem) as caught:
        await tasks[0]
    assert caught.value.code is ProblemCode.PAYMENT_PENDING
    served, problems = await ended(slots, paying(slots, 1))
    assert (served, problems[0].code, slots.sent) == (0, ProblemCode.PAYMENT_REQUIRED, 1)
    world.clock.advance(3600)
    await world.reconciler.round()
    await world.reconciler.round()
    assert (await ended(slots, paying(slots, 1)))[0] == 1


async def test_a_released_claim_is_not_on_its_way(slots: Slots) -> None:
    world = slots.world
    claim = await world.cashier.claim(world.payment(), request=world.request(), body_hash="b")
    await world.cashier.release(claim, "no slot")
    assert (await ended(slots, paying(slots, 1)))[0] == 1


async def test_where_the_chain_does_not_tell_the_balance_it_is_503_and_nothing_is_sent(
    slots: Slots,
) -> None:
    slots.is_deaf = True
    served, problems = await ended(slots, paying(slots, 3))
    assert (served, slots.sent) == (1, 1)
    assert {problem.code for problem in problems} == {ProblemCode.PAYMENT_UNAVAILABLE}


async def test_copies_of_one_payment_are_not_told_to_pay_again(slots: Slots) -> None:
    world = slots.world
    payment = world.payment()
    tasks = [asyncio.create_task(world.pay(payment)) for _ in range(5)]
    served, problems = await ended(slots, tasks)
    assert served == 1
    assert ProblemCode.PAYMENT_REQUIRED not in {problem.code for problem in problems}


async def test_nor_are_two_of_one_name(slots: Slots) -> None:
    served, problems = await ended(slots, paying(slots, 3, identifier="pay_0123456789abcdef"))
    assert (served, slots.sent) == (1, 1)
    assert {problem.code for problem in problems} <= {
        ProblemCode.PAYMENT_PENDING,
        ProblemCode.IDEMPOTENCY_MISMATCH,
    }


async def test_a_fee_that_was_paid_for_nothing_is_counted(slots: Slots) -> None:
    tasks = paying(slots, 1)
    await asyncio.sleep(0.03)
    slots.has[PAYER] = 0  # Spent elsewhere in the same slot.
    served, problems = await ended(slots, tasks)
    assert (served, problems[0].code) == (0, ProblemCode.PAYMENT_REQUIRED)
    assert slots.world.book.losses.read() == (Loss(network=NETWORK.id, payments=1, fees=FEE),)


async def test_an_address_that_burns_our_fees_waits(slots: Slots) -> None:
    world, told = slots.world, []
    for _ in range(int(FAILED_AT_ONCE / FAILED_ON_CHAIN_TIMES) + 1):
        slots.has[PAYER] = PRICE
        request, address = world.request(), "192.0.2.1"
        try:
            claim = await world.cashier.claim(
                world.payment(), request=request, body_hash="b", address=address
            )
        except Problem as problem:
            told.append(problem.code)
            continue
        settling = asyncio.create_task(world.cashier.settle(claim, request, None, address))
        await asyncio.sleep(0.01)
        slots.has[PAYER] = 0
        slots.end()
        with pytest.raises(Problem):
            await settling
    assert told == [ProblemCode.RATE_LIMITED]


async def test_many_that_were_claimed_at_once_are_not_all_settled_at_once(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each found a place free when it was checked; where settling begins it is looked at again."""
    monkeypatch.setattr(cashier, "SETTLING_LIMIT", 2)
    slots.has[PAYER] = 100 * PRICE
    world = slots.world
    claims = [
        (await world.cashier.claim(world.payment(), request=f"req_{n}", body_hash="b"), f"req_{n}")
        for n in range(4)
    ]
    tasks = [
        asyncio.create_task(world.cashier.settle(claim, request, None)) for claim, request in claims
    ]
    served, problems = await ended(slots, tasks)
    assert (served, slots.sent) == (2, 2)
    assert {problem.code for problem in problems} == {ProblemCode.OVERLOADED}
    states = [(await world.book.find(NETWORK.id, claim.payment)).state for claim, _ in claims]
    assert sorted(states) == ["failed", "failed", "settled", "settled"]
