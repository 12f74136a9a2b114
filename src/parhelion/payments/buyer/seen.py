"""What the chain itself says of the payment that was sent; the seller's word only says where."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec

from parhelion.chain.evm import ReadFailed
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall
from parhelion.payments.buyer.signing import Signed
from parhelion.payments.facilitator.outcomes import EvmPayment
from parhelion.payments.x402.outside import Expired, FailedOnChain, Landed, Sight, Unknown
from parhelion.payments.x402.readers import EvmReader, SolanaReader
from parhelion.words import Problem, Record

RESPONSE_LIMIT_CHARS = 16 * 1024
TEXT_LIMIT_CHARS = 200
LOOK_WAIT_S = 10.0
"""A node beside the seller's shows a confirmed payment within a slot or two."""

GLANCE_S = 1.0
"""For a payment that its seller says he did not take: he may lie, but mostly nothing will come."""

LOOK_EVERY_S = 0.4
FAILURES = (RpcRefused, RpcUnavailable, ReadFailed, Problem)


class Told(Record, frozen=True, kw_only=True):
    """What the seller says of the payment in PAYMENT-RESPONSE; nothing of it is believed."""

    success: bool
    transaction: str
    reason: str = ""


class Seen(Record, frozen=True, kw_only=True):
    """What is sure of a payment: `state` landed, failed, expired, unknown or not checked."""

    state: str
    transaction: str = ""
    detail: str = ""


class _Response(msgspec.Struct, rename="camel"):
    success: bool
    transaction: str | None = None
    error_reason: Any = None


def read_response(header: str | None) -> Told | None:
    """The PAYMENT-RESPONSE of an answer; None without one that can be read."""
    if header is None or len(header) > RESPONSE_LIMIT_CHARS:
        return None
    try:
        raw = base64.b64decode(header + "=" * (-len(header) % 4), validate=True)
        found = msgspec.json.decode(raw, type=_Response)
    except (binascii.Error, ValueError, RecursionError):
        return None
    return Told(
        success=found.success,
        transaction=(found.transaction or "")[:TEXT_LIMIT_CHARS],
        reason=str(found.error_reason or "")[:TEXT_LIMIT_CHARS],
    )


async def look_up(rpc: RpcCall, signed: Signed, told: Told | None, *, wait_s: float) -> Seen:
    """This very payment on the chain, whoever carried it and whatever transaction the seller names.

    Looked for again while the chain does not have it, until `wait_s` is over.
    """
    is_evm = isinstance(signed.payment, EvmPayment)
    reader = EvmReader(rpc) if is_evm else SolanaReader(rpc)
    seen = Seen(state="unknown", detail="the chain does not have it (yet); it may still land")
    try:
        async with asyncio.timeout(wait_s):
            while seen.state == "unknown":
                try:
                    sight = await reader.find(signed.payment, None)
                    seen = judge(signed, told, sight)
                except FAILURES as error:
                    seen = Seen(state="unknown", detail=f"the chain gave no answer: {error}")
                if seen.state == "unknown":
                    await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        pass  # What was seen last stands.
    return seen


def judge(signed: Signed, told: Told | None, sight: Sight) -> Seen:
    """What a sight of the payment means for the one who paid. Pure."""
    match sight:
        case Landed():
            wanted = signed.choice.amount_micro
            if sight.amount_micro != wanted:
                detail = f"the payee gained {sight.amount_micro} base units, not {wanted}"
                return Seen(state="failed", transaction=sight.transaction, detail=detail)
            detail = ""
            if told is not None and told.transaction.lower() != sight.transaction.lower():
                detail = "the seller named another transaction"
            return Seen(state="landed", transaction=sight.transaction, detail=detail)
        case FailedOnChain():
            return Seen(state="failed", transaction=sight.transaction, detail=sight.reason)
        case Expired():
            return Seen(state="expired", detail="it never landed and cannot any more")
        case Unknown():
            return Seen(
                state="unknown", detail="the chain does not have it (yet); it may still land"
            )


Reach = Callable[[str], RpcCall | None]
"""The RPC of a network by CAIP-2 id, None where none is known."""
