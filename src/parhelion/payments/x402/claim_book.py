"""The claims' face to the database: take, end, book what landed, find, and what is due."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from parhelion.identity import Wallets, caip10
from parhelion.ledger import Ledger
from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.payments.rules import LANDED_MEMO
from parhelion.payments.x402 import claim_rows as rows
from parhelion.payments.x402.claim_rows import Claim, claim_of
from parhelion.payments.x402.claims import (
    EXPIRY_MARGIN_S,
    ClaimEvent,
    ClaimState,
    next_state,
)
from parhelion.payments.x402.losses import Losses
from parhelion.payments.x402.outside import Landed
from parhelion.store import Refused, Statement, Store
from parhelion.words import Clock, Record

T = TypeVar("T")


class Settlement(Record, frozen=True, kw_only=True):
    """What landed: credited to `account`, in the transaction that it is keyed by."""

    network: str
    transaction: str
    payer: str
    account: str
    asset: str
    amount_micro: int

    @property
    def deposit(self) -> str:
        """The transfer that credits it."""
        return f"x402:{self.network}:{self.transaction}"


class Paid(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A settlement and what was opened in its unit; `opened` None where it bought nothing."""

    settlement: Settlement
    opened: T | None


Opens = Callable[[Settlement, Sequence[Statement]], Awaitable[T]]
"""Commits the statements that it is given *before* its own, in one unit: a hold, a session, a key.

`lambda paid, first: ledger.hold(grant, request, ..., first=first)`. It raises Refused or Problem
where its own part cannot be; nothing of the unit took effect then.
"""


class Unopened(Exception):
    """A payment is credited, and what it was to buy could not be opened; `__cause__` is why."""

    def __init__(self, settlement: Settlement) -> None:
        super().__init__(f"{settlement.transaction} was credited and opened nothing")
        self.settlement = settlement


class TotalsRow(Record, frozen=True, kw_only=True):
    """Claims of one network in one state, and what they asked for and brought."""

    network: str
    state: ClaimState
    claims: int
    claimed_micro: int
    landed_micro: int


class ClaimBook:
    """Every change of a claim, each one durable unit."""

    def __init__(self, store: Store, ledger: Ledger, wallets: Wallets, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._wallets = wallets
        self._clock = clock
        self.losses = Losses()

    async def find(self, network: str, payment: str) -> Claim | None:
        """The claim on a payment, if there ever was one."""
        found = await self._store.read(rows.FIND, (network, payment))
        return claim_of(found[0]) if found else None

    async def named(self, payer: str, identifier: str) -> tuple[str, Claim] | None:
        """The claim that the payer gave this name, and the hash of the body it came with."""
        found = await self._store.read(rows.NAMED, (payer, identifier, self._clock.now_ms()))
        if not found:
            return None
        body_hash, network, payment = (str(value) for value in found[0])
        claim = await self.find(network, payment)
        return None if claim is None else (body_hash, claim)

    async def take(
        self,
        signed: Signed,
        *,
        request: str,
        asset: str,
        account: str | None,
        identifier: str | None,
        body_hash: str,
        covers_micro: int | None = None,
    ) -> Claim:
        """Claim a payment, before anything is sent; Refused CLAIM or NAME where it is taken.

        Refused IN_FLIGHT where the payer's `covers_micro` does not cover all that is on its way.
        """
        unit = rows.claim(
            signed,
            request=request,
            asset=asset,
            account=account,
            identifier=identifier,
            body_hash=body_hash,
            now_ms=self._clock.now_ms(),
            covers_micro=covers_micro,
        )
        ((attempt,),) = (await self._store.commit(unit))[0]
        return Claim(
            network=signed.network,
            payment=signed.key,
            state=ClaimState.CLAIMED,
            attempt=int(attempt or 1),
            request=request,
            body_hash=body_hash,
            payer=signed.payer,
            asset=asset,
            amount_micro=signed.amount_micro,
            signed=signed,
            account=account,
            identifier=identifier,
            transaction=getattr(signed, "transaction", "") or None,
            landed_micro=None,
            granted=None,
            reason="",
            claimed_at_ms=self._clock.now_ms(),
            looks=0,
        )

    async def end(
        self,
        claim: Claim,
        event: ClaimEvent,
        *,
        reason: str,
        transaction: str = "",
        was_seen: bool = True,
        fee: int = 0,
    ) -> None:
        """The claim fails, or waits for the chain. One that moved on meanwhile is left alone.

        What nobody but us has seen (`was_seen` False) can land no more, and is looked up no more.
        `fee` is what we paid for one that failed on the chain.
        """
        after = next_state(claim.state, event)
        now_ms = self._clock.now_ms()
        statement = rows.end(
            claim,
            event,
            after,
            reason=reason,
            transaction=transaction,
            look_at_ms=_look_at_ms(claim, after, now_ms) if was_seen else None,
            now_ms=now_ms,
        )
        try:
            await self._store.commit([statement])
        except Refused as refused:
            if refused.kind == "unique":
                # A transaction that another claim has: it was not this payment's.
                await self.end(claim, event, reason=f"{reason}; {transaction} is another's")
            elif refused.kind != "rows":
                raise
            return
        if fee:
            self.losses.add(claim.network, fee)

    async def book(self, claim: Claim, landed: Landed, opens: Opens[T] | None) -> Paid[T]:
        """Settle the claim, credit what landed, and open what it bought: one durable unit.

        Where what it should buy cannot be opened, the money is booked without it, and Unopened is
        raised from the refusal. Refused rows.SETTLE or "deposit": this is booked already, or not
        ours.
        """
        account = claim.account or await self._account_of(claim, landed.payer)
        settlement = Settlement(
            network=claim.network,
            transaction=landed.transaction,
            payer=landed.payer,
            account=account,
            asset=claim.asset,
            amount_micro=landed.amount_micro,
        )
        if opens is None or landed.amount_micro != claim.amount_micro:
            # Another amount than we offered buys nothing by itself; it is credited all the same.
            await self._store.commit(self._unit(claim, settlement, None))
            return Paid(settlement=settlement, opened=None)
        try:
            opened = await opens(settlement, self._unit(claim, settlement, claim.request))
        except Exception as failed:
            if isinstance(failed, Refused) and failed.name in (rows.SETTLE, "deposit"):
                raise
            await self._store.commit(self._unit(claim, settlement, None))
            raise Unopened(settlement) from failed
        return Paid(settlement=settlement, opened=opened)

    async def grant(self, claim: Claim, request: str, opens: Opens[T]) -> Paid[T]:
        """Let a settled claim that bought nothing buy this request; Refused GRANT where it has.

        Unopened, from the refusal, where that cannot be opened.
        """
        assert claim.account is not None and claim.transaction is not None
        settlement = Settlement(
            network=claim.network,
            transaction=claim.transaction,
            payer=claim.payer,
            account=claim.account,
            asset=claim.asset,
            amount_micro=claim.landed_micro or 0,
        )
        try:
            opened = await opens(settlement, [rows.grant(claim, request)])
        except Exception as failed:
            if isinstance(failed, Refused) and failed.name == rows.GRANT:
                raise
            raise Unopened(settlement) from failed
        return Paid(settlement=settlement, opened=opened)

    async def due(self) -> tuple[Claim, ...]:
        """Claims whose chain is to be looked at now, the longest waiting first."""
        found = await self._store.read(rows.DUE, (self._clock.now_ms(),))
        return tuple(claim_of(row) for row in found)

    async def next_due_ms(self) -> int | None:
        """When the next look is due; None while nothing waits."""
        ((at_ms,),) = await self._store.read(rows.NEXT_DUE)
        return None if at_ms is None else int(at_ms)

    async def looked(self, claim: Claim, next_look_ms: int | None) -> None:
        """The chain told nothing new; look again then, or never."""
        await self._store.commit([rows.looked(claim, next_look_ms)])

    async def restart(self) -> None:
        """At a start, before the first payment: whatever was under way is the chain's to tell."""
        await self._store.commit([rows.restart(self._clock.now_ms())])

    async def totals(self) -> tuple[TotalsRow, ...]:
        """Claimed against landed, by network and state."""
        names = TotalsRow.__struct_fields__
        found = await self._store.read(rows.TOTALS)
        return tuple(
            msgspec.convert(dict(zip(names, row, strict=True)), TotalsRow) for row in found
        )

    def _unit(
        self, claim: Claim, settlement: Settlement, granted: str | None
    ) -> tuple[Statement, ...]:
        now_ms = self._clock.now_ms()
        settle = rows.settle(
            claim,
            transaction=settlement.transaction,
            landed_micro=settlement.amount_micro,
            payer=settlement.payer,
            account=settlement.account,
            granted=granted,
            now_ms=now_ms,
        )
        deposit = self._ledger.deposit(
            settlement.account,
            settlement.asset,
            settlement.amount_micro,
            mirror=f"{claim.network}:{claim.signed.payee}",
            id=settlement.deposit,
            memo=f"{LANDED_MEMO}{settlement.transaction}",
        )
        return (settle, *deposit)

    async def _account_of(self, claim: Claim, payer: str) -> str:
        return await self._wallets.account_of(caip10(f"{claim.network}:{payer}"))


def _look_at_ms(claim: Claim, after: ClaimState, now_ms: int) -> int:
    """When the chain is asked next: at once while it is open, late once it is believed dead."""
    if after is ClaimState.PENDING:
        return now_ms
    # While it is valid anybody who has it can still send it.
    valid_before_s: int = getattr(claim.signed, "valid_before_s", 0)
    return max(now_ms + rows.SECOND_LOOK_MS, (valid_before_s + EXPIRY_MARGIN_S) * 1000)
