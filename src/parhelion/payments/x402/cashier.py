"""Taking a payment: claim, settle, look at the chain, book; each step safe to die after.

The claim is durable before anything is sent. What is granted rests on our own reading of the chain.
A client that leaves does not stop a settlement: what landed is booked either way, only what it was
to buy is not opened then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from parhelion.payments.facilitator.outcomes import Ambiguous, Outcome
from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.facilitator.protocol import Facilitator
from parhelion.payments.x402 import claim_rows as rows
from parhelion.payments.x402.claim_book import ClaimBook, Opens, Paid
from parhelion.payments.x402.claim_rows import Claim
from parhelion.payments.x402.claims import ClaimEvent, ClaimState
from parhelion.payments.x402.outside import FailedOnChain, Landed, Reader, Sight
from parhelion.payments.x402.payload import Payment
from parhelion.store import Refused
from parhelion.words import Clock, Problem, ProblemCode, Record

log = logging.getLogger("parhelion.payments")

T = TypeVar("T")

VERIFY_S = 5.5
SETTLE_S = 15.5
"""A little over the budgets that facilitators keep themselves (5 and 15 s): together the 20 s of
DESIGN 7, after which no client waits to hear what became of its payment."""

LOOK_S = 5.0
LEAST_LOOK_S = 0.5
"""Our own look after it was said to be settled, out of what is left of SETTLE_S: the chain's node
may be a block behind."""

LOOK_AGAIN_S = 0.2
"""Half a slot of Solana: what is not there now may be there in the next."""

SETTLING_LIMIT = 256
"""Payments on their way at once; each holds a slot, and no chain lands more of ours a second."""

PENDING_RETRY_S = 2
"""When to ask again about a payment that is being settled."""


class Window(Record, frozen=True, kw_only=True):
    """The two that a network is dealt with through."""

    facilitator: Facilitator
    reader: Reader


class Earlier(Record, frozen=True, kw_only=True):
    """The same payment-identifier with the same body came before: this is what it bought."""

    request: str
    transaction: str


@dataclass(slots=True)
class _Waiter:
    """Whether somebody still waits for what the payment buys."""

    is_there: bool = True


class Cashier:
    """Takes payments of all networks; `pending` is set when the reconciler has new work."""

    def __init__(self, book: ClaimBook, windows: Mapping[str, Window], clock: Clock) -> None:
        self.pending = asyncio.Event()
        self._book = book
        self._windows = windows
        self._clock = clock
        self._settling: set[asyncio.Task[object]] = set()

    async def claim(
        self, payment: Payment, *, request: str, body_hash: str, account: str | None = None
    ) -> Claim | Earlier:
        """Check a payment and claim it for a request; nothing is sent yet.

        `account` is credited (the presented key's); None: the wallet that paid. Problem where it
        has bought something, is being settled, is refused, or cannot be checked. A payment that
        landed without its request (a crash, a client that left) is served to the same body; ""
        means that this body could be anybody's, so that it is credited only.
        """
        if len(self._settling) >= SETTLING_LIMIT:
            raise Problem(
                ProblemCode.OVERLOADED, "too many payments are being settled", retry_after_s=1
            )
        earlier = await self._book.find(payment.network.id, payment.key)
        if earlier is not None and earlier.state is not ClaimState.FAILED:
            return usable(earlier, body_hash)
        signed = await self._verified(payment)
        named = await self._named(payment, signed, body_hash)
        if named is not None:
            return named
        try:
            return await self._book.take(
                signed,
                request=request,
                asset=payment.network.asset,
                account=account,
                identifier=payment.identifier,
                body_hash=body_hash,
            )
        except Refused as refused:
            return await self._lost(refused, payment, signed, body_hash)

    async def release(self, claim: Claim, reason: str) -> None:
        """Give a claim up before it was settled: no slot was free, so nothing was sent."""
        if claim.state is ClaimState.CLAIMED:
            await self._book.end(claim, ClaimEvent.UNSENT, reason=reason)

    async def settle(self, claim: Claim, request: str, opens: Opens[T] | None) -> Paid[T]:
        """Settle a claim and open what it buys, in the unit that books it.

        Cancelled, the settlement goes on and is booked without what it was to buy.
        """
        waiter = _Waiter()
        task = asyncio.create_task(self._settle(claim, request, opens, waiter))
        self._settling.add(task)
        task.add_done_callback(self._settled)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter.is_there = False
            raise

    async def close(self) -> None:
        """Wait for what is under way; each has its own deadline."""
        while self._settling:
            await asyncio.wait(tuple(self._settling))

    async def _verified(self, payment: Payment) -> Signed:
        window = self._window(payment.network.id)
        try:
            async with asyncio.timeout(VERIFY_S):
                found = await window.facilitator.verify(payment.payload, payment.offer)
        except TimeoutError as error:
            raise _unavailable("the facilitator did not answer in time") from error
        if isinstance(found, Declined):
            raise _declined(found)
        terms = (found.network, found.key, found.amount_micro)
        if terms != (payment.network.id, payment.key, payment.offer.amount_micro):
            log.error("a facilitator verified another payment than it was given")
            raise _unavailable("the facilitator answered for another payment")
        return found

    async def _named(self, payment: Payment, signed: Signed, body_hash: str) -> Earlier | None:
        """What this payer's payment of the same name bought; None where it bought nothing yet."""
        if payment.identifier is None:
            return None
        found = await self._book.named(signed.payer, payment.identifier)
        if found is None or found[1].state is ClaimState.FAILED:
            return None
        earlier_hash, claim = found
        if earlier_hash != body_hash:
            raise Problem(
                ProblemCode.IDEMPOTENCY_MISMATCH,
                "this payment-identifier came with another body before",
                hint="a new request needs a new payment-identifier; they are kept for 24 hours",
            )
        if claim.granted is not None and claim.transaction is not None:
            return Earlier(request=claim.granted, transaction=claim.transaction)
        if claim.payment == payment.key:
            return None
        raise _pending(claim)

    async def _lost(
        self, refused: Refused, payment: Payment, signed: Signed, body_hash: str
    ) -> Claim | Earlier:
        """Somebody was faster by a moment: what became of theirs is what this one is told."""
        if refused.name == rows.NAME:
            named = await self._named(payment, signed, body_hash)
            if named is not None:
                return named
        claim = await self._book.find(payment.network.id, payment.key)
        if claim is not None and claim.state is not ClaimState.FAILED:
            return usable(claim, body_hash)
        raise Problem(
            ProblemCode.PAYMENT_PENDING,
            "many copies of this payment came at once",
            hint="send it once, and wait for the answer",
            retry_after_s=PENDING_RETRY_S,
        ) from refused

    async def _settle(
        self, claim: Claim, request: str, opens: Opens[T] | None, waiter: _Waiter
    ) -> Paid[T]:
        if claim.state is ClaimState.SETTLED:
            return await self._grant(claim, request, opens)
        window = self._window(claim.network)
        until_s = self._clock.monotonic_s() + SETTLE_S
        outcome = await self._outcome(window, claim)
        if isinstance(outcome, Declined):
            event = ClaimEvent.UNSENT if outcome.is_ours else ClaimEvent.REFUSED
            await self._book.end(
                claim, event, reason=str(outcome.code), transaction=outcome.transaction
            )
            raise _declined(outcome)
        if isinstance(outcome, Ambiguous):
            raise await self._postponed(claim, outcome.reason, outcome.transaction)
        left_s = max(LEAST_LOOK_S, min(LOOK_S, until_s - self._clock.monotonic_s()))
        sight = await self._seen(window, claim, outcome.transaction, left_s)
        if isinstance(sight, FailedOnChain):
            await self._book.end(
                claim,
                ClaimEvent.FAILED_ON_CHAIN,
                reason=sight.reason or "failed on the chain",
                transaction=sight.transaction,
            )
            raise _failed(sight)
        if not isinstance(sight, Landed):
            raise await self._postponed(claim, "not seen on the chain yet", outcome.transaction)
        return await self._booked(claim, request, sight, opens if waiter.is_there else None)

    async def _booked(
        self, claim: Claim, request: str, landed: Landed, opens: Opens[T] | None
    ) -> Paid[T]:
        try:
            return await self._book.book(claim, landed, opens)
        except Refused as refused:
            if refused.name not in (rows.SETTLE, "deposit"):
                raise
            found = await self._book.find(claim.network, claim.payment)
            if found is not None and found.state is ClaimState.SETTLED:
                # The reconciler was faster: the money is booked, and this request may have it.
                return await self._grant(found, request, opens)
            reason = f"{landed.transaction} is another payment's"
            raise await self._postponed(claim, reason, "") from refused

    async def _grant(self, claim: Claim, request: str, opens: Opens[T] | None) -> Paid[T]:
        if opens is None:
            raise _used(claim)
        try:
            return await self._book.grant(claim, request, opens)
        except Refused as refused:
            if refused.name != rows.GRANT:
                raise
            found = await self._book.find(claim.network, claim.payment)
            raise _used(found or claim) from refused

    async def _outcome(self, window: Window, claim: Claim) -> Outcome:
        """What the facilitator says; whatever it does instead of answering is ambiguous."""
        try:
            async with asyncio.timeout(SETTLE_S):
                return await window.facilitator.settle(claim.signed)
        except TimeoutError:
            return Ambiguous(reason="no answer in time")
        except Exception as error:
            log.warning("settling %s failed", claim.payment[:16], exc_info=error)
            return Ambiguous(reason=f"{type(error).__name__} while settling")

    async def _seen(
        self, window: Window, claim: Claim, transaction: str, wait_s: float
    ) -> Sight | None:
        """Our own look at what is said to have landed, for as long as it may lag behind."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    sight = await window.reader.find(claim.signed, transaction)
                    if isinstance(sight, Landed | FailedOnChain):
                        return sight
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            return None
        except Exception as error:
            # A chain that does not answer says nothing of the payment: the reconciler asks again.
            log.warning("looking %s up failed", transaction[:16], exc_info=error)
            return None

    async def _postponed(self, claim: Claim, reason: str, transaction: str) -> Problem:
        await self._book.end(claim, ClaimEvent.AMBIGUOUS, reason=reason, transaction=transaction)
        self.pending.set()
        return _pending(claim)

    def _window(self, network: str) -> Window:
        window = self._windows.get(network)
        if window is None:
            raise _unavailable(f"{network} is not dealt with any more")
        return window

    def _settled(self, task: asyncio.Task[object]) -> None:
        self._settling.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Problem | Refused):
            log.error("a settlement ended in an error", exc_info=error)


def usable(claim: Claim, body_hash: str) -> Claim:
    """A claim that is not failed, if it still buys something; Problem that says why not.

    What landed is public, signature and all: whoever read it on the chain must not get what it
    bought. The body is what only its sender knows.
    """
    if claim.state is not ClaimState.SETTLED:
        raise _pending(claim)
    is_its_sender = body_hash != "" and claim.body_hash == body_hash
    if claim.granted is not None or claim.landed_micro != claim.amount_micro or not is_its_sender:
        raise _used(claim)
    return claim


def _used(claim: Claim) -> Problem:
    if claim.granted is None:
        return Problem(
            ProblemCode.PAYMENT_USED,
            f"this payment was credited to your balance: transaction {claim.transaction}",
            hint="spend it by signing in with the wallet, or sign a new payment",
        )
    return Problem(
        ProblemCode.PAYMENT_USED,
        f"this payment has bought {claim.granted}: transaction {claim.transaction}",
        hint="sign a new payment for a new answer",
    )


def _pending(claim: Claim) -> Problem:
    return Problem(
        ProblemCode.PAYMENT_PENDING,
        "this payment is being settled, and the chain has not told yet what became of it",
        hint="send the same payment again after Retry-After, no second one; "
        "what lands is credited in any case",
        retry_after_s=PENDING_RETRY_S,
    )


def _declined(declined: Declined) -> Problem:
    if declined.is_ours:
        return _unavailable(declined.reason)
    return Problem(
        ProblemCode.PAYMENT_REQUIRED,
        f"the payment was refused ({declined.code}): {declined.reason}",
        hint="nothing was taken; make a new payment of one of the offers",
    )


def _failed(failed: FailedOnChain) -> Problem:
    return Problem(
        ProblemCode.PAYMENT_REQUIRED,
        f"the payment failed on the chain: transaction {failed.transaction}",
        hint="nothing was taken; make a new payment of one of the offers",
    )


def _unavailable(reason: str) -> Problem:
    return Problem(
        ProblemCode.PAYMENT_UNAVAILABLE,
        f"payments cannot be settled now: {reason}",
        hint="nothing was taken; send the same payment again after Retry-After",
        retry_after_s=PENDING_RETRY_S,
    )
