"""A PAYMENT-SIGNATURE header read, and held against the offer that it says it accepts: pure."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import msgspec

from parhelion.payments.facilitator.offers import EvmOffer, Offer
from parhelion.payments.facilitator.outcomes import Code, Refused
from parhelion.payments.rules import PAYMENT_LIMIT_CHARS

VERSION = 2


class Accepted(msgspec.Struct, rename="camel"):
    """The offer that the client says it accepts."""

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """An x402 v2 payment. `payload` is the scheme's own; `raw` is all of the JSON, as it came."""

    accepted: Accepted
    payload: dict[str, Any]
    extensions: dict[str, Any]
    raw: bytes


class _Wire(msgspec.Struct):
    accepted: Accepted
    payload: dict[str, Any]
    extensions: dict[str, Any] | None = None


class _Version(msgspec.Struct, rename={"version": "x402Version"}):
    version: int


def read_header(header: str | bytes) -> Payload | Refused:
    """The payment in a header; its size is looked at before anything is decoded."""
    if len(header) > PAYMENT_LIMIT_CHARS:
        reason = f"the payment has {len(header)} characters, at most {PAYMENT_LIMIT_CHARS} are read"
        return Refused(code=Code.TOO_LARGE, reason=reason)
    try:
        # Not every client pads; none writes anything outside the alphabet.
        encoded = header if isinstance(header, bytes) else header.encode("ascii")
        body = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        return Refused(code=Code.MALFORMED, reason=f"the payment is not base64: {error}")
    return read_body(body)


def read_body(body: bytes) -> Payload | Refused:
    """The payment in its JSON."""
    try:
        version = msgspec.json.decode(body, type=_Version).version
        if version != VERSION:
            reason = f"x402 version {version} is not spoken here, only {VERSION}"
            return Refused(code=Code.VERSION_UNSUPPORTED, reason=reason)
        wire = msgspec.json.decode(body, type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refused(code=Code.MALFORMED, reason=f"the payment is not x402 v2 JSON: {error}")
    return Payload(
        accepted=wire.accepted,
        payload=wire.payload,
        extensions=wire.extensions or {},
        raw=body,
    )


def mismatch(accepted: Accepted, offer: Offer) -> Refused | None:
    """Why what was accepted is not this offer; None where it is.

    What was signed is held against the offer as well: this is for a refusal that names the field.
    """
    # Addresses of EVM chains are written in either case; base58 is not.
    same = str.lower if isinstance(offer, EvmOffer) else str
    checks = (
        (accepted.scheme, "exact", Code.WRONG_SCHEME, "scheme"),
        (accepted.network, offer.network, Code.WRONG_NETWORK, "network"),
        (same(accepted.asset), same(offer.asset), Code.WRONG_ASSET, "asset"),
        (same(accepted.pay_to), same(offer.pay_to), Code.WRONG_PAYEE, "payTo"),
        (accepted.amount, str(offer.amount_micro), Code.WRONG_AMOUNT, "amount"),
    )
    for said, offered, code, name in checks:
        if said != offered:
            reason = f"the payment accepts {name} {said[:100]!r}, offered was {offered!r}"
            return Refused(code=code, reason=reason)
    return None
