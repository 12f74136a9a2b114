"""What the Solana chain itself says of a payment: landed, failed, expired, or not known yet.

Whoever carried it: where the fee payer is somebody else's, its transaction is found by what the
payer signed, in the history of the account that it was paid from.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, cast

import msgspec

from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import Reading, RpcCall, Standing, read_payment
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    Outcome,
    Refused,
    Settled,
    SolanaPayment,
    unavailable,
)
from parhelion.words import Problem

HISTORY_LIMIT = 100
"""Transactions of one account within the minutes that a payment may stay open."""

INVALID_PARAMS = -32602
INSUFFICIENT_FUNDS = 1
"""SPL Token's own error: the source holds less than the amount."""

NO_ACCOUNT = "InvalidAccountData"
"""What the token's program says of an account that is not there: the payer's, for the payee's is
looked at when the pool starts."""

OUT_OF_FUNDS = frozenset({"AccountNotFound", "InsufficientFundsForFee", "InsufficientFundsForRent"})
"""The fee payer's; the payer has no lamports to lose in any instruction."""


class _Amount(msgspec.Struct):
    amount: str


class _Balance(msgspec.Struct):
    value: _Amount


async def look(rpc: RpcCall, payment: SolanaPayment) -> Settled | Refused | None:
    """What is sure about a payment whose transaction is known; None while nothing is."""
    return outcome_of(payment, await _read(rpc, payment))


async def reconcile(rpc: RpcCall, payment: SolanaPayment) -> Outcome:
    """What became of a payment that was sent, or perhaps was; a Problem: the chain is away.

    Refused as expired takes three answers: its blockhash is too old for the newest block and for
    the last final one, so that no fork can take it any more, and only then no trace of it.
    """
    try:
        gone = not await _may_land(rpc, payment.blockhash)
        if not payment.transaction:
            payment = await _found(rpc, payment)
        reading = await _read(rpc, payment) if payment.transaction else None
    except (RpcUnavailable, RpcRefused, Problem) as error:
        raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
    outcome = None if reading is None else outcome_of(payment, reading)
    if outcome is not None:
        return outcome
    if gone and (reading is None or reading.standing is Standing.UNKNOWN):
        return Refused(code=Code.EXPIRED, reason="its blockhash expired and it never landed")
    return Ambiguous(reason="not confirmed, and may still land", transaction=payment.transaction)


async def balance(rpc: RpcCall, payment: SolanaPayment) -> int:
    """What the account that it is paid from holds; a Problem where the chain does not tell."""
    try:
        # The newest: what has just left the account for elsewhere must not count.
        how = {"commitment": "processed"}
        told = await rpc("getTokenAccountBalance", [payment.source, how])
    except RpcRefused as error:
        if error.code == INVALID_PARAMS:
            return 0  # It is a good address of no account, or of one that was closed.
        raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
    except RpcUnavailable as error:
        raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
    try:
        return int(msgspec.convert(told, _Balance).value.amount)
    except ValueError as error:
        reason = "getTokenAccountBalance: an answer without an amount"
        raise unavailable(Code.CHAIN_UNAVAILABLE, reason) from error


def outcome_of(payment: SolanaPayment, reading: Reading) -> Settled | Refused | None:
    """What our own read decides: its error before its status; None while nothing is sure. Pure."""
    if reading.standing is Standing.FAILED:
        refused = refusal_of(reading.error)
        code = Code.FAILED_ON_CHAIN if refused.is_ours else refused.code
        reason = f"it landed and failed: {refused.reason}"
        landed = payment.transaction
        return Refused(code=code, reason=reason, transaction=landed, fee=payment.fee)
    if reading.standing is Standing.LANDED:
        return Settled(transaction=payment.transaction, landed_micro=reading.credited)
    return None


def refusal_of(error: Any) -> Refused:
    """What a transaction's error means for the one who pays. Pure."""
    reason = f"the chain says {str(error)[:200]}"
    if error == "BlockhashNotFound":
        return Refused(code=Code.EXPIRED, reason="its blockhash is too old, or of another network")
    if error == "AlreadyProcessed":
        return Refused(code=Code.ALREADY_USED, reason="it has landed before")
    if isinstance(error, str) and error in OUT_OF_FUNDS:
        return Refused(code=Code.FACILITATOR_OUT_OF_FUNDS, reason=f"our fee payer: {error}")
    if is_object(error):
        cause = cast("dict[str, Any]", error).get("InstructionError")
        # Index 2 is the transfer: `judge` saw to that.
        if cause == [2, {"Custom": INSUFFICIENT_FUNDS}]:
            return Refused(code=Code.INSUFFICIENT_BALANCE, reason="the payer holds too little")
        if cause == [2, NO_ACCOUNT]:
            reason = "the payer has no account of this token, or it is frozen or closed"
            return Refused(code=Code.SIMULATION_FAILED, reason=reason)
    return Refused(code=Code.SIMULATION_FAILED, reason=reason)


async def _read(rpc: RpcCall, payment: SolanaPayment) -> Reading:
    return await read_payment(
        rpc,
        payment.transaction,
        payee=payment.payee,
        mint=payment.asset,
        token_program=payment.token_program,
    )


async def _may_land(rpc: RpcCall, blockhash: str) -> bool:
    # A hash that is too new for the last final block is not too old for the newest one.
    for commitment in ("processed", "finalized"):
        answer = await rpc("isBlockhashValid", [blockhash, {"commitment": commitment}])
        value = cast("dict[str, Any]", answer).get("value") if is_object(answer) else None
        if not isinstance(value, bool):
            raise RpcUnavailable("isBlockhashValid: an answer without a value")
        if value:
            return True
    return False


async def _found(rpc: RpcCall, payment: SolanaPayment) -> SolanaPayment:
    """The payment with the transaction that carries it, where the source's history has one."""
    wanted = {"limit": HISTORY_LIMIT, "commitment": "confirmed"}
    history = await rpc("getSignaturesForAddress", [payment.source, wanted])
    if not isinstance(history, list):
        raise RpcUnavailable("getSignaturesForAddress: an answer that is no list")
    rows = cast("list[Any]", history)
    for row in rows:
        signature = cast("dict[str, Any]", row).get("signature") if is_object(row) else None
        if isinstance(signature, str) and await _signs(rpc, signature, payment.key):
            return msgspec.structs.replace(payment, transaction=signature)
    if len(rows) >= HISTORY_LIMIT:
        raise RpcUnavailable("the source has paid so often that its history is not all seen")
    return payment


async def _signs(rpc: RpcCall, signature: str, key: str) -> bool:
    how = {"encoding": "base64", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
    answer = await rpc("getTransaction", [signature, how])
    shown = cast("dict[str, Any]", answer).get("transaction") if is_object(answer) else None
    try:
        raw = base64.b64decode(cast("list[str]", shown)[0], validate=True)
    except (TypeError, IndexError, ValueError, KeyError) as error:
        raise RpcUnavailable("getTransaction: an answer without a transaction") from error
    # One byte of count: no transaction of a payment has more than two signatures.
    signed = raw[1 + 64 * raw[0] :] if raw else b""
    return hashlib.sha256(signed).hexdigest() == key


def is_object(value: Any) -> bool:
    """Whether an answer has members to ask for."""
    return isinstance(value, dict)
