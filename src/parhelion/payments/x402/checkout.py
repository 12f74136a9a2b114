"""What a 402 offers for a request, and the payment that comes back, claimed and settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from parhelion.config import X402Config
from parhelion.identity import Entropy, Wallets, caip10
from parhelion.ledger import amount_text
from parhelion.payments.x402.cashier import Cashier, Earlier
from parhelion.payments.x402.claim_book import Opens, Paid, Settlement
from parhelion.payments.x402.claim_rows import Claim
from parhelion.payments.x402.networks import Network
from parhelion.payments.x402.offers import Desk, PaymentRequired, payment_required
from parhelion.payments.x402.payload import accept, read, terms_of
from parhelion.payments.x402.prices import (
    TOPUPS_MICRO,
    Price,
    as_sold,
    request_price,
    shelf,
    smallest_topup,
    tier_named,
    tier_price,
    topup_price,
    usd_text,
)
from parhelion.words import (
    ID_ENTROPY_BYTES,
    Ask,
    Bought,
    Clock,
    Offer,
    Problem,
    ProblemCode,
    Quote,
    Rate,
    Tier,
)

T = TypeVar("T")

Extensions = Callable[[str], Mapping[str, Any]]
"""What an offer at a URL says beside its price: signing in, discovery."""


class Desks(Protocol):
    """The networks as they are now."""

    def now(self) -> tuple[Desk, ...]:
        """One desk a network, the preferred first; never waits."""
        ...


class Checkout:
    """Offers, claims and settlements of every route that sells; `asset` is what is paid in.

    The one owner of the tiers that are sold: whoever names, lists or prices one asks here, when it
    is asked for, and keeps what it got to the end of that sale.
    """

    def __init__(
        self,
        *,
        desks: Desks,
        networks: Mapping[str, Network],
        cashier: Cashier,
        wallets: Wallets,
        terms: X402Config,
        asset: str,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.asset = asset
        self.tiers: tuple[Tier, ...] = shelf(terms.tiers, private=False)
        self._desks = desks
        self._networks = networks
        self._cashier = cashier
        self._wallets = wallets
        self._terms = terms
        self._clock = clock
        self._entropy = entropy
        self._extensions: Extensions = _nothing

    def declare(self, extensions: Extensions) -> None:
        """Say this beside every offer from now on."""
        self._extensions = extensions

    def sell(self, tiers: tuple[Tier, ...]) -> None:
        """Sell these tiers from now on, and no others; what was sold keeps its terms."""
        self.tiers = tiers

    def price(self, ask: Ask, quote: Quote, rate: Rate) -> Price:
        """What a payment for this ask is; Problem where a tier takes no such prompt."""
        if ask.tier is not None:
            return tier_price(as_sold(ask.tier, quote.model.id), len(quote.prompt_ids))
        return request_price(
            rate, len(quote.prompt_ids), quote.max_tokens, self._terms.min_charge_micro
        )

    def tier(self, name: str) -> Tier:
        """The tier of this name; Problem NOT_FOUND that lists them."""
        return tier_named(name, self.tiers)

    def offered(self, price: Price, url: str) -> PaymentRequired:
        """The offers of this moment for a price."""
        return payment_required(
            price,
            self._desks.now(),
            url=url,
            now_ms=self._clock.now_ms(),
            entropy=self._entropy(ID_ENTROPY_BYTES),
            extensions=self._extensions(url),
        )

    def refusal(self, price: Price, url: str) -> Problem:
        """402 with offers, for whoever sent no payment."""
        return _problem(self.offered(price, url))

    def too_little(self, problem: Problem, missing_micro: int, url: str) -> Problem:
        """402 of a balance that is too low, with the smallest top-up that is enough."""
        required = self.offered(smallest_topup(missing_micro), url)
        return _offering(problem, msgspec.structs.replace(required, error=problem.message))

    async def claim(
        self,
        header: bytes,
        price: Price,
        url: str,
        *,
        request: str,
        body_hash: str,
        account: str | None = None,
        least_micro: int | None = None,
        address: str = "",
    ) -> Claim | Earlier:
        """The payment of a header, claimed for a request; nothing is sent yet.

        A top-up's amount is taken too where it is at least `least_micro` (None: the price): what
        is over is credited. Problem with offers where another payment would do.
        """
        payload = read(header)
        least = price.amount_micro if least_micro is None else least_micro
        price = _paid_price(price, payload.accepted.amount, terms_of(payload), least)
        required = self.offered(price, url)
        try:
            payment = accept(payload, required, self._networks)
            return await self._cashier.claim(
                payment, request=request, body_hash=body_hash, account=account, address=address
            )
        except Problem as problem:
            raise _refused(problem, required) from problem

    async def release(self, claim: Claim, reason: str) -> None:
        """Give up a claim of which nothing was sent."""
        await self._cashier.release(claim, reason)

    async def settle(
        self,
        claim: Claim,
        request: str,
        opens: Opens[T] | None,
        price: Price,
        url: str,
        address: str = "",
    ) -> Paid[T]:
        """Settle a claim and open what it buys in the unit that books it."""
        try:
            return await self._cashier.settle(claim, request, opens, address)
        except Problem as problem:
            raise _refused(problem, self.offered(price, url)) from problem

    async def account_of(self, claim: Claim) -> str | None:
        """Whom a claim will be credited to, where that account is open already."""
        if claim.account is not None:
            return claim.account
        return await self._wallets.find(caip10(f"{claim.network}:{claim.payer}"))


def _nothing(url: str) -> Mapping[str, Any]:
    return {}


def bought(settlement: Settlement) -> Bought:
    """A settlement as grants and receipts show it."""
    return Bought(
        network=settlement.network,
        transaction=settlement.transaction,
        payer=settlement.payer,
        amount_micro=settlement.amount_micro,
    )


def credited_only(paid: Settlement) -> Problem:
    """What a payment that landed with another amount than was offered is answered."""
    return Problem(
        ProblemCode.PAYMENT_USED,
        f"{amount_text(paid.amount_micro, paid.asset)} landed, another amount than was offered: "
        f"it was credited to your balance, transaction {paid.transaction}",
    )


def _paid_price(price: Price, amount: str, terms: str, least_micro: int) -> Price:
    """The price that a payment means: the one of this request, or a top-up that covers it.

    A tier can cost as much as a top-up: the terms of the offer tell the two apart.
    """
    if terms or (amount == str(price.amount_micro) and not price.terms):
        return price
    for topup_micro in TOPUPS_MICRO:
        if amount == str(topup_micro) and topup_micro >= least_micro:
            return topup_price(usd_text(topup_micro))
    return price


def _refused(problem: Problem, required: PaymentRequired) -> Problem:
    """A refusal that another payment would mend, with the offers to make it of."""
    if problem.code is not ProblemCode.PAYMENT_REQUIRED:
        return problem
    return _offering(problem, required.refusing(problem.message))


def _problem(required: PaymentRequired) -> Problem:
    return _offering(
        Problem(ProblemCode.PAYMENT_REQUIRED, required.error, hint=required.hint), required
    )


def _offering(problem: Problem, required: PaymentRequired) -> Problem:
    return Problem(
        problem.code,
        problem.message,
        hint=problem.hint,
        param=problem.param,
        offer=Offer(required.header(), required.document()),
    )
