"""A request that is paid for by itself: claim the payment, settle it, hold what it brought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from parhelion.ledger import GUEST, HoldState, Ledger, tier_rate
from parhelion.payments.idempotency import CLAIM
from parhelion.payments.idempotency import Earlier as Named
from parhelion.payments.rules import (
    RUNNING_RETRY_S,
    Buyer,
    Payer,
    Replay,
    Reserve,
    Undelivered,
    check_price,
    spends_another,
)
from parhelion.payments.x402.cashier import Earlier, Used, earlier_of
from parhelion.payments.x402.checkout import Checkout, bought, credited_only
from parhelion.payments.x402.claim_book import Settlement, Unopened
from parhelion.payments.x402.claim_rows import Claim
from parhelion.payments.x402.prices import Price
from parhelion.store import Refused, Statement
from parhelion.words import Ask, Grant, Hold, Problem, ProblemCode, Quote, Rate, Tier, kin

if TYPE_CHECKING:
    from parhelion.payments.gate import Gate, Taken


WHOLE = frozenset({"stop", "length"})
"""Why an answer ends that was delivered whole."""


class Sales:
    """The gate's part for whoever pays with the request."""

    def __init__(self, gate: Gate, checkout: Checkout, ledger: Ledger) -> None:
        self._gate = gate
        self._checkout = checkout
        self._ledger = ledger

    def rate(self, rates: Sequence[Rate]) -> Rate | None:
        """The rate in what payments bring; None where the model is not sold for it."""
        return next((rate for rate in rates if rate.asset == self._checkout.asset), None)

    def tier_rate(self, tier: Tier, model: str) -> Rate:
        """What a tier's answer is billed by when it is cut."""
        return tier_rate(tier, model, self._checkout.asset)

    def refusal(self, ask: Ask, buyer: Buyer, quote: Quote) -> Problem:
        """402 with offers."""
        price = self._checkout.price(ask, quote, buyer.rate)
        offers = self._checkout.refusal(price, buyer.url)
        return spends_another(offers, buyer.spends, ask.tier) if buyer.spends else offers

    async def buy(
        self,
        ask: Ask,
        buyer: Buyer,
        quote: Quote,
        expires_at_ms: int,
        reserve: Reserve | None = None,
    ) -> Taken | Replay:
        """Settle the payment and hold what the request may cost, in one unit.

        The slot is reserved between the claim and the settlement, and freed where that fails.
        Where that cannot be held the payment is credited, and the Problem says so.
        """
        price = self._checkout.price(ask, quote, buyer.rate)
        if buyer.payment is None:
            raise self.refusal(ask, buyer, quote)
        # What needs no look at the payment comes before it: a claim is a row, and a chain's work.
        check_price(ask, quote, buyer.rate)
        known = None if buyer.payer.account == GUEST else buyer.payer.account
        try:
            claim = await self._checkout.claim(
                buyer.payment,
                price,
                buyer.url,
                request=ask.request,
                body_hash=ask.body_hash,
                account=known,
                least_micro=await self._least(buyer.payer, price),
                address=buyer.address,
            )
        except Used as used:
            claim, named = await self._retried(used, ask)
            if named.state == "cut":
                return await self._gone_on(claim.paid.account, ask, buyer, quote, expires_at_ms)
        if isinstance(claim, Earlier):
            return await self._again(claim)
        grant = await self._decided(claim, ask, buyer, quote)
        if isinstance(grant, Replay):
            return grant
        free = await self._reserved(claim, reserve)
        try:
            return await self._settled(claim, grant, ask, buyer, quote, price, expires_at_ms)
        except BaseException:
            free()
            raise

    async def _reserved(self, claim: Claim, reserve: Reserve | None) -> Callable[[], None]:
        if reserve is None:
            return _nothing
        try:
            return await reserve()
        except Problem as problem:
            await self._checkout.release(claim, f"no slot: {problem.code}")
            raise

    async def _least(self, payer: Payer, price: Price) -> int | None:
        """How much of a top-up is enough, beside what the payer may spend."""
        if payer.account == GUEST:
            return None
        return max(1, price.amount_micro - await self._gate.spendable(payer))

    async def _decided(self, claim: Claim, ask: Ask, buyer: Buyer, quote: Quote) -> Grant | Replay:
        """The grant, but for who pays; a finished Idempotency-Key costs no second payment."""
        account = await self._checkout.account_of(claim)
        key = buyer.payer.key if account == buyer.payer.account else None
        payer = Payer(account or GUEST, key, buyer.rate.asset)
        try:
            grant = await self._gate.decide(ask, payer, quote, buyer.rate)
        except Problem:
            await self._checkout.release(claim, "not needed: the request was refused")
            raise
        if isinstance(grant, Replay):
            await self._checkout.release(claim, "not needed: the request was answered before")
        return grant

    async def _settled(
        self,
        claim: Claim,
        grant: Grant,
        ask: Ask,
        buyer: Buyer,
        quote: Quote,
        price: Price,
        expires_at_ms: int,
    ) -> Taken:
        from parhelion.payments.gate import Taken

        async def opens(paid: Settlement, first: Sequence[Statement]) -> tuple[Grant, Hold]:
            given = msgspec.structs.replace(grant, account=paid.account, bought=bought(paid))
            if given.key is not None:
                # Else what is left over would be its account's, and not the key's to spend.
                first = [*first, *self._gate.raising(given.key, paid.amount_micro, paid.deposit)]
            return given, await self._gate.hold(given, ask, quote, expires_at_ms, first)

        try:
            paid = await self._checkout.settle(
                claim, ask.request, opens, price, buyer.url, buyer.address
            )
        except Unopened as unopened:
            why = self._why(unopened.__cause__, grant)
            raise Undelivered(why, bought(unopened.settlement)) from unopened
        if paid.opened is None:
            raise Undelivered(credited_only(paid.settlement), bought(paid.settlement))
        return Taken(*paid.opened)

    def _why(self, refused: BaseException | None, grant: Grant) -> Problem:
        """Why a payment that landed opened nothing; never 402, by which clients pay again."""
        if isinstance(refused, Refused):
            if refused.name == CLAIM:
                return _raced()
            refused = self._gate.problem_of(refused, grant)
        if not isinstance(refused, Problem):
            raise RuntimeError("a paid request was not opened") from refused
        if refused.code not in (ProblemCode.INSUFFICIENT_CREDIT, ProblemCode.KEY_LIMIT_REACHED):
            return refused
        return Problem(
            ProblemCode.PAYMENT_USED,
            f"your payment landed and was credited, and the request was not served: "
            f"{refused.message}",
        )

    async def _retried(self, used: Used, ask: Ask) -> tuple[Earlier, Named]:
        """What the same payment bought with the same Idempotency-Key; Used where it did not."""
        bought = earlier_of(used.claim)
        if bought is None or not ask.idempotency_key:
            raise used
        named = await self._gate.earlier(ask, bought.paid.account)
        if named is None or (named.request, named.body_hash) != (bought.request, ask.body_hash):
            raise used
        return bought, named

    async def _gone_on(
        self, account: str, ask: Ask, buyer: Buyer, quote: Quote, expires_at_ms: int
    ) -> Taken | Replay:
        """A request that was paid for and cut, run again out of what was credited of it.

        Payment, Idempotency-Key and body prove its sender; nobody else is let at the balance.
        """
        from parhelion.payments.gate import Taken

        payer = Payer(account, None, buyer.rate.asset)
        grant = await self._gate.decide(ask, payer, quote, buyer.rate)
        if isinstance(grant, Replay):
            return grant
        try:
            return Taken(grant, await self._gate.hold(grant, ask, quote, expires_at_ms))
        except Refused as refused:
            raise self._why(refused, grant) from refused

    async def _again(self, earlier: Earlier) -> Replay:
        """What the same payment-identifier bought before, told again; or what became of it."""
        account = earlier.paid.account
        found = await self._ledger.explain(earlier.request, account)
        state = HoldState(found.hold.state)
        if state is HoldState.HELD:
            raise Problem(
                ProblemCode.IDEMPOTENCY_RUNNING,
                f"the request of this payment still runs: {earlier.request}",
                hint="wait and send it again: the finished answer is then replayed",
                retry_after_s=RUNNING_RETRY_S,
            )
        receipt = kin("rcpt", earlier.request)
        if state is not HoldState.POSTED:
            raise Problem(
                ProblemCode.PAYMENT_USED,
                f"this payment's request failed, and all of it was credited to your balance: "
                f"transaction {earlier.paid.transaction}",
                hint="spend it by signing in with the wallet, or sign a new payment",
            )
        if found.reason not in WHOLE:
            raise Problem(
                ProblemCode.PAYMENT_USED,
                f"the answer of this payment was cut ({found.reason}); what was not delivered was "
                f"credited: transaction {earlier.paid.transaction}",
                hint="send payment, body and Idempotency-Key of that request again to go on, or "
                "sign in with the wallet to spend what is left",
            )
        if not self._gate.has_evidence(earlier.request, account):
            raise Problem(
                ProblemCode.IDEMPOTENCY_FINISHED,
                f"this request was answered and charged; its text is no longer kept: {receipt}",
                hint="a new answer needs a new payment-identifier",
            )
        paid = bought(earlier.paid)
        return Replay(request=earlier.request, receipt=receipt, account=account, bought=paid)


def _nothing() -> None:
    """What frees a slot that nobody reserved."""


def _raced() -> Problem:
    return Problem(
        ProblemCode.IDEMPOTENCY_RUNNING,
        "another request with this Idempotency-Key was faster; this payment was credited",
        retry_after_s=RUNNING_RETRY_S,
    )
