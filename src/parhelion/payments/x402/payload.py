"""A PAYMENT-SIGNATURE header as a payment of one of our offers; pure, and nothing in it is trusted.

The client sends back the offer that it accepts. It must be one that we make for this very request,
to the letter: every amount and address that is used afterwards is ours, never the client's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from parhelion.payments.facilitator.offers import Offer
from parhelion.payments.facilitator.outcomes import Code
from parhelion.payments.facilitator.outcomes import Refused as Declined
from parhelion.payments.facilitator.payload import Payload, read_header
from parhelion.payments.x402.networks import Family, Network
from parhelion.payments.x402.offers import (
    IDENTIFIER,
    IDENTIFIER_LIMITS,
    MEMO_PREFIX,
    PaymentRequired,
    Requirement,
    for_facilitator,
)
from parhelion.words import Problem, ProblemCode, Record

HEADER = "PAYMENT-SIGNATURE"

HINTS = frozenset({"recentBlockhash", "lastValidBlockHeight"})
"""What helps a client to build its payment and is no term of the offer."""

SIGNATURE_BYTES = 64
TRANSACTION_LIMIT_CHARS = 1_644
"""Base64 of the 1,232 bytes that a Solana transaction has at most."""

_TERMS = {
    "scheme": "scheme",
    "asset": "asset",
    "amount": "amount",
    "pay_to": "payTo",
    "max_timeout_seconds": "maxTimeoutSeconds",
}
"""The fields of an offer that must come back as they were, and how they are written there."""

_MEMO = re.compile(rf"{MEMO_PREFIX}_[0-9a-v]{{26}}")
_IDENTIFIER = re.compile(rf"[a-zA-Z0-9_-]{{{IDENTIFIER_LIMITS[0]},{IDENTIFIER_LIMITS[1]}}}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_NONCE = re.compile(r"0x[0-9a-fA-F]{64}")


class Payment(Record, frozen=True, kw_only=True):
    """A payment that accepts one of our offers; what was signed is not checked yet.

    `key` names the payment among all of its network: two encodings of what was signed are one.
    `identifier` is the client's own name for it (payment-identifier), None without one.
    """

    network: Network
    requirement: Requirement
    offer: Offer
    payload: Payload
    key: str
    identifier: str | None


class _Accepted(msgspec.Struct):
    accepted: Requirement


class _Extra(msgspec.Struct, frozen=True):
    terms: str = ""


class _Named(msgspec.Struct, frozen=True):
    extra: _Extra = _Extra()


class _Sold(msgspec.Struct):
    accepted: _Named


def read(header: str | bytes) -> Payload:
    """The x402 v2 payment in a header; Problem PAYMENT_INVALID says what is wrong with it."""
    found = read_header(header)
    if isinstance(found, Declined):
        raise _invalid(found.reason, _hint_of(found.code))
    return found


def terms_of(payload: Payload) -> str:
    """The terms that the accepted offer names: a tier's; "" for a request's or a top-up's."""
    try:
        return msgspec.json.decode(payload.raw, type=_Sold).accepted.extra.terms
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # `accept` says what is wrong with it.


def accept(payload: Payload, required: PaymentRequired, networks: Mapping[str, Network]) -> Payment:
    """The payment of the one offer that it accepts; Problem PAYMENT_REQUIRED if it is none of ours.

    `required` was made anew for this request; `networks` are those of its offers by id.
    """
    try:
        accepted = msgspec.json.decode(payload.raw, type=_Accepted).accepted
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the accepted offer is malformed: {error}") from error
    offered = next((each for each in required.accepts if each.network == accepted.network), None)
    if offered is None:
        raise _other("network", accepted.network, ", ".join(networks))
    _check_terms(accepted, offered)
    network = networks[offered.network]
    terms = _with_memo(offered, accepted.extra.get("memo"))
    return Payment(
        network=network,
        requirement=terms,
        offer=for_facilitator(terms, network),
        payload=payload,
        key=payment_key(network, payload.payload),
        identifier=identifier_of(payload.extensions),
    )


def payment_key(network: Network, payload: Mapping[str, Any]) -> str:
    """What names a payment on its network: what was signed, not how it is written.

    Solana: the hash of the signed message, which lands at most once. EVM: payer and nonce, of which
    the token spends one authorization at most. A facilitator checks that the bytes are canonical.
    """
    if network.family is Family.SOLANA:
        return hashlib.sha256(_message(payload.get("transaction"))).hexdigest()
    fields = payload.get("authorization")
    if not isinstance(fields, dict):
        raise _invalid("the payload has no EIP-3009 authorization", "Permit2 is not offered")
    told = cast("dict[str, Any]", fields)
    payer, nonce = told.get("from"), told.get("nonce")
    if not isinstance(payer, str) or _ADDRESS.fullmatch(payer) is None:
        raise _invalid("authorization.from is no address")
    if not isinstance(nonce, str) or _NONCE.fullmatch(nonce) is None:
        raise _invalid("authorization.nonce is not 32 bytes of hex")
    return f"{payer.lower()}:{nonce.lower()}"


def identifier_of(extensions: Mapping[str, Any]) -> str | None:
    """The client's own name for its payment, None without one; Problem for one that cannot be."""
    extension = extensions.get(IDENTIFIER)
    if extension is None:
        return None
    info = cast("dict[str, Any]", extension).get("info") if isinstance(extension, dict) else None
    id = cast("dict[str, Any]", info).get("id") if isinstance(info, dict) else None
    if id is None:
        # Echoed as it was declared: the client names nothing.
        return None
    if not isinstance(id, str) or _IDENTIFIER.fullmatch(id) is None:
        least, most = IDENTIFIER_LIMITS
        raise _invalid(
            f"a {IDENTIFIER} has {least} to {most} characters of a-z, A-Z, 0-9, _ and -",
            "leave it out, or send a UUID",
        )
    return id


def _check_terms(accepted: Requirement, offered: Requirement) -> None:
    for field, name in _TERMS.items():
        said, ours = getattr(accepted, field), getattr(offered, field)
        if said != ours:
            raise _other(name, said, ours)
    said_extra, our_extra = dict(accepted.extra), dict(offered.extra)
    for free in (*HINTS, "memo"):
        said_extra.pop(free, None)
        our_extra.pop(free, None)
    for name in sorted(said_extra.keys() | our_extra.keys()):
        said, ours = said_extra.get(name), our_extra.get(name)
        if said != ours:
            raise _other(f"extra.{name}", said, ours)


def _with_memo(offered: Requirement, memo: str | None) -> Requirement:
    """Our offer with the memo of the 402 that the client answers: each 402 has another one."""
    if "memo" not in offered.extra:
        if memo is not None:
            raise _other("extra.memo", memo, None)
        return offered
    if memo is None or _MEMO.fullmatch(memo) is None:
        raise _other("extra.memo", memo, "an offer's id")
    extra = {name: value for name, value in offered.extra.items() if name not in HINTS}
    return msgspec.structs.replace(offered, extra={**extra, "memo": memo})


def _message(encoded: object) -> bytes:
    """The signed message of a transaction: what follows its signatures."""
    if not isinstance(encoded, str) or len(encoded) > TRANSACTION_LIMIT_CHARS:
        raise _invalid("payload.transaction is no Solana transaction")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(f"payload.transaction is not base64: {error}") from error
    # One byte of count is enough: more than 2 signatures are refused by every facilitator.
    signed = 1 + SIGNATURE_BYTES * raw[0] if raw and raw[0] < 128 else len(raw)
    if signed >= len(raw):
        raise _invalid("payload.transaction has no message")
    return raw[signed:]


def _hint_of(code: Code) -> str:
    if code is Code.VERSION_UNSUPPORTED:
        return f"use a client of x402 version 2: it sends {HEADER}"
    return ""


def _other(name: str, said: object, ours: object) -> Problem:
    return Problem(
        ProblemCode.PAYMENT_REQUIRED,
        f"the payment accepts {name} {str(said)[:100]!r}; offered is {ours!r}",
        hint="make the payment of the offer that came for this very request",
    )


def _invalid(message: str, hint: str = "") -> Problem:
    return Problem(ProblemCode.PAYMENT_INVALID, message, hint=hint, param=HEADER)
