"""Offers: what a 402 says in its header and its body; a pure function of price and payees.

The amount depends on the request alone, so that the same request sent again, with its payment,
gets the same offer: nothing of an offer is kept. What differs from one 402 to the next is a memo
that makes each payment findable on its chain, and a recent blockhash that saves clients a call.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from parhelion.payments.facilitator.offers import TOKEN_PROGRAM, EvmOffer, Offer, SolanaOffer
from parhelion.payments.x402.networks import Family, Network, Payee
from parhelion.payments.x402.prices import Price, usd_text
from parhelion.words import Record, mint

VERSION = 2
SCHEME = "exact"
HEADER = "PAYMENT-REQUIRED"
TIMEOUT_S = 60
"""How long a payment made of an offer stays good; a Solana blockhash lives about as long."""

UPFRONT = "upfront"
"""We settle before we serve, and say so in the words of x402's clients."""

MEMO_PREFIX = "offer"
IDENTIFIER = "payment-identifier"
IDENTIFIER_LIMITS = (16, 128)
"""Characters of a payment-identifier, as the extension has them."""

CUSTODY = (
    "What is not used is credited to the paying wallet's balance here: custodial, spent by "
    "signing in with the wallet, and withdrawn by us on request."
)
"""Stands in every offer (DESIGN 7): only vault deposits can leave without us."""

LOCAL = "LOCAL: play money on a chain of this machine. "

_encode = msgspec.json.Encoder().encode


class Requirement(Record, frozen=True, kw_only=True, rename="camel"):
    """One way to pay: x402's PaymentRequirements, version 2."""

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, str]


class Resource(Record, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is bought."""

    url: str
    description: str = ""
    mime_type: str = ""


class Hint(Record, frozen=True, kw_only=True):
    """A recent blockhash: with it a stock client builds its payment without asking the chain."""

    blockhash: str
    last_valid_block_height: int


class Desk(Record, frozen=True, kw_only=True):
    """A network as it is now: whom we are paid at, who pays its fees, which hint is fresh."""

    payee: Payee
    fee_payer: str = ""
    hint: Hint | None = None


class PaymentRequired(Record, frozen=True, kw_only=True):
    """The offers of one 402, for people and for programs."""

    price: Price
    accepts: tuple[Requirement, ...]
    resource: Resource
    error: str
    hint: str
    extensions: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """x402's PaymentRequired, version 2."""
        return {
            "x402Version": VERSION,
            "error": self.error,
            "resource": self.resource,
            "accepts": self.accepts,
            "extensions": self.extensions,
        }

    def header(self) -> bytes:
        """The value of the PAYMENT-REQUIRED header: base64 of the document's JSON."""
        return base64.b64encode(_encode(self.document()))

    def refusing(self, reason: str) -> PaymentRequired:
        """The same offers after a payment that was refused."""
        return msgspec.structs.replace(self, error=f"The payment was refused: {reason}")


def payment_required(
    price: Price,
    desks: Sequence[Desk],
    *,
    url: str,
    now_ms: int,
    entropy: bytes,
    extensions: Mapping[str, Any] | None = None,
) -> PaymentRequired:
    """The 402 for a price: one offer a network, the preferred first."""
    memo = mint(MEMO_PREFIX, now_ms, entropy)
    is_local = any(desk.payee.network.is_local for desk in desks)
    label = LOCAL if is_local else ""
    return PaymentRequired(
        price=price,
        accepts=tuple(requirement(price, desk, memo) for desk in desks),
        resource=Resource(
            url=url,
            description=f"{label}{_capital(price.words)}. {CUSTODY}",
            mime_type="application/json",
        ),
        error=f"{label}Pay ${usd_text(price.amount_micro)} in USDC for {price.words}.",
        hint=_hint(price),
        extensions={IDENTIFIER: identifier_declaration(), **(extensions or {})},
    )


def requirement(price: Price, desk: Desk, memo: str) -> Requirement:
    """The offer on one network."""
    network = desk.payee.network
    return Requirement(
        scheme=SCHEME,
        network=network.id,
        asset=network.token,
        amount=str(price.amount_micro),
        pay_to=desk.payee.pay_to,
        max_timeout_seconds=TIMEOUT_S,
        extra=_extra(price, network, desk, memo),
    )


def for_facilitator(offer: Requirement, network: Network) -> Offer:
    """The same offer as a facilitator holds a payment against it."""
    if network.family is Family.SOLANA:
        return SolanaOffer(
            network=offer.network,
            asset=offer.asset,
            amount_micro=int(offer.amount),
            pay_to=offer.pay_to,
            max_timeout_s=offer.max_timeout_seconds,
            fee_payer=offer.extra["feePayer"],
            memo=offer.extra["memo"],
            decimals=network.decimals,
            token_program=network.token_program or TOKEN_PROGRAM,
        )
    return EvmOffer(
        network=offer.network,
        asset=offer.asset,
        amount_micro=int(offer.amount),
        pay_to=offer.pay_to,
        max_timeout_s=offer.max_timeout_seconds,
        name=network.token_name,
        version=network.token_version,
    )


def identifier_declaration() -> dict[str, Any]:
    """What says that clients may name their payment, so that it is answered once."""
    least, most = IDENTIFIER_LIMITS
    id = {
        "type": "string",
        "minLength": least,
        "maxLength": most,
        "pattern": "^[a-zA-Z0-9_-]+$",
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"required": {"type": "boolean"}, "id": id},
        "required": ["required"],
    }
    return {"info": {"required": False}, "schema": schema}


def _extra(price: Price, network: Network, desk: Desk, memo: str) -> dict[str, str]:
    extra = {"paymentFlow": UPFRONT}
    if price.terms:
        # Else a payment of an offer that was made before the terms changed would buy the new ones.
        extra["terms"] = price.terms
    if network.is_local:
        extra["label"] = "LOCAL"
    if network.family is Family.EVM:
        return {**extra, "name": network.token_name, "version": network.token_version}
    extra |= {"feePayer": desk.fee_payer, "memo": memo}
    if desk.hint is not None:
        extra["recentBlockhash"] = desk.hint.blockhash
        extra["lastValidBlockHeight"] = str(desk.hint.last_valid_block_height)
    return extra


def _hint(price: Price) -> str:
    pay = f"pay one of the offers in the {HEADER} header with an x402 v2 client"
    if not price.is_above_stock_limit:
        return pay
    refuse = "stock x402 clients refuse payments above $1"
    fits = f"max_tokens {price.fits} would fit; " if price.fits is not None else ""
    return f"{refuse}: {fits}raise the client's own limit to pay more; {pay}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
