"""A payment of one of our offers, made ready for a person's own wallet to sign; pure.

It is what `parhelion pay` signs, with the payer's signature left out: nothing here is stored, and
nothing moves before the wallet has signed and the page has sent it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

from parhelion.identity import Entropy
from parhelion.payments.facilitator.offers import EvmOffer, SolanaOffer
from parhelion.payments.x402.authorization import NONCE_BYTES, authorization, typed_data
from parhelion.payments.x402.networks import Family, Network, address_form, is_address
from parhelion.payments.x402.offers import (
    PaymentRequired,
    Requirement,
    Resource,
    for_facilitator,
)
from parhelion.payments.x402.prices import Price, usd_text
from parhelion.words import Problem, ProblemCode, Record

SIGNING_S = 120
"""For a person to read and confirm what a wallet shows, on a network where we choose the end."""

BLOCKHASH_LIFE_S = 60.0
"""150 slots of Solana; what names an older blockhash lands no more."""

LANDING_S = 5.0
"""What verifying and sending take, so that what comes at the last moment still lands."""

WALLET_SHOWN_CHARS = 64

_WORDS = {"testnet", "devnet", "mainnet", "beta"}


class TypedData(Record, frozen=True, kw_only=True):
    """For an EVM wallet: `eth_signTypedData_v4`; its `message` is the payload's authorization."""

    typed_data: dict[str, Any]


class Transaction(Record, frozen=True, kw_only=True):
    """For a Solana wallet: a v0 transaction whose two signatures are zeros, the payer's second."""

    wire: bytes


ToSign: TypeAlias = TypedData | Transaction


class Prepared(Record, frozen=True, kw_only=True):
    """What a wallet signs, and what goes back with its signature; `holds_micro` before it."""

    accepted: Requirement
    resource: Resource
    sign: ToSign
    words: tuple[str, ...]
    expires_at_ms: int
    holds_micro: int = 0


def offer_on(required: PaymentRequired, network: Network) -> Requirement:
    """The offer on one network of a 402 that makes one on each."""
    return next(each for each in required.accepts if each.network == network.id)


def check_payer(network: Network, address: str, offer: Requirement) -> None:
    """Problem INVALID_REQUEST for what cannot pay an offer on this network."""
    name = spoken(network)
    if not is_address(network, address):
        raise _invalid(
            f"{address[:WALLET_SHOWN_CHARS]!r} is no address on {name}",
            f"an address on {name} is {address_form(network)}",
        )
    # Solana's base58 has both cases as digits; capitals of an EVM address are only a checksum.
    same = str.lower if network.family is Family.EVM else str
    if same(address) == same(offer.pay_to):
        raise _invalid("this wallet is the one that is paid: nothing would move", "use another")
    if address == offer.extra.get("feePayer"):
        raise _invalid("this wallet pays the network's fees here, and cannot pay us", "use another")


def check_holds(network: Network, price: Price, token_micro: int, *, has_account: bool) -> None:
    """Problem INSUFFICIENT_CREDIT where a wallet has less than a price, and how much that is."""
    if token_micro >= price.amount_micro:
        return
    has = f"{usd_text(token_micro)} USDC"
    if not has_account:
        has = "no USDC account yet, so 0 USDC,"
    hint = f"send it USDC on {spoken(network)} first, or pay with another wallet"
    if network.is_local:
        hint = "POST /v1/local/faucet gives it play money (LOCAL); nothing was signed or paid"
    raise Problem(
        ProblemCode.INSUFFICIENT_CREDIT,
        f"this wallet has {has} on {spoken(network)}; this costs "
        f"{usd_text(price.amount_micro)} USDC",
        hint=hint,
        param="address",
    )


def for_evm(
    required: PaymentRequired, network: Network, payer: str, *, now_ms: int, entropy: Entropy
) -> Prepared:
    """The payment of the offer on an EVM network."""
    from parhelion.payments.facilitator.evm import SETTLE_MARGIN_S, checksummed

    accepted = offer_on(required, network)
    offer = for_facilitator(accepted, network)
    assert isinstance(offer, EvmOffer)
    # Some wallets refuse an address whose capitals are no checksum.
    offer = replace(offer, asset=checksummed(offer.asset), pay_to=checksummed(offer.pay_to))
    until_s = now_ms // 1000 + SIGNING_S
    message = authorization(
        offer,
        checksummed(payer),
        nonce="0x" + entropy(NONCE_BYTES).hex(),
        valid_before_s=until_s + SETTLE_MARGIN_S,
    )
    sign = TypedData(typed_data=typed_data(offer, message))
    return _prepared(required, accepted, network, sign, until_s * 1000)


def for_solana(
    required: PaymentRequired, network: Network, payer: str, *, now_ms: int, hint_age_s: float
) -> Prepared:
    """The payment of the offer on a Solana network, which must have a recent blockhash."""
    from parhelion.chain.wallet.solana import unsigned_payment

    accepted = offer_on(required, network)
    offer = for_facilitator(accepted, network)
    assert isinstance(offer, SolanaOffer)
    wire = unsigned_payment(
        payer,
        mint=offer.asset,
        token_program=offer.token_program,
        decimals=offer.decimals,
        amount_micro=offer.amount_micro,
        pay_to=offer.pay_to,
        fee_payer=offer.fee_payer,
        memo=offer.memo,
        blockhash=accepted.extra["recentBlockhash"],
    )
    until_ms = now_ms + int(1000 * (BLOCKHASH_LIFE_S - LANDING_S - hint_age_s))
    return _prepared(required, accepted, network, Transaction(wire=wire), until_ms)


def spoken(network: Network) -> str:
    """A network's name as people say it, LOCAL where its money is only play."""
    parts = network.names[-1].split("-")
    name = " ".join(part if part in _WORDS else part.capitalize() for part in parts)
    return f"{name} (LOCAL)" if network.is_local else name


def _prepared(
    required: PaymentRequired,
    accepted: Requirement,
    network: Network,
    sign: ToSign,
    expires_at_ms: int,
) -> Prepared:
    return Prepared(
        accepted=accepted,
        resource=required.resource,
        sign=sign,
        words=tuple(_words(required.price, accepted, network, expires_at_ms)),
        expires_at_ms=expires_at_ms,
    )


def _words(
    price: Price, accepted: Requirement, network: Network, expires_at_ms: int
) -> Sequence[str]:
    until = datetime.fromtimestamp(expires_at_ms // 1000, UTC).strftime("%H:%M:%S UTC")
    play = " It is play money on a chain of this machine." if network.is_local else ""
    return (
        f"Pay {usd_text(price.amount_micro)} USDC for {price.words}.",
        f"It goes to {accepted.pay_to}.",
        f"It is paid on {spoken(network)}.{play}",
        f"It is good until {until}; nothing moves before it is signed and sent.",
    )


def _invalid(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, hint=hint, param="address")
