"""A Solana transaction as it is on the chain: who had what of each token before it and after."""

from __future__ import annotations

from typing import Any

import msgspec

from parhelion.chain.solana.read import SURE, RpcCall, judge
from parhelion.chain.transaction import (
    CHANGES_LIMIT,
    ERROR_LIMIT_CHARS,
    Change,
    Misshapen,
    Standing,
    Transaction,
)
from parhelion.words import Problem


class _Status(msgspec.Struct, rename="camel"):
    slot: int
    err: Any = None
    confirmation_status: str | None = None


class _Statuses(msgspec.Struct):
    value: list[_Status | None]


class _Timed(msgspec.Struct, rename="camel"):
    block_time: int | None = None


async def explore(call: RpcCall, signature: str) -> Transaction | None:
    """What the chain has of a transaction, by its signature; None where it has nothing."""
    asked = [[signature], {"searchTransactionHistory": True}]
    try:
        found = msgspec.convert(await call("getSignatureStatuses", asked), _Statuses).value
    except msgspec.ValidationError as error:
        raise Misshapen(str(error)) from error
    if not found or found[0] is None:
        return None
    status = found[0]
    if status.confirmation_status in SURE:
        how = {"encoding": "json", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
        told = await call("getTransaction", [signature, how])
        if told is not None:
            return transaction(told, signature)
    # A server may know the block before it has indexed what is in it.
    return Transaction(
        id=signature, standing=Standing.PENDING, block=status.slot, error=error_text(status.err)
    )


def transaction(told: Any, signature: str) -> Transaction:
    """What a `getTransaction` answer says. Pure; Misshapen where it cannot be."""
    try:
        reading = judge(told, signature=signature, account="", mint="")
        at_s = msgspec.convert(told, _Timed).block_time
    except (Problem, msgspec.ValidationError) as error:
        raise Misshapen(str(error)) from error
    moved = [change for change in reading.changes if change.gained]
    return Transaction(
        id=signature,
        standing=Standing.LANDED if reading.error is None else Standing.FAILED,
        block=reading.slot,
        at_s=at_s,
        error=error_text(reading.error),
        fee=reading.fee_lamports,
        fee_payer=reading.fee_payer,
        changes=tuple(
            Change(owner=each.owner, asset=each.mint, amount=each.gained, account=each.account)
            for each in moved[:CHANGES_LIMIT]
        ),
        omitted=max(0, len(moved) - CHANGES_LIMIT),
    )


def error_text(error: Any) -> str | None:
    """Solana's error, which is a word or an object, as one short text."""
    if error is None:
        return None
    text = error if isinstance(error, str) else msgspec.json.encode(error).decode()
    return text[:ERROR_LIMIT_CHARS]
