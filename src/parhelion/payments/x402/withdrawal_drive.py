"""Drives the open withdrawals of one network to their end, also those of an earlier process.

Each step is safe to die after: what it decided on is read anew from the rows, and what was signed
is stored before it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from parhelion.payments.x402.outside import Expired, FailedOnChain, Landed, Unknown
from parhelion.payments.x402.payouts import Impossible, NotYet, Order, Payout, Signed
from parhelion.payments.x402.withdrawal_book import WithdrawalBook
from parhelion.payments.x402.withdrawal_rows import Withdrawal
from parhelion.payments.x402.withdrawal_states import WithdrawalEvent, WithdrawalState
from parhelion.words import Clock

log = logging.getLogger("parhelion.payments")

STEP_S = 25.0
"""A step is up to eight calls to the chain; a node that takes longer for them is asked later."""

FIRST_WAIT_S = 0.1
MOST_WAIT_S = 5.0
"""Looks are 0.1, 0.2, 0.4 ... 5 s apart: most land in a second or two, some are waited out."""

IDLE_S = 600.0
"""With nothing open: a fault that loses a wake-up costs ten minutes, not the withdrawal."""

PER_NETWORK = 8
"""Looks at one network at once; a public endpoint takes some ten calls a second."""

GIVE_UP_MS = 3600 * 1000
ATTEMPTS = 5
"""Whoever asked has the amount back within an hour where the chain takes nothing: no sooner than
the chain has said that what was signed can land no more."""


@dataclass(slots=True)
class _Pace:
    """When a withdrawal is looked at next, and when it was last sent; kept by this process only."""

    due_s: float = 0.0
    looks: int = 0
    sent_s: float = float("-inf")


class Drive:
    """One network; `wake` when there is a new one, `ended` is told of each that is at its end."""

    def __init__(
        self,
        book: WithdrawalBook,
        payout: Payout,
        clock: Clock,
        ended: Callable[[Withdrawal], None],
    ) -> None:
        self.wake = asyncio.Event()
        self._book = book
        self._payout = payout
        self._network = payout.network.id
        self._clock = clock
        self._ended = ended
        self._paces: dict[str, _Pace] = {}

    async def run(self) -> None:
        """Until cancelled; no failure ends it, for money waits on it."""
        while True:
            self.wake.clear()
            try:
                wait_s = await self.round()
            except Exception as error:
                # The store is busy or gone: rows wait, and so do we.
                log.warning("withdrawals could not be driven", exc_info=error)
                wait_s = MOST_WAIT_S
            try:
                async with asyncio.timeout(wait_s):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def round(self) -> float:
        """A step for each that is due; how long until the next is."""
        found = await self._book.open(self._network)
        self._paces = {one.id: self._paces.get(one.id, _Pace()) for one in found}
        now_s = self._clock.monotonic_s()
        due = [one for one in found if self._paces[one.id].due_s <= now_s]
        # One by one: what one is signed for is not there for the next.
        for one in due:
            if one.state is WithdrawalState.REQUESTED:
                await self._step(one)
        out = [one for one in due if one.state is not WithdrawalState.REQUESTED]
        for start in range(0, len(out), PER_NETWORK):
            await asyncio.gather(*map(self._step, out[start : start + PER_NETWORK]))
        now_s = self._clock.monotonic_s()
        return min((max(0.0, pace.due_s - now_s) for pace in self._paces.values()), default=IDLE_S)

    async def _step(self, found: Withdrawal) -> None:
        after = found
        try:
            async with asyncio.timeout(STEP_S):
                after = await self._after(found)
        except NotYet as why:
            log.info("%s waits: %s", found.id, why)
        except Exception as error:
            # A chain that does not answer says nothing, and a row that moved on is read again.
            log.warning("%s waits", found.id, exc_info=error)
            after = await self._given_up(found)
        pace = self._paces[found.id]
        if after.is_final:
            del self._paces[found.id]
            log.info("withdrawal ended", extra={"withdrawal": found.id, "state": after.state})
            self._ended(after)
            return
        pace.looks = pace.looks + 1 if after.state is found.state else 0
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(pace.looks, 10))
        pace.due_s = self._clock.monotonic_s() + wait_s

    async def _after(self, found: Withdrawal) -> Withdrawal:
        if found.state is WithdrawalState.REQUESTED:
            return await self._begin(found)
        signed = (await self._book.payouts(found))[0]
        sight = await self._payout.look(signed)
        match sight:
            case Landed():
                return await self._landed(found, sight)
            case FailedOnChain():
                event, reason = WithdrawalEvent.FAILED_ON_CHAIN, f"it failed: {sight.reason}"
                return await self._book.returned(found, event, reason, sight.transaction)
            case Expired():
                reason = "what was signed expired before it landed"
                return await self._book.noted(found, WithdrawalEvent.EXPIRED, reason)
            case Unknown():
                return await self._again(found, signed)
            case _:
                assert_never(sight)

    async def _begin(self, found: Withdrawal) -> Withdrawal:
        """Nothing of it is out: sign and send it, or give it back."""
        order = await self._order(found)
        landed = await self._payout.landed(order)
        if landed is not None:
            log.error("%s had landed already in %s", found.id, landed.transaction)
            return await self._landed(found, landed)
        if found.attempt >= ATTEMPTS or self._is_old(found):
            reason = "the chain did not take it in time"
            return await self._book.returned(found, WithdrawalEvent.GAVE_UP, reason)
        try:
            signed = await self._payout.sign(order)
        except Impossible as why:
            log.warning("%s is returned: %s", found.id, why)
            return await self._book.returned(found, WithdrawalEvent.IMPOSSIBLE, str(why))
        after = await self._book.signed(found, signed, WithdrawalEvent.SIGNED)
        return await self._sent(after, signed)

    async def _again(self, found: Withdrawal, signed: Signed) -> Withdrawal:
        """It is out and has not landed: send it once more, or first sign it anew."""
        pace = self._paces[found.id]
        if self._clock.monotonic_s() - pace.sent_s < self._payout.resend_s:
            return found
        if not self._payout.is_stale(signed):
            return await self._sent(found, signed)
        if self._is_old(found):
            # Left to expire: then it is given back.
            return found
        order = await self._order(found)
        landed = await self._payout.landed(order)
        if landed is not None:
            return await self._landed(found, landed)
        renewed = await self._payout.sign(order)
        after = await self._book.signed(found, renewed, WithdrawalEvent.RENEWED)
        return await self._sent(after, renewed)

    async def _sent(self, found: Withdrawal, signed: Signed) -> Withdrawal:
        self._paces[found.id].sent_s = self._clock.monotonic_s()
        was_taken = await self._payout.send(signed)
        if not was_taken:
            return found
        if found.state is WithdrawalState.SIGNED:
            found = await self._book.noted(found, WithdrawalEvent.BROADCAST)
        sight = await self._payout.look(signed)
        return await self._landed(found, sight) if isinstance(sight, Landed) else found

    async def _landed(self, found: Withdrawal, landed: Landed) -> Withdrawal:
        if landed.amount_micro < found.amount_micro:
            # No chain that we know does this; a person has to look, and nothing moves until then.
            log.error("%s brought %d in %s", found.id, landed.amount_micro, landed.transaction)
            return found
        return await self._book.confirmed(found, landed, self._payout.address)

    async def _order(self, found: Withdrawal) -> Order:
        committed_micro = await self._book.committed_micro(self._network)
        if found.state is not WithdrawalState.REQUESTED:
            committed_micro -= found.amount_micro
        return Order(
            id=found.id,
            wallet=found.wallet,
            amount_micro=found.amount_micro,
            committed_micro=committed_micro,
            may_open=await self._book.may_open(found),
        )

    async def _given_up(self, found: Withdrawal) -> Withdrawal:
        """Give back what was never signed, where the chain has been away for too long."""
        never_signed = found.state is WithdrawalState.REQUESTED and found.attempt == 0
        if not never_signed or not self._is_old(found):
            return found
        try:
            reason = "the chain could not be reached"
            return await self._book.returned(found, WithdrawalEvent.GAVE_UP, reason)
        except Exception as error:
            # Signed by the very step that failed, or the store is away: the rows tell next time.
            log.warning("%s was not returned", found.id, exc_info=error)
            return found

    def _is_old(self, found: Withdrawal) -> bool:
        return self._clock.now_ms() - found.requested_at_ms > GIVE_UP_MS
