"""Asks the chain what became of payments that nobody knows of: after a start, and until it tells.

Nothing is freed that may still land: neither while the chain's own node calls it valid, nor before
its time is over by our clock as well (`claims.may_still_land`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from parhelion.payments.x402.cashier import Window
from parhelion.payments.x402.claim_book import ClaimBook
from parhelion.payments.x402.claim_rows import Claim
from parhelion.payments.x402.claims import ClaimEvent, ClaimState, may_still_land
from parhelion.payments.x402.outside import Expired, FailedOnChain, Landed, Sight
from parhelion.store import Refused
from parhelion.words import Clock, Problem, Record

log = logging.getLogger("parhelion.payments")

FIND_S = 10.0
"""A chain's node that takes longer for one look is not asked more in this round."""

FIRST_WAIT_S = 2.0
MOST_WAIT_S = 60.0
"""Looks are 2, 4, 8 ... 60 s apart: most land within seconds, some are waited for for an hour."""

IDLE_S = 600.0
"""With nothing due: a fault that loses a wake-up costs ten minutes, not the payment."""

PER_NETWORK = 8
"""Looks at one network at once; a public endpoint takes some ten calls a second."""


class Round(Record, frozen=True, kw_only=True):
    """What one round came to."""

    settled: int = 0
    failed: int = 0
    waiting: int = 0
    unanswered: int = 0


class Reconciler:
    """Resolves claims from the chain; `run` in one task, or `round` by hand."""

    def __init__(
        self,
        book: ClaimBook,
        windows: Mapping[str, Window],
        clock: Clock,
        pending: asyncio.Event,
    ) -> None:
        self._book = book
        self._windows = windows
        self._clock = clock
        self._pending = pending

    async def run(self) -> None:
        """Look whenever something is due, until cancelled."""
        while True:
            self._pending.clear()
            try:
                await self.round()
                wait_s = await self._wait_s()
            except (Problem, OSError) as error:
                # The store is busy or gone: rows wait, and so do we.
                log.warning("payments could not be looked up", exc_info=error)
                wait_s = MOST_WAIT_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._pending.wait()
            except TimeoutError:
                continue

    async def round(self) -> Round:
        """Look up every claim that is due, once."""
        by_network: dict[str, list[Claim]] = {}
        for claim in await self._book.due():
            by_network.setdefault(claim.network, []).append(claim)
        kinds = await asyncio.gather(
            *(self._network(network, claims) for network, claims in by_network.items())
        )
        told = [kind for kinds_of_one in kinds for kind in kinds_of_one]
        return Round(
            settled=told.count("settled"),
            failed=told.count("failed"),
            waiting=told.count("waiting"),
            unanswered=told.count("unanswered"),
        )

    async def _network(self, network: str, claims: list[Claim]) -> list[str]:
        told: list[str] = []
        for start in range(0, len(claims), PER_NETWORK):
            batch = claims[start : start + PER_NETWORK]
            if "unanswered" in told:
                # It is down: the rest would only wait for it one deadline after another.
                told += [await self._later(claim, "unanswered") for claim in batch]
            else:
                told += await asyncio.gather(*(self._resolve(claim) for claim in batch))
        return told

    async def _resolve(self, claim: Claim) -> str:
        sight = await self._look(claim)
        if sight is None:
            return await self._later(claim, "unanswered")
        if isinstance(sight, Landed):
            return await self._landed(claim, sight)
        if claim.state is ClaimState.FAILED:
            return await self._still_failed(claim, sight)
        if isinstance(sight, Expired) and not self._may_still_land(claim):
            await self._book.end(claim, ClaimEvent.EXPIRED, reason="never landed, and expired")
            # A claim that nobody told of its end yet waits one round as pending.
            return "failed" if claim.state is ClaimState.PENDING else "waiting"
        if isinstance(sight, FailedOnChain):
            reason = sight.reason or "failed on the chain"
            await self._book.end(
                claim,
                ClaimEvent.FAILED_ON_CHAIN,
                reason=reason,
                transaction=sight.transaction,
                fee=self._fee(claim, sight),
            )
            return "failed"
        await self._urge(claim)
        return await self._later(claim, "waiting")

    def _fee(self, claim: Claim, failed: FailedOnChain) -> int:
        """What we paid for it; nothing where a remote facilitator sends."""
        window = self._windows.get(claim.network)
        return failed.fee if window is not None and window.is_embedded else 0

    async def _urge(self, claim: Claim) -> None:
        """What was sent for too low a fee is offered more for; the next look tells."""
        window = self._windows.get(claim.network)
        if window is None or window.urge is None:
            return
        try:
            async with asyncio.timeout(FIND_S):
                await window.urge(claim.signed)
        except TimeoutError:
            log.info("%s could not be urged in time", claim.payment[:16])
        except Exception as error:
            log.warning("urging %s failed", claim.payment[:16], exc_info=error)

    async def _look(self, claim: Claim) -> Sight | None:
        window = self._windows.get(claim.network)
        if window is None:
            log.warning("%s is configured no more; %s waits", claim.network, claim.payment[:16])
            return None
        try:
            async with asyncio.timeout(FIND_S):
                return await window.reader.find(claim.signed, claim.transaction)
        except TimeoutError:
            return None
        except Exception as error:
            log.warning("looking %s up failed", claim.payment[:16], exc_info=error)
            return None

    async def _landed(self, claim: Claim, landed: Landed) -> str:
        try:
            await self._book.book(claim, landed, None)
        except Refused as refused:
            # Booked by whoever was faster, or the transaction is another payment's.
            log.info("%s was not booked: %s", claim.payment[:16], refused)
            return await self._later(claim, "waiting")
        return "settled"

    async def _still_failed(self, claim: Claim, sight: Sight) -> str:
        """The second look at a failed claim: until it can land no more, then never again."""
        if isinstance(sight, FailedOnChain) or (
            isinstance(sight, Expired) and not self._may_still_land(claim)
        ):
            await self._book.looked(claim, None)
            return "failed"
        return await self._later(claim, "waiting")

    async def _later(self, claim: Claim, kind: str) -> str:
        now_ms = self._clock.now_ms()
        if claim.state is ClaimState.CLAIMED:
            # Overdue: whoever claimed it is stuck or gone, so the chain decides from now on.
            await self._book.end(claim, ClaimEvent.UNKNOWN, reason="settling took too long")
            return kind
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(claim.looks, 10))
        await self._book.looked(claim, now_ms + round(wait_s * 1000))
        return kind

    def _may_still_land(self, claim: Claim) -> bool:
        return may_still_land(
            signed_before_ms=claim.claimed_at_ms,
            valid_before_s=getattr(claim.signed, "valid_before_s", None),
            now_ms=self._clock.now_ms(),
            is_expired_there=True,
        )

    async def _wait_s(self) -> float:
        due_ms = await self._book.next_due_ms()
        if due_ms is None:
            return IDLE_S
        return min(IDLE_S, max(0.0, (due_ms - self._clock.now_ms()) / 1000))
