"""What a wallet signs for an EVM offer: an EIP-3009 authorization as EIP-712 typed data; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parhelion.payments.facilitator.offers import EvmOffer

NONCE_BYTES = 32

PRIMARY_TYPE = "TransferWithAuthorization"

TYPES: dict[str, list[dict[str, str]]] = {
    # Wallets that are asked by `eth_signTypedData_v4` want the domain's own type among them.
    "EIP712Domain": [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ],
    PRIMARY_TYPE: [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ],
}


def authorization(
    offer: EvmOffer, payer: str, *, nonce: str, valid_before_s: int
) -> dict[str, str]:
    """The payload's `authorization` of the whole amount, good from now on."""
    return {
        "from": payer,
        "to": offer.pay_to,
        "value": str(offer.amount_micro),
        "validAfter": "0",
        "validBefore": str(valid_before_s),
        "nonce": nonce,
    }


def typed_data(offer: EvmOffer, signed: Mapping[str, str]) -> dict[str, Any]:
    """An authorization as `eth_signTypedData_v4` takes it."""
    return {
        "types": TYPES,
        "primaryType": PRIMARY_TYPE,
        "domain": {
            "name": offer.name,
            "version": offer.version,
            "chainId": offer.chain_id,
            "verifyingContract": offer.asset,
        },
        "message": dict(signed),
    }
