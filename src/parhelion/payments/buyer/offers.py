"""What a seller's 402 asks for, and which of its offers may be paid at all; pure.

Network, token and its EIP-712 domain are known to us: an offer that names others is refused, by
name. What is left to the seller is whom to pay, how much, and who carries it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from parhelion.identity import is_solana_address
from parhelion.payments.x402.networks import PLAYED, Family, Network, as_local, known
from parhelion.payments.x402.offers import IDENTIFIER, SCHEME, VERSION
from parhelion.payments.x402.prices import usd_text
from parhelion.words import Problem, ProblemCode, Record

HEADER_LIMIT_CHARS = 48 * 1024
"""Ours has 2 kB; with the discovery extensions of others it stays far below this."""

OFFERS_LIMIT = 32
"""More ways to pay one price than there are networks."""

TIMEOUT_LIMIT_S = 3_600
"""So long an authorization could be carried to the chain after we gave up on its seller."""

AMOUNT_LIMIT_CHARS = 18
"""A longer number is more money than there is of USDC."""

MEMO_LIMIT_BYTES = 256
TEXT_LIMIT_CHARS = 300
"""So much of what a seller says of itself is shown."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_AMOUNT = re.compile(r"[1-9][0-9]*")


class Choice(Record, frozen=True, kw_only=True):
    """An offer that may be paid. `accepted` is the seller's own writing of it, sent back whole."""

    network: Network
    amount_micro: int
    pay_to: str
    timeout_s: int
    accepted: dict[str, Any]
    fee_payer: str = ""
    memo: str = ""
    blockhash: str = ""


class Offered(Record, frozen=True, kw_only=True):
    """A 402: what may be paid, why the rest may not, and what the seller says."""

    choices: tuple[Choice, ...]
    refused: tuple[str, ...]
    resource: dict[str, Any] | None
    description: str
    error: str
    names_payments: bool
    """Whether the payment may bear a name of ours, by which the seller knows it again."""


class _Requirement(msgspec.Struct, rename="camel"):
    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, Any] = {}


class _Required(msgspec.Struct, rename={"version": "x402Version"}):
    version: int
    accepts: list[dict[str, Any]]
    resource: dict[str, Any] | None = None
    error: Any = None
    extensions: dict[str, Any] | None = None


class _Refusal(Exception):
    """Why one offer is not paid; never leaves this module."""


def read_offers(header: str | None, wallet: Mapping[Family, str]) -> Offered:
    """The offers in a PAYMENT-REQUIRED header; Problem where there are none that can be read.

    `wallet` has the address that would pay, by family.
    """
    required = _decoded(header)
    choices: list[Choice] = []
    refused: list[str] = []
    for accepted in required.accepts:
        try:
            choices.append(_choice(accepted, wallet))
        except _Refusal as why:
            refused.append(str(why))
    resource = required.resource or {}
    return Offered(
        choices=tuple(choices),
        refused=tuple(refused),
        resource=required.resource,
        description=str(resource.get("description") or "")[:TEXT_LIMIT_CHARS],
        error=str(required.error or "")[:TEXT_LIMIT_CHARS],
        names_payments=IDENTIFIER in (required.extensions or {}),
    )


def choose(offered: Offered, network: str | None, limit_micro: int) -> Choice:
    """The first offer within the limit, on the network asked for if one was; Problem if none is."""
    fitting = offered.choices
    if network is not None:
        wanted = known(network).id
        fitting = tuple(each for each in fitting if each.network.id == wanted)
    if not fitting:
        there = ", ".join(each.network.names[-1] for each in offered.choices)
        why = "; ".join(offered.refused[:4]) or "it makes none"
        hint = f"it can be paid on {there}" if there else "nothing was signed, nothing was paid"
        message = f"none of the seller's offers can be paid: {why}"
        if there:
            message = f"the seller makes no offer on {network}"
        raise Problem(ProblemCode.PAYMENT_INVALID, message, hint=hint)
    for choice in fitting:
        if choice.amount_micro <= limit_micro:
            return choice
    least = min(each.amount_micro for each in fitting)
    raise Problem(
        ProblemCode.KEY_LIMIT_REACHED,
        f"the seller asks ${usd_text(least)}, and a request may cost ${usd_text(limit_micro)}",
        hint=f"nothing was paid; --max-usd {usd_text(least)} allows it",
    )


def _decoded(header: str | None) -> _Required:
    if header is None:
        raise _unreadable("it has no PAYMENT-REQUIRED header, so it is not x402 version 2")
    if len(header) > HEADER_LIMIT_CHARS:
        raise _unreadable(f"its header has over {HEADER_LIMIT_CHARS} characters")
    try:
        raw = base64.b64decode(header + "=" * (-len(header) % 4), validate=True)
        required = msgspec.json.decode(raw, type=_Required)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _unreadable("its PAYMENT-REQUIRED header is not x402's") from error
    if required.version != VERSION:
        raise _unreadable(f"it speaks x402 version {required.version}, and we speak {VERSION}")
    if len(required.accepts) > OFFERS_LIMIT:
        raise _unreadable(f"it makes {len(required.accepts)} offers")
    return required


def _choice(accepted: dict[str, Any], wallet: Mapping[Family, str]) -> Choice:
    try:
        terms = msgspec.convert(accepted, _Requirement)
    except msgspec.ValidationError as error:
        raise _Refusal(f"a malformed offer ({error})") from error
    network = _network(terms)
    _check_terms(terms, network)
    payer = wallet[network.family]
    if _same(network, terms.pay_to, payer):
        raise _Refusal("an offer that pays this very wallet")
    choice = Choice(
        network=network,
        amount_micro=int(terms.amount),
        pay_to=terms.pay_to,
        timeout_s=terms.max_timeout_seconds,
        accepted=accepted,
    )
    if network.family is Family.EVM:
        _check_domain(terms, network)
        return choice
    return _on_solana(choice, terms.extra, payer)


def _network(terms: _Requirement) -> Network:
    if terms.scheme != SCHEME:
        raise _Refusal(f"an offer of scheme {terms.scheme[:32]!r}")
    try:
        network = known(terms.network)
    except Problem as problem:
        raise _Refusal(f"an unknown network {terms.network[:64]!r}") from problem
    if terms.network != network.id:
        raise _Refusal(f"a network that is not written as x402 does: {terms.network[:64]!r}")
    # LOCAL money is no other money: the label only says which chain to look at.
    if terms.extra.get("label") == "LOCAL" and network.id in PLAYED:
        return as_local(network)
    return network


def _check_terms(terms: _Requirement, network: Network) -> None:
    name = network.names[-1]
    if not _same(network, terms.asset, network.token):
        raise _Refusal(f"a token on {name} that is not USDC: {terms.asset[:64]!r}")
    is_address = (
        is_solana_address(terms.pay_to)
        if network.family is Family.SOLANA
        else _ADDRESS.fullmatch(terms.pay_to) is not None
    )
    if not is_address:
        raise _Refusal(f"a payee on {name} that is no address: {terms.pay_to[:64]!r}")
    if _AMOUNT.fullmatch(terms.amount) is None or len(terms.amount) > AMOUNT_LIMIT_CHARS:
        raise _Refusal(f"an amount that is none: {terms.amount[:32]!r}")
    if not 0 < terms.max_timeout_seconds <= TIMEOUT_LIMIT_S:
        raise _Refusal(f"an offer on {name} that keeps a payment open for over an hour")


def _check_domain(terms: _Requirement, network: Network) -> None:
    method = terms.extra.get("assetTransferMethod", "eip3009")
    if method != "eip3009":
        raise _Refusal(f"a transfer by {str(method)[:32]!r}; only EIP-3009 is signed")
    said = (terms.extra.get("name"), terms.extra.get("version"))
    if said != (network.token_name, network.token_version):
        raise _Refusal(f"another EIP-712 domain than USDC's on {network.names[-1]}")


def _on_solana(choice: Choice, extra: Mapping[str, Any], payer: str) -> Choice:
    fee_payer, memo = extra.get("feePayer"), extra.get("memo", "")
    blockhash = extra.get("recentBlockhash", "")
    if not isinstance(fee_payer, str) or not is_solana_address(fee_payer):
        raise _Refusal("an offer on Solana without a fee payer")
    if fee_payer == payer:
        # Ours would be the only signature: a transaction that anybody may land at our cost.
        raise _Refusal("an offer that names this wallet as fee payer")
    if not isinstance(memo, str) or len(memo.encode("utf-8", "replace")) > MEMO_LIMIT_BYTES:
        raise _Refusal(f"a memo of over {MEMO_LIMIT_BYTES} bytes")
    if blockhash and not (isinstance(blockhash, str) and is_solana_address(blockhash)):
        raise _Refusal("a recent blockhash that is none")
    return msgspec.structs.replace(choice, fee_payer=fee_payer, memo=memo, blockhash=str(blockhash))


def _same(network: Network, one: str, other: str) -> bool:
    # Capitals of an EVM address are only a checksum; base58 has both as digits.
    return one.lower() == other.lower() if network.family is Family.EVM else one == other


def _unreadable(why: str) -> Problem:
    return Problem(
        ProblemCode.PAYMENT_INVALID,
        f"the seller wants to be paid, but {why}",
        hint="nothing was signed, nothing was paid",
    )
