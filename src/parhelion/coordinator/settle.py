"""The end of an answer in the books: who owes what, the receipt, and exactly one post or void."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from parhelion.coordinator.answer import usage_of
from parhelion.coordinator.attempt import Attempt
from parhelion.coordinator.relay import End, Relay
from parhelion.hosts import backoff_s
from parhelion.identity import NodeKey
from parhelion.ledger import Bill, Ledger, Worked, price, split, tier_cost
from parhelion.payments import Gate, Outcome
from parhelion.proof import Receipts, seal_receipt
from parhelion.words import (
    AssetClass,
    Bought,
    Chunk,
    Clock,
    Evidence,
    Hold,
    Problem,
    ProblemCode,
    Receipt,
    Segment,
    Sold,
    Tier,
    kin,
)

log = logging.getLogger("parhelion.coordinator")

RECEIPT_VERSION = 1

PASSING = (ProblemCode.STORE_UNAVAILABLE, ProblemCode.OVERLOADED)
"""Problems of the store that a later try may not meet."""

_T = TypeVar("_T")


class Settler:
    """Posts or voids the hold of every answer, once, whatever happened to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        receipts: Receipts,
        gate: Gate,
        key: NodeKey,
        clock: Clock,
        asset_class: AssetClass,
    ) -> None:
        self._ledger = ledger
        self._receipts = receipts
        self._gate = gate
        self._key = key
        self._clock = clock
        self._asset_class = asset_class

    async def settle(self, relay: Relay, hold: Hold, end: End) -> tuple[Chunk | Problem, int]:
        """Close the books of an answer that ended so; what the client gets last, and the cost."""
        relay.flush()
        cost_micro = 0
        if owes(relay, end):
            receipt = await self._post(relay, hold, end)
            cost_micro = int(receipt.cost_micro)
            if end.problem is None:
                credited = str(unused_micro(relay.order.grant.bought, cost_micro))
                usage = usage_of(receipt, hold.id, credited=credited)
                return Chunk(finish_reason=receipt.finish_reason, usage=usage), cost_micro
        else:
            await self._void(relay, hold, end)
        return end.problem or Problem(ProblemCode.CANCELLED, "the client left"), cost_micro

    async def _post(self, relay: Relay, hold: Hold, end: End) -> Receipt:
        order = relay.order
        segments = [
            attempt.segment(await attempt.signature) for attempt in delivering(relay.attempts)
        ]
        bill = self.bill(relay, end)
        receipt, body = seal_receipt(self._key, self._receipt(relay, bill, tuple(segments)))
        # Only what we lost may run again: a client that leaves would else get reruns for nothing.
        outcome: Outcome = "cut" if end.kind == "lost" else "finished"
        also = [
            self._receipts.insert(receipt, order.grant.account, body),
            *self._gate.settle_also(
                order.grant, order.ask, hold, bill.cost_micro, outcome, relay.meter.accepted
            ),
        ]
        evidence = Evidence(
            receipt=receipt.id,
            opening=order.opening.hex(),
            prompt_ids=order.quote.prompt_ids,
            output_ids=tuple(relay.ids),
            text=relay.text,
        )
        # Before the books say "finished": who then sends the same key again is replayed from it.
        self._receipts.keep_evidence(evidence, order.grant.account)
        await self._written(relay, lambda: self._ledger.post(hold, bill, also))
        return receipt

    async def _void(self, relay: Relay, hold: Hold, end: End) -> None:
        order = relay.order
        also = self._gate.settle_also(order.grant, order.ask, hold, 0, "failed")
        reason = finish_reason(relay, end)
        await self._written(relay, lambda: self._ledger.void(hold, reason, also))

    async def _written(self, relay: Relay, write: Callable[[], Awaitable[_T]]) -> _T:
        """Write until the store takes it: the client is told at once, the books follow.

        A process that ends meanwhile leaves the hold to the next one's recovery.
        """
        failures = 0
        while True:
            try:
                return await write()
            except Problem as problem:
                if problem.code not in PASSING:
                    raise
                log.error(
                    "books not written, trying again",
                    extra={"request": relay.order.ask.request, "cause": str(problem)},
                )
                relay.end(problem)
                await asyncio.sleep(backoff_s(failures, 0.5))
                failures += 1

    def bill(self, relay: Relay, end: End) -> Bill:
        """Counts, cost and shares of what was delivered and not billed before."""
        grant, meter = relay.order.grant, relay.meter
        prompt_tokens = len(relay.order.quote.prompt_ids) if grant.unbilled_from is None else 0
        if grant.tier is None:
            cost_micro = price(grant.rate, prompt_tokens, meter.billable_tokens)
        else:
            cost_micro = tier_cost(
                grant.tier,
                meter.completion_tokens,
                is_whole=end.kind == "finished",
                was_left=finish_reason(relay, end) == ProblemCode.CANCELLED,
                already_billed=meter.completion_tokens - meter.billable_tokens,
            )
        worked = [
            Worked(
                operator=attempt.operator,
                output_ids=attempt.to - attempt.start,
            )
            for attempt in delivering(relay.attempts)
        ]
        return Bill(
            prompt_tokens=prompt_tokens,
            completion_tokens=meter.billable_tokens,
            cost_micro=cost_micro,
            legs=split(cost_micro, self._ledger.shares, worked),
            reason=finish_reason(relay, end),
        )

    def _receipt(self, relay: Relay, bill: Bill, segments: tuple[Segment, ...]) -> Receipt:
        order, meter = relay.order, relay.meter
        card, grant = order.quote.model, order.grant
        first_run = grant.unbilled_from is None
        return Receipt(
            v=RECEIPT_VERSION,
            id=kin("rcpt", order.ask.request),
            coordinator=self._key.peer,
            asset_class=str(self._asset_class),
            issued_at_ms=self._clock.now_ms(),
            model=card.id,
            artefact=card.digest,
            vocabulary=card.vocabulary_digest,
            template=card.template_digest,
            opening_hash=relay.hidden.opening_hash,
            prompt_hmac=relay.hidden.prompt_hmac,
            head=relay.head(),
            text_hmac=relay.hidden.text_hmac(relay.text),
            params=order.ask.params,
            seed=str(grant.seed),
            max_tokens=order.quote.max_tokens,
            prompt_tokens=len(order.quote.prompt_ids),
            completion_tokens=meter.completion_tokens,
            cached_tokens=relay.cached_tokens,
            silent_ids=meter.silent_ids,
            output_ids=meter.accepted,
            finish_reason=bill.reason,
            route="fallback" if any(one.fallback for one in delivering(relay.attempts)) else "pool",
            # Also where a node delivered nothing: its client waited for the next one.
            migrations=max(0, len(relay.attempts) - 1),
            rate=grant.rate,
            already_billed=None if first_run else meter.completion_tokens - meter.billable_tokens,
            sold=_sold(grant.tier),
            payment=_payment(grant.bought),
            cost_micro=str(bill.cost_micro),
            segments=segments,
        )


def _sold(tier: Tier | None) -> Sold | None:
    if tier is None:
        return None
    return Sold(tier=tier.name, price_micro=str(tier.price_micro), max_tokens=tier.max_tokens)


def _payment(bought: Bought | None) -> str | None:
    return None if bought is None else f"{bought.network}/{bought.transaction}"


def unused_micro(bought: Bought | None, cost_micro: int) -> int:
    """What a payment brought beyond the cost; it may be less, where a balance paid the rest."""
    return 0 if bought is None else max(0, bought.amount_micro - cost_micro)


def owes(relay: Relay, end: End) -> bool:
    """Whether anything is billed (DESIGN 6, "Delivered").

    A whole answer is. A client that left owes the prompt and what it got from the moment prefill
    is known to have begun: by the first id, or before it by our own engine's report, since a
    stranger's is no bill. Where we failed, the first byte that went out is that moment: never, for
    an unstreamed answer.
    """
    if end.kind == "finished":
        return True
    if end.kind == "left":
        return relay.prefilled or bool(relay.ids)
    return relay.taken > 0


def finish_reason(relay: Relay, end: End) -> str:
    """Why an answer ended, in a word for the books and for the client."""
    if end.kind == "finished":
        return relay.meter.finish or "stop"
    if end.problem is not None:
        return str(end.problem.code)
    return str(ProblemCode.CANCELLED)


def delivering(attempts: list[Attempt]) -> list[Attempt]:
    """The attempts that the output came from; the last one where none made any."""
    return [attempt for attempt in attempts if attempt.to > attempt.start] or attempts[-1:]
