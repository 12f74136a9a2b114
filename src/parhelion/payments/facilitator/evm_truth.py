"""What an EVM chain itself says of a payment: its authorization spent, unspent, or expired.

Anybody may carry an authorization: by which transaction it was spent is found in the token's logs.
"""

from __future__ import annotations

from typing import cast

from parhelion.chain.evm import (
    ReadFailed,
    Reading,
    Rpc,
    State,
    find_authorization,
    is_authorization_used,
    read_transaction,
)
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    EvmPayment,
    Outcome,
    Refused,
    Settled,
    unavailable,
)

FAILURES = (RpcUnavailable, RpcRefused, ReadFailed)
"""What keeps an answer of the chain away."""

EXPIRY_MARGIN_S = 60
"""An authorization counts as dead this long after its end by the chain's own clock: nodes behind
one address do not all stand at the same block."""

BALANCE_OF = "0x70a08231"
"""Selector of balanceOf(address), of ERC-20."""

CANCELED = "0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81"
"""keccak256 of AuthorizationCanceled(address,bytes32), of EIP-3009."""

WORD_CHARS = 66

SAYINGS = (
    ("exceeds balance", Code.INSUFFICIENT_BALANCE),
    ("insufficientbalance", Code.INSUFFICIENT_BALANCE),
    ("used or canceled", Code.ALREADY_USED),
    ("authorization is expired", Code.EXPIRED),
    ("not yet valid", Code.NOT_YET_VALID),
    ("invalid signature", Code.BAD_SIGNATURE),
)
"""What tokens say when they revert, Circle's and ours."""


async def look(rpc: Rpc, payment: EvmPayment, transaction: str) -> Outcome | None:
    """What is sure about a payment that a transaction of ours carries; None while nothing is."""
    reading = await read_transaction(rpc, transaction, payment.asset, payment.payee)
    if reading.state is State.UNKNOWN:
        return None
    if reading.state is State.SUCCEEDED:
        return outcome_of(payment, reading)
    # It reverted. Where somebody else carried the same authorization first, it is paid.
    if await is_authorization_used(rpc, payment.asset, payment.payer, payment.nonce):
        return await _spent_by(rpc, payment)
    return Refused(
        code=Code.FAILED_ON_CHAIN,
        reason="it landed and failed",
        transaction=transaction,
        fee=reading.fee_wei,
    )


async def reconcile(rpc: Rpc, payment: EvmPayment) -> Outcome:
    """What became of a payment that was sent, or perhaps was; a Problem: the chain is away."""
    try:
        # The clock is read first: what is unspent after its end can never be spent.
        block = await rpc("eth_getBlockByNumber", ["latest", False])
        time_s = quantity(_field(block, "timestamp"))
        if await is_authorization_used(rpc, payment.asset, payment.payer, payment.nonce):
            found = await _spent_by(rpc, payment)
            return found or Ambiguous(reason="spent, but by which transaction is not known yet")
    except FAILURES as error:
        raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
    if time_s >= payment.valid_before_s + EXPIRY_MARGIN_S:
        return Refused(code=Code.EXPIRED, reason="it expired unspent")
    return Ambiguous(reason="not spent, and still valid")


async def balance(rpc: Rpc, payment: EvmPayment) -> int:
    """What the payer holds of the token; a Problem where the chain does not tell."""
    call: dict[str, object] = {"to": payment.asset}
    call["data"] = BALANCE_OF + payment.payer[2:].rjust(64, "0")
    try:
        # The last block, and no later: what is in the next is counted with what is on its way.
        told = await rpc("eth_call", [call, "latest"])
        if not isinstance(told, str) or len(told) != WORD_CHARS:
            raise ReadFailed("balanceOf: an answer that is no word")
        return int(told, 16)
    except (*FAILURES, ValueError) as error:
        raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error


def outcome_of(payment: EvmPayment, reading: Reading) -> Outcome:
    """What a transaction that succeeded means for a payment. Pure."""
    if (payment.payer, payment.nonce) not in reading.authorizations:
        reason = "the transaction succeeded without spending the authorization"
        return Ambiguous(reason=reason, transaction=reading.transaction)
    landed_micro = reading.amount_from(payment.payer)
    return Settled(transaction=reading.transaction, landed_micro=landed_micro)


def refusal_of(message: str) -> Refused:
    """What a token's revert means for the one who pays. Pure."""
    lower = message.lower()
    for saying, code in SAYINGS:
        if saying in lower:
            return Refused(code=code, reason=message[:200])
    return Refused(code=Code.SIMULATION_FAILED, reason=message[:200])


def quantity(value: object) -> int:
    """A number as Ethereum writes it; ReadFailed where it is none."""
    if not isinstance(value, str) or not value.startswith("0x") or not 3 <= len(value) <= 34:
        raise ReadFailed("a quantity is not a hex number")
    try:
        return int(value, 16)
    except ValueError as error:
        raise ReadFailed("a quantity is not a hex number") from error


async def _spent_by(rpc: Rpc, payment: EvmPayment) -> Outcome | None:
    """The transaction that spent the authorization; None while the logs do not show it."""
    asset, payer, nonce = payment.asset, payment.payer, payment.nonce
    found = await find_authorization(rpc, asset, payer, nonce, payment.seen_block)
    if found is not None:
        reading = await read_transaction(rpc, found, asset, payment.payee)
        return outcome_of(payment, reading) if reading.state is State.SUCCEEDED else None
    wanted = {
        "address": asset,
        "fromBlock": hex(payment.seen_block),
        "toBlock": "latest",
        "topics": [CANCELED, "0x" + payer[2:].rjust(64, "0"), nonce],
    }
    if await rpc("eth_getLogs", [wanted]):
        return Refused(code=Code.ALREADY_USED, reason="the payer canceled the authorization")
    return None


def _field(answer: object, name: str) -> object:
    if not isinstance(answer, dict):
        raise ReadFailed("the block is not an object")
    return cast("dict[str, object]", answer).get(name)
