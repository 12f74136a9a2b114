"""Which EIP-3009 authorizations we carry to the chain: pure, and every rule refuses by name.

The digest is computed here: `eth_account` takes a dictionary of types apart at each call, which
costs more than recovering the signer. Import this module lazily: it loads keccak and libsecp256k1.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, cast

from coincurve import PublicKey
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from parhelion.payments.facilitator.offers import EvmOffer
from parhelion.payments.facilitator.outcomes import Code, EvmPayment, Refused

SETTLE_MARGIN_S = 25
"""An authorization must outlive the 20 s that verifying and settling may take, and a block."""

BLOCK_MARGIN_S = 2
"""A block's timestamp may lie a block's time behind our clock."""

VALID_LIMIT_S = 3_600
"""Beyond the offer's timeout. While it is valid an ambiguous payment cannot be called dead."""

SIGNATURE_BYTES = 65
SIGNATURE_LIMIT_CHARS = 16 * 1024
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""EIP-2: of the two signatures for one message the token takes only the one with the lower s."""

WRAPPED = bytes.fromhex("6492" * 16)
"""The ending of an ERC-6492 signature."""

DOMAIN = keccak(
    text="EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
TRANSFER = keccak(
    text="TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    "uint256 validBefore,bytes32 nonce)"
)
CALL = keccak(
    text="transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,"
    "bytes32,bytes32)"
)[:4]

UINT256_CHARS = 78
HEX = frozenset(string.hexdigits)


class _Refusal(Exception):
    """A rule said no; never leaves this module."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(code=code, reason=reason)


def judge(payload: Mapping[str, Any], offer: EvmOffer, now_s: float) -> EvmPayment | Refused:
    """The payment in an x402 `payload`, or why it is none; never an exception."""
    try:
        return _judge(payload, offer, now_s)
    except _Refusal as refusal:
        return refusal.refused


def _judge(payload: Mapping[str, Any], offer: EvmOffer, now_s: float) -> EvmPayment:
    if "permit2Authorization" in payload:
        reason = "Permit2 is not offered; pay with transferWithAuthorization (EIP-3009)"
        raise _Refusal(Code.PERMIT2_UNSUPPORTED, reason)
    fields = payload.get("authorization")
    if not isinstance(fields, dict):
        raise _Refusal(Code.MALFORMED, "the payload has no authorization")
    told = cast("dict[str, Any]", fields)
    payer, payee = _address(told, "from"), _address(told, "to")
    value = _number(told, "value")
    valid_after_s, valid_before_s = _number(told, "validAfter"), _number(told, "validBefore")
    nonce = _hex(told.get("nonce"), 32, "nonce")
    if payee != offer.pay_to.lower():
        raise _Refusal(Code.WRONG_PAYEE, f"payee is {payee}, not {offer.pay_to}")
    if payer == payee:
        raise _Refusal(Code.SELF_PAYMENT, "payer and payee are the same: nothing would move")
    if value != offer.amount_micro or value == 0:
        raise _Refusal(Code.WRONG_AMOUNT, f"{value} base units, not exactly {offer.amount_micro}")
    _check_times(valid_after_s, valid_before_s, now_s, offer)
    payment = EvmPayment(
        network=offer.network,
        asset=offer.asset.lower(),
        payer=payer,
        payee=payee,
        amount_micro=value,
        key=f"{payer}:{nonce}",
        nonce=nonce,
        valid_after_s=valid_after_s,
        valid_before_s=valid_before_s,
        signature=_signature(payload.get("signature")),
    )
    signer = recovered(digest(payment, offer), payment.signature)
    if signer != payer:
        # Another chain, token, version or name of the domain comes out here as well.
        reason = (
            f"the signature is {signer or 'nobody'}'s, not {payer}'s, under this token's domain"
        )
        raise _Refusal(Code.BAD_SIGNATURE, reason)
    return payment


def digest(payment: EvmPayment, offer: EvmOffer) -> bytes:
    """What EIP-712 has the payer sign."""
    domain = keccak(
        DOMAIN
        + keccak(text=offer.name)
        + keccak(text=offer.version)
        + _word(offer.chain_id)
        + _padded(offer.asset)
    )
    return keccak(b"\x19\x01" + domain + keccak(TRANSFER + _arguments(payment)))


def recovered(digest: bytes, signature: bytes) -> str:
    """The address that signed a digest; "" where the signature is none."""
    s, v = int.from_bytes(signature[32:64], "big"), signature[64]
    if s > HALF_ORDER or v not in (27, 28):
        return ""
    recoverable = signature[:64] + bytes([v - 27])
    try:
        key = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    except ValueError:
        return ""
    return "0x" + keccak(key.format(compressed=False)[1:])[-20:].hex()


def call_data(payment: EvmPayment) -> bytes:
    """The call of the token that moves the money: the (v, r, s) form, which every USDC has."""
    r, s, v = payment.signature[:32], payment.signature[32:64], payment.signature[64]
    return CALL + _arguments(payment) + _word(v) + r + s


def _arguments(payment: EvmPayment) -> bytes:
    return (
        _padded(payment.payer)
        + _padded(payment.payee)
        + _word(payment.amount_micro)
        + _word(payment.valid_after_s)
        + _word(payment.valid_before_s)
        + bytes.fromhex(payment.nonce[2:])
    )


def _check_times(after_s: int, before_s: int, now_s: float, offer: EvmOffer) -> None:
    if after_s > now_s - BLOCK_MARGIN_S:
        raise _Refusal(Code.NOT_YET_VALID, f"valid only after {after_s}; it is {int(now_s)}")
    if before_s < now_s + SETTLE_MARGIN_S:
        reason = f"valid until {before_s}; it is {int(now_s)} and settling takes up to 20 s"
        raise _Refusal(Code.EXPIRED, reason)
    if before_s > now_s + offer.max_timeout_s + VALID_LIMIT_S:
        reason = f"valid until {before_s}, over an hour beyond the offer's {offer.max_timeout_s} s"
        raise _Refusal(Code.VALID_TOO_LONG, reason)


def _signature(value: object) -> bytes:
    """65 bytes r, s, v with v 27 or 28. Clients that write v as 0 or 1 mean the same."""
    if isinstance(value, dict):
        return _from_parts(cast("dict[str, Any]", value))
    if not isinstance(value, str) or not value.startswith("0x") or len(value) % 2:
        raise _Refusal(Code.MALFORMED, "the signature is not hex with 0x")
    if len(value) > SIGNATURE_LIMIT_CHARS or not HEX.issuperset(value[2:]):
        raise _Refusal(Code.MALFORMED, "the signature is not hex, or too long")
    raw = bytes.fromhex(value[2:])
    if raw.endswith(WRAPPED):
        # Deploying a wallet means calling a contract of the client's choice, at our cost.
        reason = "an ERC-6492 signature: deploy the wallet or pay from a key's own address"
        raise _Refusal(Code.SMART_WALLET_UNSUPPORTED, reason)
    if len(raw) != SIGNATURE_BYTES:
        # A contract may say yes when it is asked and no when it is paid, and burn gas either way.
        reason = "an ERC-1271 signature of a contract wallet: pay from a key's own address"
        raise _Refusal(Code.SMART_WALLET_UNSUPPORTED, reason)
    return raw[:64] + bytes([raw[64] + 27 if raw[64] < 2 else raw[64]])


def _from_parts(parts: dict[str, Any]) -> bytes:
    r, s = _hex(parts.get("r"), 32, "r"), _hex(parts.get("s"), 32, "s")
    v = parts.get("v")
    if isinstance(v, bool) or not isinstance(v, int) or v not in (0, 1, 27, 28):
        raise _Refusal(Code.MALFORMED, "v of the signature is 27 or 28")
    return bytes.fromhex(r[2:] + s[2:]) + bytes([v + 27 if v < 2 else v])


def _address(fields: dict[str, Any], name: str) -> str:
    return _hex(fields.get(name), 20, name)


def _number(fields: dict[str, Any], name: str) -> int:
    text = fields.get(name)
    if not isinstance(text, str) or not (text.isascii() and text.isdecimal()):
        raise _Refusal(Code.MALFORMED, f"{name} is not a string of decimal digits")
    if len(text) > UINT256_CHARS or int(text) >= 2**256:
        raise _Refusal(Code.MALFORMED, f"{name} is no uint256")
    return int(text)


def _hex(value: object, size: int, name: str) -> str:
    if not isinstance(value, str) or len(value) != 2 + 2 * size or not value.startswith("0x"):
        raise _Refusal(Code.MALFORMED, f"{name} is not {size} bytes of hex with 0x")
    if not HEX.issuperset(value[2:]):
        raise _Refusal(Code.MALFORMED, f"{name} is not hex")
    return value.lower()


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _padded(address: str) -> bytes:
    return bytes.fromhex(address[2:]).rjust(32, b"\0")


def checksummed(address: str) -> str:
    """An address in the mixed case that `eth_account` insists on."""
    return to_checksum_address(address)
