"""Taking a payment: claim, settle, look at the chain, book; each step safe to die after.

The claim is durable before anything is sent. What is granted rests on our own reading of the chain.
A client that leaves does not stop a settlement: what landed is booked either way, only what it was
to buy is not opened then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from parhelion.payments.facilitator.outcomes import Ambiguous, Outcome
from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.facilitator.protocol import Facilitator
from parhelion.payments.x402 import claim_rows as rows
from parhelion.payments.x402 import refusals
from parhelion.payments.x402.claim_book import ClaimBook, Opens, Paid, Settlement, Unopened
from parhelion.payments.x402.claim_rows import Claim
from parhelion.payments.x402.claims import ClaimEvent, ClaimState
from parhelion.payments.x402.outside import FailedOnChain, Landed, Reader, Sight
from parhelion.payments.x402.payload import Payment
from parhelion.payments.x402.readers import sight_of
from parhelion.payments.x402.strangers import FAILED_ON_CHAIN_TIMES, Strangers
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

BALANCE_LOOKS_S = (0.0, 0.5, 1.0)
"""What has just landed is gone from the balance, and counted as on its way until it is confirmed
and booked: so whoever seems to have too little is looked at again after these waits."""


class Window(Record, frozen=True, kw_only=True):
    """The two that a network is dealt with through.

    Where the facilitator is embedded, what it says has landed is our own reading of this chain, by
    the same rules as the reader's: it is not read a second time. `urge` helps along a payment that
    was sent and waits, where a chain's fees rise; its word is not asked. `balance` is what the
    wallet of a payment holds, or a Problem where the chain does not tell; without it nobody's
    payments are held against his balance.
    """

    facilitator: Facilitator
    reader: Reader
    is_embedded: bool = False
    balance: Callable[[Signed], Awaitable[int]] | None = None
    urge: Callable[[Signed], Awaitable[None]] | None = None


class Earlier(Record, frozen=True, kw_only=True):
    """The same payment-identifier with the same body came before: this is what it bought."""

    request: str
    paid: Settlement


class Used(Problem):
    """The payment has bought something, or was credited."""

    def __init__(self, claim: Claim) -> None:
        what = "was credited to your balance"
        hint = "spend it by signing in with the wallet, or sign a new payment"
        if claim.granted is not None:
            what, hint = f"has bought {claim.granted}", "sign a new payment for a new answer"
        message = f"this payment {what}: transaction {claim.transaction}"
        super().__init__(ProblemCode.PAYMENT_USED, message, hint=hint)
        self.claim = claim


@dataclass(slots=True)
class _Waiter:
    """Who waits for what the payment buys, and whether he still does."""

    address: str = ""
    is_there: bool = True


class Cashier:
    """Takes payments of all networks; `pending` is set when the reconciler has new work."""

    def __init__(self, book: ClaimBook, windows: Mapping[str, Window], clock: Clock) -> None:
        self.pending = asyncio.Event()
        self._book = book
        self._windows = windows
        self._clock = clock
        self._settling: set[asyncio.Task[object]] = set()
        self._strangers = Strangers(clock)

    async def claim(
        self,
        payment: Payment,
        *,
        request: str,
        body_hash: str,
        account: str | None = None,
        address: str = "",
    ) -> Claim | Earlier:
        """Check a payment and claim it for a request; nothing is sent yet.

        `account` is credited (the presented key's); None: the wallet that paid. Problem where it
        has bought something, is being settled, is refused, or cannot be checked. A payment that
        landed without its request (a crash, a client that left) is served to the same body; ""
        means that this body could be anybody's, so that it is credited only. `address` is where
        it comes from, "" where that is not known.
        """
        if len(self._settling) >= SETTLING_LIMIT:
            raise refusals.too_many()
        known = await self._known(payment, body_hash)
        if known is not None:
            return known
        try:
            async with self._strangers.checking(payment.network.id, address):
                signed = await self._verified(payment)
        except Problem:
            # A copy of it may have been claimed meanwhile, and landed: whoever sent this one must
            # hear of that, and not that it is to pay again.
            known = await self._known(payment, body_hash)
            if known is None:
                raise
            return known
        named = await self._named(payment, signed, body_hash)
        if named is not None:
            return named
        take = functools.partial(
            self._book.take,
            signed,
            request=request,
            asset=payment.network.asset,
            account=account,
            identifier=payment.identifier,
            body_hash=body_hash,
        )
        try:
            return await self._covered(signed, address, take)
        except Refused as refused:
            return await self._lost(refused, payment, signed, body_hash)

    async def release(self, claim: Claim, reason: str) -> None:
        """Give a claim up before it was settled: no slot was free, so nothing was sent."""
        if claim.state is ClaimState.CLAIMED:
            await self._book.end(
                claim, ClaimEvent.UNSENT, reason=reason, was_seen=self._was_seen(claim)
            )

    async def settle(
        self, claim: Claim, request: str, opens: Opens[T] | None, address: str = ""
    ) -> Paid[T]:
        """Settle a claim and open what it buys, in the unit that books it.

        Cancelled, the settlement goes on and is booked without what it was to buy.
        """
        if claim.state is ClaimState.CLAIMED and len(self._settling) >= SETTLING_LIMIT:
            # As many as were verified at once have come here at once.
            await self.release(claim, "too many are being settled")
            raise refusals.too_many()
        waiter = _Waiter(address)
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

    async def _known(self, payment: Payment, body_hash: str) -> Claim | Earlier | None:
        """What the very same payment is told that came before; None where it may be claimed."""
        claim = await self._book.find(payment.network.id, payment.key)
        if claim is None or claim.state is ClaimState.FAILED:
            return None
        return _same_again(claim, payment, body_hash) or usable(claim, body_hash)

    async def _verified(self, payment: Payment) -> Signed:
        window = self._window(payment.network.id)
        try:
            async with asyncio.timeout(VERIFY_S):
                found = await window.facilitator.verify(payment.payload, payment.offer)
        except TimeoutError as error:
            raise refusals.unavailable("the facilitator did not answer in time") from error
        if isinstance(found, Declined):
            raise refusals.declined(found)
        terms = (found.network, found.key, found.amount_micro)
        if terms != (payment.network.id, payment.key, payment.offer.amount_micro):
            log.error("a facilitator verified another payment than it was given")
            raise refusals.unavailable("the facilitator answered for another payment")
        return found

    async def _covered(
        self, signed: Signed, address: str, take: Callable[..., Awaitable[Claim]]
    ) -> Claim:
        """The claim, where the wallet's balance covers all of its payments that are on their way.

        The chain tries each out by itself: of ten for the same money all ten would be sent, nine
        of them fail, and we pay the network for them. Problem where it covers them not; Refused.
        """
        balance = self._window(signed.network).balance
        if balance is None:
            return await take()
        try:
            # By itself it is covered: that was tried out just now.
            return await take(covers_micro=signed.amount_micro)
        except Refused as refused:
            if refused.name != rows.IN_FLIGHT:
                raise
        for wait_s in BALANCE_LOOKS_S:
            await asyncio.sleep(wait_s)
            async with self._strangers.checking(signed.network, address):
                has_micro = await self._balance(balance, signed)
            try:
                return await take(covers_micro=has_micro)
            except Refused as refused:
                if refused.name != rows.IN_FLIGHT:
                    raise
        self._strangers.failed(address)
        raise refusals.uncovered(signed)

    async def _balance(self, ask: Callable[[Signed], Awaitable[int]], signed: Signed) -> int:
        try:
            async with asyncio.timeout(VERIFY_S):
                return await ask(signed)
        except TimeoutError as error:
            raise refusals.unavailable("the chain did not answer in time") from error

    async def _named(self, payment: Payment, signed: Signed, body_hash: str) -> Earlier | None:
        """What this payer's payment of the same name bought; None where it bought nothing yet."""
        if payment.identifier is None:
            return None
        found = await self._book.named(signed.payer, payment.identifier)
        if found is None or found[1].state is ClaimState.FAILED:
            return None
        earlier_hash, claim = found
        if earlier_hash != body_hash:
            raise refusals.another_body()
        if (bought := earlier_of(claim)) is not None:
            return bought
        if claim.payment == payment.key:
            return None
        raise refusals.pending()

    async def _lost(
        self, refused: Refused, payment: Payment, signed: Signed, body_hash: str
    ) -> Claim | Earlier:
        """Somebody was faster by a moment: what became of theirs is what this one is told."""
        if refused.name == rows.NAME:
            named = await self._named(payment, signed, body_hash)
            if named is not None:
                return named
        known = await self._known(payment, body_hash)
        if known is not None:
            return known
        raise Problem(
            ProblemCode.PAYMENT_PENDING,
            "many copies of this payment came at once",
            hint="send it once, and wait for the answer",
            retry_after_s=refusals.PENDING_RETRY_S,
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
                claim,
                event,
                reason=str(outcome.code),
                transaction=outcome.transaction,
                was_seen=event is not ClaimEvent.UNSENT or self._was_seen(claim),
                fee=self._lost_fee(window, outcome, waiter),
            )
            raise refusals.declined(outcome)
        if isinstance(outcome, Ambiguous):
            raise await self._postponed(claim, outcome.reason, outcome.transaction)
        if window.is_embedded and outcome.landed_micro is not None:
            sight = sight_of(claim.signed, outcome)
        else:
            left_s = max(LEAST_LOOK_S, min(LOOK_S, until_s - self._clock.monotonic_s()))
            sight = await self._seen(window, claim, outcome.transaction, left_s)
        if isinstance(sight, FailedOnChain):
            await self._book.end(
                claim,
                ClaimEvent.FAILED_ON_CHAIN,
                reason=sight.reason or "failed on the chain",
                transaction=sight.transaction,
                fee=self._lost_fee(window, sight, waiter),
            )
            raise refusals.failed(sight)
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
            raise Used(claim)
        try:
            return await self._book.grant(claim, request, opens)
        except Refused as refused:
            if refused.name != rows.GRANT:
                raise
            found = await self._book.find(claim.network, claim.payment)
            raise Used(found or claim) from refused

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
        return refusals.pending()

    def _lost_fee(self, window: Window, failed: Declined | FailedOnChain, waiter: _Waiter) -> int:
        """What we paid for one that failed on the chain, which counts against where it is from."""
        if not failed.transaction:
            return 0
        self._strangers.failed(waiter.address, FAILED_ON_CHAIN_TIMES)
        return failed.fee if window.is_embedded else 0

    def _was_seen(self, claim: Claim) -> bool:
        """Whether an unsent payment was shown to somebody else, who might carry it all the same."""
        window = self._windows.get(claim.network)
        return window is None or not window.is_embedded

    def _window(self, network: str) -> Window:
        window = self._windows.get(network)
        if window is None:
            raise refusals.unavailable(f"{network} is not dealt with any more")
        return window

    def _settled(self, task: asyncio.Task[object]) -> None:
        self._settling.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Problem | Refused | Unopened):
            log.error("a settlement ended in an error", exc_info=error)


def usable(claim: Claim, body_hash: str) -> Claim:
    """A claim that is not failed, if it still buys something; Problem that says why not.

    What landed is public, signature and all: whoever read it on the chain must not get what it
    bought. The body is what only its sender knows.
    """
    if claim.state is not ClaimState.SETTLED:
        raise refusals.pending()
    is_its_sender = body_hash != "" and claim.body_hash == body_hash
    if claim.granted is not None or claim.landed_micro != claim.amount_micro or not is_its_sender:
        raise Used(claim)
    return claim


def earlier_of(claim: Claim) -> Earlier | None:
    """What a claim bought; None where it bought nothing yet."""
    if claim.granted is None or claim.transaction is None or claim.account is None:
        return None
    paid = Settlement(
        network=claim.network,
        transaction=claim.transaction,
        payer=claim.payer,
        account=claim.account,
        asset=claim.asset,
        amount_micro=claim.landed_micro or 0,
    )
    return Earlier(request=claim.granted, paid=paid)


def _same_again(claim: Claim, payment: Payment, body_hash: str) -> Earlier | None:
    """The same bytes again: whoever knows their identifier and the body is told what they bought.

    Neither is on the chain, where everybody can read the signature.
    """
    if payment.identifier is None or payment.identifier != claim.identifier:
        return None
    if body_hash != claim.body_hash:
        raise refusals.another_body()
    return earlier_of(claim) if body_hash else None
