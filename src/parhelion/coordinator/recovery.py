"""Closes the holds that nobody settles any more: what was journalled is billed, no more."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from parhelion.ledger import Bill, Ledger, OpenHold, price, split
from parhelion.payments import Gate

log = logging.getLogger("parhelion.coordinator")

REASON = "restart"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the holds that were found open."""

    posted: int
    voided: int
    failed: int


async def recover(ledger: Ledger, gate: Gate) -> Recovered:
    """Close every open hold that an earlier process left.

    Runs before the first request: an open hold then belongs to nobody alive.
    """
    return await close(ledger, gate, await ledger.open_holds(), REASON, set())


async def close(
    ledger: Ledger, gate: Gate, holds: Iterable[OpenHold], reason: str, told: set[str]
) -> Recovered:
    """Close holds, each in one unit with its key and its Idempotency-Key.

    One that cannot be closed is logged, once while `told` names it, and left for the next time;
    it blocks no other.
    """
    posted = voided = failed = 0
    for left in holds:
        try:
            if left.hold.accepted_ids > 0:
                await _post(ledger, gate, left, reason)
                posted += 1
            else:
                await ledger.void(left.hold, reason, gate.cut_also(left.hold, 0, None))
                voided += 1
        except Exception:
            failed += 1
            if left.hold.id not in told:
                told.add(left.hold.id)
                log.exception("hold not closed", extra={"hold": left.hold.id})
    if posted or voided:
        log.warning(
            "closed what an earlier process left" if reason == REASON else "closed what was left",
            extra={"posted": posted, "voided": voided, "failed": failed},
        )
    return Recovered(posted, voided, failed)


async def _post(ledger: Ledger, gate: Gate, left: OpenHold, reason: str) -> None:
    """Bill the last journalled count; the ids after it are the treasury's loss."""
    # A tier's rate is rounded up: all its tokens may come to one unit more than its price.
    most_micro = left.hold.amount_micro
    cost_micro = min(most_micro, price(left.rate, left.prompt_tokens, left.completion_tokens))
    bill = Bill(
        prompt_tokens=left.prompt_tokens,
        completion_tokens=left.completion_tokens,
        cost_micro=cost_micro,
        legs=split(cost_micro, ledger.shares, left.worked),
        reason=reason,
    )
    also = gate.cut_also(left.hold, cost_micro, left.hold.accepted_ids)
    await ledger.post(left.hold, bill, also)
