"""What a buyer does after each answer to a signed payment: a pure decision, never a second one.

A payment that was sent may land whatever was answered. So there are two ways on: the same bytes
once more, or the end; no answer leads to another signature.
"""

from __future__ import annotations

from enum import StrEnum

from parhelion.words import Record

SENDINGS_LIMIT = 6
"""The first one and five more, over about half a minute: a coordinator that restarts is back."""

WAIT_LIMIT_S = 10
"""What a seller's Retry-After is believed at most."""

FIRST_WAIT_S = 1
AWAY = frozenset({502, 503, 504})
"""Nobody was there to serve it, or its settlement is pending: the same payment may still be."""

BUSY = frozenset({409, 425, 429, 500})
"""The same, where the seller says when to come again; else it is final."""


class Attempt(StrEnum):
    """What came of one sending of the payment."""

    ANSWERED = "answered"
    LOST = "lost"
    """No answer: whether it arrived, nobody knows."""


class Step(StrEnum):
    """What to do now."""

    DELIVER = "deliver"
    AGAIN = "again"
    """Send the very same payment once more."""
    STOP = "stop"
    """Say what happened; whether it was paid is the chain's to say."""


class Verdict(Record, frozen=True, kw_only=True):
    """The next step, and how long to wait before it."""

    step: Step
    wait_s: int = 0


def next_step(attempt: Attempt, status: int, retry_after_s: int | None, sent: int) -> Verdict:
    """What follows the answer to the `sent`-th sending of one payment; `status` 0 where lost."""
    if attempt is Attempt.ANSWERED and 200 <= status < 300:
        return Verdict(step=Step.DELIVER)
    is_told = retry_after_s is not None and status in BUSY
    may_come = attempt is Attempt.LOST or status in AWAY or is_told
    if not may_come or sent >= SENDINGS_LIMIT:
        return Verdict(step=Step.STOP)
    asked_s = retry_after_s if retry_after_s is not None else FIRST_WAIT_S * 2 ** (sent - 1)
    return Verdict(step=Step.AGAIN, wait_s=max(FIRST_WAIT_S, min(asked_s, WAIT_LIMIT_S)))
