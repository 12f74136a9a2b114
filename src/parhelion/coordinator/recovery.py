"""Closes the holds that an earlier process left open: what was journalled is billed, no more."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from parhelion.ledger import Bill, Ledger, OpenHold, price, split
from parhelion.payments import Gate
from parhelion.words import Problem

log = logging.getLogger("parhelion.coordinator")

REASON = "restart"


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many open holds were found, and what became of them."""

    posted: int
    voided: int
    failed: int


async def recover(ledger: Ledger, gate: Gate) -> Recovered:
    """Close every open hold, each in one unit with its key and its Idempotency-Key.

    Runs before the first request: an open hold then belongs to nobody alive. One that cannot be
    closed is logged and left for the next start; it blocks no other.
    """
    posted = voided = failed = 0
    for left in await ledger.open_holds():
        try:
            if left.hold.accepted_ids > 0:
                await _post(ledger, gate, left)
                posted += 1
            else:
                await ledger.void(left.hold, REASON, gate.cut_also(left.hold, 0, None))
                voided += 1
        except Problem as problem:
            failed += 1
            log.error("hold not closed", extra={"hold": left.hold.id, "cause": str(problem)})
    if posted or voided or failed:
        log.warning(
            "closed what an earlier process left",
            extra={"posted": posted, "voided": voided, "failed": failed},
        )
    return Recovered(posted, voided, failed)


async def _post(ledger: Ledger, gate: Gate, left: OpenHold) -> None:
    """Bill the last journalled count; the ids after it are the treasury's loss."""
    cost_micro = price(left.rate, left.prompt_tokens, left.completion_tokens)
    bill = Bill(
        prompt_tokens=left.prompt_tokens,
        completion_tokens=left.completion_tokens,
        cost_micro=cost_micro,
        legs=split(cost_micro, ledger.shares, left.worked),
        reason=REASON,
    )
    also = gate.cut_also(left.hold, cost_micro, left.hold.accepted_ids)
    await ledger.post(left.hold, bill, also)
