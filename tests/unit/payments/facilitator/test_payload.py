"""What a PAYMENT-SIGNATURE header may hold before anything of it is judged."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.payments.facilitator import Code, Offer, Payload, Refused, read_header, requirements
from parhelion.payments.facilitator.payload import mismatch
from parhelion.payments.rules import PAYMENT_LIMIT_CHARS
from tests.unit.payments.facilitator.sketches import EVM_OFFER, SOLANA_OFFER, Sketch


def _document(offer: Offer = SOLANA_OFFER, **changed: Any) -> dict[str, Any]:
    accepted = {**requirements(offer), **changed.pop("accepted", {})}
    payload = Sketch().payload()
    return {"x402Version": 2, "accepted": accepted, "payload": payload, **changed}


def _header(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def _read(document: Any) -> Payload:
    found = read_header(_header(document))
    assert isinstance(found, Payload), found
    return found


def test_a_stock_header_is_read() -> None:
    found = _read(_document(extensions={"payment-identifier": {"info": {"id": "x" * 16}}}))
    assert found.payload == Sketch().payload()
    assert found.extensions["payment-identifier"]["info"]["id"] == "x" * 16
    assert json.loads(found.raw)["x402Version"] == 2
    assert mismatch(found.accepted, SOLANA_OFFER) is None


def test_a_header_without_padding_is_read() -> None:
    assert isinstance(read_header(_header(_document()).rstrip("=")), Payload)


BAD: dict[str, tuple[str | bytes, Code]] = {
    "a megabyte": ("A" * 2**20, Code.TOO_LARGE),
    "one character too long": ("A" * (PAYMENT_LIMIT_CHARS + 1), Code.TOO_LARGE),
    "nothing": ("", Code.MALFORMED),
    "not base64": ("{}!", Code.MALFORMED),
    "not ascii": ("é", Code.MALFORMED),
    "not json": (base64.b64encode(b"hello"), Code.MALFORMED),
    "deep json": (base64.b64encode(b"[" * 9_000), Code.MALFORMED),
    "a stray character": ("!" + _header(_document()), Code.MALFORMED),
    "deep payload": (
        base64.b64encode(b'{"x402Version":2,"payload":{"a":' + b"[" * 6_000),
        Code.MALFORMED,
    ),
    "a list": (_header([]), Code.MALFORMED),
    "no version": (_header({"payload": {}}), Code.MALFORMED),
    "v1": (
        _header({"x402Version": 1, "scheme": "exact", "network": "solana", "payload": {}}),
        Code.VERSION_UNSUPPORTED,
    ),
    "v3": (_header(_document(x402Version=3)), Code.VERSION_UNSUPPORTED),
    "version in words": (_header(_document(x402Version="2")), Code.MALFORMED),
    "payload of v1": (_header(_document(payload="AQAA")), Code.MALFORMED),
    "nothing accepted": (_header({"x402Version": 2, "payload": {}}), Code.MALFORMED),
    "amount as a number": (_header(_document(accepted={"amount": 1})), Code.MALFORMED),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused_by_name(name: str) -> None:
    header, code = BAD[name]
    found = read_header(header)
    assert isinstance(found, Refused), found
    assert found.code is code


OTHER: dict[str, tuple[dict[str, Any], Code]] = {
    "scheme": ({"scheme": "upto"}, Code.WRONG_SCHEME),
    "network": ({"network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"}, Code.WRONG_NETWORK),
    "v1 network": ({"network": "solana-devnet"}, Code.WRONG_NETWORK),
    "asset": ({"asset": SOLANA_OFFER.asset.lower()}, Code.WRONG_ASSET),
    "payTo": ({"payTo": SOLANA_OFFER.fee_payer}, Code.WRONG_PAYEE),
    "amount": ({"amount": "1"}, Code.WRONG_AMOUNT),
    "amount with a zero": ({"amount": "010000"}, Code.WRONG_AMOUNT),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_offer_than_ours_is_refused_by_the_field(name: str) -> None:
    changed, code = OTHER[name]
    refused = mismatch(_read(_document(accepted=changed)).accepted, SOLANA_OFFER)
    assert refused is not None
    assert refused.code is code


def test_evm_addresses_are_the_same_in_either_case() -> None:
    offer = replace(EVM_OFFER, asset=EVM_OFFER.asset.lower())
    assert mismatch(_read(_document(offer)).accepted, EVM_OFFER) is None


@settings(max_examples=100, deadline=None)
@given(header=st.text(max_size=200) | st.binary(max_size=200))
def test_any_header_is_refused_and_never_an_exception(header: str | bytes) -> None:
    assert isinstance(read_header(header), Refused)
