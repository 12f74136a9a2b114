"""What whoever brings a payment is told that is not taken: which one to send, and when."""

from __future__ import annotations

from parhelion.payments.facilitator.outcomes import Code
from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.x402.outside import FailedOnChain
from parhelion.words import Problem, ProblemCode

PENDING_RETRY_S = 2
"""When to ask again about a payment that is being settled."""


def another_body() -> Problem:
    """Its payment-identifier names another request."""
    return Problem(
        ProblemCode.IDEMPOTENCY_MISMATCH,
        "this payment-identifier came with another body before",
        hint="a new request needs a new payment-identifier; they are kept for 24 hours",
    )


def pending() -> Problem:
    """The chain has the word."""
    return Problem(
        ProblemCode.PAYMENT_PENDING,
        "this payment is being settled, and the chain has not told yet what became of it",
        hint="send the same payment again after Retry-After, no second one; "
        "what lands is credited in any case",
        retry_after_s=PENDING_RETRY_S,
    )


def declined(declined: Declined) -> Problem:
    """What a facilitator refused: 503 where it is our trouble, else 402."""
    if declined.is_ours:
        return unavailable(declined.reason)
    return Problem(
        ProblemCode.PAYMENT_REQUIRED,
        f"the payment was refused ({declined.code}): {declined.reason}",
        hint="nothing was taken; make a new payment of one of the offers",
    )


def uncovered(signed: Signed) -> Problem:
    """A wallet with more on its way than it holds."""
    return Problem(
        ProblemCode.PAYMENT_REQUIRED,
        f"the payment was refused ({Code.INSUFFICIENT_BALANCE}): other payments of {signed.payer} "
        "are on their way, and it holds too little for all of them",
        hint="nothing was taken; make a new payment when they have landed, or pay into the wallet",
    )


def too_many() -> Problem:
    """All places to settle are taken."""
    return Problem(
        ProblemCode.OVERLOADED,
        "too many payments are being settled",
        hint="nothing was taken; send the same payment again after Retry-After",
        retry_after_s=1,
    )


def failed(failed: FailedOnChain) -> Problem:
    """It was sent, and the chain says that it failed."""
    return Problem(
        ProblemCode.PAYMENT_REQUIRED,
        f"the payment failed on the chain: transaction {failed.transaction}",
        hint="nothing was taken; make a new payment of one of the offers",
    )


def unavailable(reason: str) -> Problem:
    """Nobody can check or settle payments now."""
    return Problem(
        ProblemCode.PAYMENT_UNAVAILABLE,
        f"payments cannot be settled now: {reason}",
        hint="nothing was taken; send the same payment again after Retry-After",
        retry_after_s=PENDING_RETRY_S,
    )
