"""One command, at most one payment: over lost answers, changed offers, refusals and limits."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from parhelion.payments.buyer import Bought
from parhelion.payments.buyer.purchase import Unpaid
from parhelion.payments.facilitator.payload import Payload, read_header
from parhelion.payments.x402.payload import accept
from parhelion.payments.x402.payload import read as read_payment
from parhelion.words import Problem, ProblemCode
from tests.unit.payments.buyer.sellers import (
    PRICE,
    FakeAnswer,
    Purse,
    Seller,
    evm_offer,
    required,
    sent,
    solana_offer,
)

OFFERS = (solana_offer, evm_offer)


def asks(*accepts: dict[str, Any], **more: Any) -> FakeAnswer:
    return FakeAnswer(402, {"PAYMENT-REQUIRED": required(*accepts, **more)})


def settled(transaction: str = "tx") -> dict[str, str]:
    told = {"success": True, "transaction": transaction, "network": "n", "payer": "p"}
    return {"PAYMENT-RESPONSE": base64.b64encode(json.dumps(told).encode()).decode()}


@pytest.mark.parametrize("offer", OFFERS)
def test_a_402_is_paid_once_and_the_answer_comes(purse: Purse, offer: Any) -> None:
    terms = offer()
    seller = Seller([asks(terms), FakeAnswer(200, settled())])
    answer, bought = purse.buyer().buy(seller.send)
    assert answer.status == 200 and bought.told is not None
    assert (bought.told.success, bought.told.transaction) == (True, "tx")
    (payment,) = sent(seller)
    assert payment["x402Version"] == 2 and payment["accepted"] == terms
    # Our own facilitator's rules take it, to the byte.
    assert isinstance(read_header(seller.payments[0]), Payload)
    assert bought.signed is not None and bought.signed.payment.amount_micro == PRICE
    assert purse.spending.left_micro("USDC.test", 10**7) == 10**7 - PRICE


def test_our_own_checkout_takes_the_payment_as_one_of_its_offer(purse: Purse) -> None:
    from parhelion.payments.x402.networks import as_local, known
    from parhelion.payments.x402.offers import PaymentRequired, Requirement, Resource
    from parhelion.payments.x402.prices import Price

    terms = evm_offer()
    declared = {"payment-identifier": {"info": {"required": False}}}
    seller = Seller([asks(terms, extensions=declared), FakeAnswer(200)])
    purse.buyer().buy(seller.send)
    ours = PaymentRequired(
        price=Price(kind="request", amount_micro=PRICE, words=""),
        accepts=(
            Requirement(
                scheme="exact",
                network=terms["network"],
                asset=terms["asset"],
                amount=terms["amount"],
                pay_to=terms["payTo"],
                max_timeout_seconds=60,
                extra=terms["extra"],
            ),
        ),
        resource=Resource(url=""),
        error="",
        hint="",
        extensions={},
    )
    network = as_local(known(terms["network"]))
    payment = accept(read_payment(seller.payments[0]), ours, {network.id: network})
    assert payment.identifier is not None and payment.identifier.startswith("pay_")


def test_what_costs_nothing_is_not_paid(purse: Purse) -> None:
    seller = Seller([FakeAnswer(200)])
    answer, bought = purse.buyer().buy(seller.send)
    assert answer.status == 200 and bought == Bought(signed=None, told=None)
    assert seller.payments == [] and not purse.spending.path.exists()


def test_who_says_no_signs_nothing(purse: Purse) -> None:
    seller = Seller([asks(evm_offer())])
    with pytest.raises(Problem) as caught:
        purse.buyer(says=False).buy(seller.send)
    assert caught.value.code is ProblemCode.CANCELLED
    assert seller.asked == 1 and not purse.spending.path.exists()


@pytest.mark.parametrize("offer", OFFERS)
def test_a_lost_connection_never_pays_twice(purse: Purse, offer: Any) -> None:
    seller = Seller([asks(offer()), None, None, FakeAnswer(200, settled())])
    answer, bought = purse.buyer().buy(seller.send)
    assert answer.status == 200 and bought.sendings == 3
    assert len(seller.payments) == 3 and len(set(seller.payments)) == 1
    assert purse.paused == [1, 2]
    assert purse.spending.left_micro("USDC.test", 10**7) == 10**7 - PRICE


def test_a_pending_payment_is_sent_again_as_it_is(purse: Purse) -> None:
    pending = FakeAnswer(503, {"Retry-After": "5"}, "payment pending")
    seller = Seller(
        [asks(evm_offer()), pending, FakeAnswer(409, {"Retry-After": "1"}), FakeAnswer(200)]
    )
    assert purse.buyer().buy(seller.send)[0].status == 200
    assert len(set(seller.payments)) == 1 and purse.paused == [5, 1]
    assert pending.closed


def test_a_seller_that_is_gone_for_good_ends_it_with_one_payment(purse: Purse) -> None:
    seller = Seller([asks(evm_offer()), *[None] * 9])
    with pytest.raises(Unpaid) as caught:
        purse.buyer().buy(seller.send)
    assert caught.value.code is ProblemCode.PAYMENT_PENDING
    assert "look at the chain" in caught.value.hint
    assert len(seller.payments) == 6 and len(set(seller.payments)) == 1


def test_a_changed_offer_after_the_payment_is_not_paid(purse: Purse) -> None:
    dearer = asks(evm_offer(amount="900000"), error="The payment was refused: wrong amount")
    seller = Seller([asks(evm_offer()), dearer, FakeAnswer(200)])
    with pytest.raises(Unpaid) as caught:
        purse.buyer().buy(seller.send)
    assert caught.value.code is ProblemCode.PAYMENT_INVALID
    assert "wrong amount" in caught.value.message
    assert len(seller.payments) == 1 and len(purse.shown) == 1
    # It was signed, so it may still be carried: the day has it.
    assert purse.spending.left_micro("USDC.test", 10**7) == 10**7 - PRICE


def test_a_second_402_says_the_settlements_own_reason(purse: Purse) -> None:
    told = {"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": ""}
    header = base64.b64encode(json.dumps(told).encode()).decode()
    seller = Seller([asks(evm_offer()), FakeAnswer(402, {"PAYMENT-RESPONSE": header})])
    with pytest.raises(Unpaid, match="insufficient_funds"):
        purse.buyer().buy(seller.send)


def test_an_error_after_the_payment_keeps_what_was_paid_in_sight(purse: Purse) -> None:
    seller = Seller([asks(evm_offer()), FakeAnswer(500, settled("0xabc"), "engine failed")])
    with pytest.raises(Unpaid) as caught:
        purse.buyer().buy(seller.send)
    assert "engine failed" in caught.value.message
    assert caught.value.bought.told is not None
    assert caught.value.bought.told.transaction == "0xabc"


def test_a_payment_over_the_days_rest_is_not_even_shown(purse: Purse) -> None:
    purse.spending.reserve("USDC.test", 95_000, 100_000)
    seller = Seller([asks(evm_offer())])
    with pytest.raises(Problem) as caught:
        purse.buyer(day=100_000).buy(seller.send)
    assert caught.value.code is ProblemCode.KEY_LIMIT_REACHED
    assert purse.shown == [] and seller.payments == []


def test_two_payments_count_against_one_day(purse: Purse) -> None:
    for _ in range(2):
        purse.buyer(day=2 * PRICE).buy(Seller([asks(evm_offer()), FakeAnswer(200)]).send)
    last = Seller([asks(evm_offer()), FakeAnswer(200)])
    with pytest.raises(Problem):
        purse.buyer(day=2 * PRICE).buy(last.send)
    assert last.payments == [] and [left for *_, left in purse.shown] == [20_000, 10_000]


def test_an_unreadable_record_stops_before_anything_is_signed(purse: Purse) -> None:
    purse.spending.path.touch(0o600)
    seller = Seller([asks(evm_offer())])
    with pytest.raises(Problem) as caught:
        purse.buyer().buy(seller.send)
    assert caught.value.code is ProblemCode.STORE_UNAVAILABLE
    assert purse.shown == [] and seller.payments == []


def test_the_day_is_written_before_the_payment_leaves(purse: Purse) -> None:
    left: list[int] = []

    class Looking(Seller):
        def send(self, more: Any) -> FakeAnswer:
            if more:
                left.append(purse.spending.left_micro("USDC.test", 10**7))
            return super().send(more)

    purse.buyer().buy(Looking([asks(evm_offer()), FakeAnswer(200)]).send)
    assert left == [10**7 - PRICE]


def test_an_offer_that_our_own_rules_would_refuse_is_not_sent(purse: Purse) -> None:
    # Too short to be settled safely: it would land after we had given up on it, or never.
    seller = Seller([asks(evm_offer(maxTimeoutSeconds=5))])
    with pytest.raises(Problem, match="cannot be paid safely"):
        purse.buyer().buy(seller.send)
    assert seller.payments == [] and not purse.spending.path.exists()


def test_a_fee_payer_that_is_the_payee_itself_is_seen(purse: Purse) -> None:
    payee = solana_offer()
    payee["extra"]["feePayer"] = payee["payTo"]
    seller = Seller([asks(payee), FakeAnswer(200)])
    # Its owner carries his own income: common, and harmless to who pays.
    assert purse.buyer().buy(seller.send)[0].status == 200
