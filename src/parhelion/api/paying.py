"""The PAYMENT-RESPONSE header: what became of the payment that came with a request."""

from __future__ import annotations

import base64

import msgspec

from parhelion.api.wire import Header
from parhelion.words import Bought

RESPONSE = b"payment-response"


def response(paid: Bought) -> Header:
    """x402's SettleResponse, version 2, in base64: clients fail on one that lacks a field."""
    told = {
        "success": True,
        "payer": paid.payer,
        "transaction": paid.transaction,
        "network": paid.network,
        "amount": str(paid.amount_micro),
    }
    return RESPONSE, base64.b64encode(msgspec.json.encode(told))
