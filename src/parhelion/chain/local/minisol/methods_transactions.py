"""Methods that send, try out and look up transactions."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import msgspec
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from parhelion.chain.local.minisol import wire
from parhelion.chain.local.minisol.bank import Outcome, error_name
from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.faucet import LAMPORTS_LIMIT, USDC_LIMIT_MICRO, gift
from parhelion.chain.local.minisol.params import Call, Config, account_json, in_context, whole
from parhelion.chain.local.minisol.problems import (
    INTERNAL_ERROR,
    PREFLIGHT_FAILURE,
    SIGNATURE_FAILURE,
    RpcError,
    invalid_params,
)
from parhelion.chain.local.minisol.records import inner_json, returned_json, status
from parhelion.chain.local.minisol.slots import (
    BLOCKHASH_AGE_LIMIT_SLOTS,
    Commitment,
    confirmations,
    reached,
)

log = logging.getLogger("parhelion.minisol")

STATUSES_LIMIT = 256
HISTORY_LIMIT = 1_000
"""Of `getSignatureStatuses` and `getSignaturesForAddress`, on the real chain too."""

STATUS_MEMORY_SLOTS = 2 * BLOCKHASH_AGE_LIMIT_SLOTS
"""How far back a status is told without `searchTransactionHistory`, on the real chain too."""

NONCE_BYTES = 8

SAYINGS = {
    "BlockhashNotFound": "Blockhash not found",
    "AlreadyProcessed": "This transaction has already been processed",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InsufficientFundsForRent": (
        "Transaction results in an account with insufficient funds for rent"
    ),
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "AccountLoadedTwice": "Account loaded twice",
}
"""Clients show these, and some look for the words in them."""


async def send_transaction(call: Call) -> str:
    """Land a transaction; its signature, once it is durable.

    Without preflight the answer is the signature whatever becomes of it, as on the real chain:
    what cannot land is dropped in silence, and only its status, which stays null, tells.
    """
    config = call.config(1)
    encoding = config.values.get("encoding", "base58")
    transaction = wire.decode(call.at(0, "a transaction"), encoding)
    preflight = not config.flag("skipPreflight")
    commitment = config.commitment("preflightCommitment")
    chain, signature = call.chain, str(transaction.signatures[0])
    signed = wire.all_signed(transaction)
    if preflight:
        if not signed:
            raise RpcError(SIGNATURE_FAILURE, "Transaction signature verification failure")
        tried = chain.try_out(transaction, chain.slot_at(commitment))
        if tried.error is not None:
            raise _preflight_failure(tried)
    if not signed:
        return _dropped(signature, "SignatureFailure")
    outcome = await chain.land(transaction)
    if outcome.lands:
        return signature
    # Between preflight and landing a twin may have come first: say so.
    if preflight:
        raise _preflight_failure(outcome)
    return _dropped(signature, error_name(outcome.error))


def simulate_transaction(call: Call) -> dict[str, Any]:
    """What a transaction would do now. Always over the newest state, whatever the commitment."""
    config = call.config(1)
    encoding = config.values.get("encoding", "base58")
    transaction = wire.decode(call.at(0, "a transaction"), encoding)
    commitment, chain = config.commitment(), call.chain
    replace = config.flag("replaceRecentBlockhash")
    if config.flag("sigVerify"):
        if replace:
            raise invalid_params("sigVerify may not be used with replaceRecentBlockhash")
        if not wire.all_signed(transaction):
            raise RpcError(SIGNATURE_FAILURE, "Transaction signature verification failure")
    outcome = chain.try_out(transaction, None if replace else chain.slot_at(commitment))
    value = _simulated(outcome, with_inner=config.flag("innerInstructions"))
    value["accounts"] = _wanted_accounts(config, transaction, outcome)
    if replace:
        slot = chain.slot_at(commitment)
        from_hash = {
            "blockhash": wire.base58.encode(chain.blockhash(slot)),
            "lastValidBlockHeight": slot + BLOCKHASH_AGE_LIMIT_SLOTS,
        }
        value["replacementBlockhash"] = from_hash
    return in_context(chain, commitment, value)


def get_signature_statuses(call: Call) -> dict[str, Any]:
    """Where transactions stand; null for those that never landed, or too long ago."""
    texts = call.texts(0, "the signatures", STATUSES_LIMIT)
    signatures = [_signature_of(text) for text in texts]
    everything, chain = call.config(1).flag("searchTransactionHistory"), call.chain
    statuses = [status_of(chain, signature, everything) for signature in signatures]
    return in_context(chain, Commitment.PROCESSED, statuses)


def status_of(chain: Chain, signature: Signature, everything: bool = True) -> dict[str, Any] | None:
    """One transaction's status; `everything` looks further back than a validator's memory."""
    row, now = chain.journal.find(bytes(signature)), chain.now()
    if row is None or (not everything and now - row.slot > STATUS_MEMORY_SLOTS):
        return None
    age = now - row.slot
    return {
        "slot": row.slot,
        "confirmations": confirmations(age),
        "status": status(row.error),
        "err": row.error,
        "confirmationStatus": reached(age).value,
    }


def get_transaction(call: Call) -> dict[str, Any] | None:
    """A transaction that landed, with what it did; null for one that is not sure enough yet."""
    signature = _signature_of(call.at(0, "a signature"))
    value = call.params[1] if len(call.params) > 1 else None
    config = Config(call.chain, {"encoding": value}) if isinstance(value, str) else call.config(1)
    commitment = config.commitment()
    if commitment is Commitment.PROCESSED:
        raise invalid_params("Method does not support commitment below `confirmed`")
    supported = config.values.get("maxSupportedTransactionVersion")
    if supported is not None:
        whole(supported, "maxSupportedTransactionVersion", 255)
    row = call.chain.journal.find(bytes(signature))
    if row is None or row.slot > call.chain.slot_at(commitment):
        return None
    shown = wire.shown(row.wire, config.values.get("encoding", "json"), supported)
    return {
        "slot": row.slot,
        "blockTime": row.block_time_s,
        "meta": msgspec.json.decode(row.meta),
        **shown,
    }


def get_signatures_for_address(call: Call) -> list[dict[str, Any]]:
    """The transactions that name an address, newest first."""
    key, config = call.key(0), call.config(1)
    commitment, chain = config.commitment(), call.chain
    if commitment is Commitment.PROCESSED:
        raise invalid_params("Method does not support commitment below `confirmed`")
    limit = whole(config.values.get("limit", HISTORY_LIMIT), "limit", HISTORY_LIMIT)
    before = _number_of(chain, config.values.get("before"), 2**62)
    until = _number_of(chain, config.values.get("until"), 0)
    slot, now = chain.slot_at(commitment), chain.now()
    rows = chain.journal.history(bytes(key), before, until, slot, limit)
    for row in rows:
        row["signature"] = wire.base58.encode(row["signature"])
        row["confirmationStatus"] = reached(now - row["slot"]).value
    return rows


async def request_airdrop(call: Call) -> str:
    """Lamports from the faucet, by a transaction like any other."""
    key = call.key(0)
    lamports = call.integer(1, "lamports", LAMPORTS_LIMIT)
    return (await _give(call, key, lamports, 0))["signature"]


async def fund(call: Call) -> dict[str, Any]:
    """`minisol_fund [address, {"usdc": base units, "lamports": n}]`: ours, no chain has it."""
    key, values = call.key(0), call.config(1).values
    lamports = whole(values.get("lamports", 0), "lamports", LAMPORTS_LIMIT)
    usdc = values.get("usdc", 0)
    if isinstance(usdc, str) and usdc.isascii() and usdc.isdecimal() and len(usdc) < 20:
        usdc = int(usdc)
    return await _give(call, key, lamports, whole(usdc, "usdc", USDC_LIMIT_MICRO))


async def _give(call: Call, key: Any, lamports: int, usdc_micro: int) -> dict[str, Any]:
    chain = call.chain
    if not lamports and not usdc_micro:
        raise invalid_params("invalid value: an amount of more than nothing is needed")
    blockhash, nonce = chain.blockhash(chain.now()), os.urandom(NONCE_BYTES).hex()
    transaction = gift(chain.faucet, key, lamports, usdc_micro, blockhash, nonce)
    outcome = await chain.land(transaction)
    if outcome.error is not None:
        raise _preflight_failure(outcome)
    return {
        "signature": str(transaction.signatures[0]),
        "lamports": lamports,
        "usdc": str(usdc_micro),
    }


def _preflight_failure(outcome: Outcome) -> RpcError:
    name = error_name(outcome.error)
    data = _simulated(outcome, with_inner=False)
    saying = SAYINGS.get(name) or _instruction_saying(outcome.error) or name
    return RpcError(PREFLIGHT_FAILURE, f"Transaction simulation failed: {saying}", data)


def _instruction_saying(error: Any) -> str | None:
    if not isinstance(error, dict) or "InstructionError" not in error:
        return None
    index, cause = cast("dict[str, Any]", error)["InstructionError"]
    if isinstance(cause, dict) and "Custom" in cause:
        code = cast("dict[str, int]", cause)["Custom"]
        return f"Error processing Instruction {index}: custom program error: {code:#x}"
    return f"Error processing Instruction {index}: {cause}"


def _simulated(outcome: Outcome, *, with_inner: bool) -> dict[str, Any]:
    return {
        "err": outcome.error,
        "logs": list(outcome.logs),
        "accounts": None,
        "unitsConsumed": outcome.units,
        "returnData": returned_json(outcome),
        "innerInstructions": inner_json(outcome) if with_inner else None,
        "fee": outcome.fee.total,
    }


def _wanted_accounts(
    config: Config, transaction: VersionedTransaction, outcome: Outcome
) -> list[dict[str, Any] | None] | None:
    wanted = config.values.get("accounts")
    if wanted is None:
        return None
    members = cast("dict[str, Any]", wanted) if isinstance(wanted, dict) else {}
    form = Config(config.chain, {"encoding": members.get("encoding")})
    encoding = form.encoding("base64", "base64", "jsonParsed")
    call = Call(config.chain, [members.get("addresses")])
    limit = len(transaction.message.account_keys)
    keys = [wire.key_of(text) for text in call.texts(0, "accounts.addresses", limit)]
    if outcome.error is not None:
        return [None for _ in keys]
    newest = Commitment.PROCESSED
    after = [
        outcome.changes[key] if key in outcome.changes else config.chain.account(key, newest)
        for key in keys
    ]
    return [account_json(form, account, encoding, newest) for account in after]


def _dropped(signature: str, why: str) -> str:
    log.info("a transaction cannot land and was dropped", extra={"tx": signature, "cause": why})
    return signature


def _signature_of(text: object) -> Signature:
    if not isinstance(text, str):
        raise invalid_params("invalid type: a signature must be a string")
    try:
        return Signature.from_string(text)
    except ValueError as error:
        raise invalid_params(f"Invalid param: {error}") from error


def _number_of(chain: Chain, text: object, default: int) -> int:
    if text is None:
        return default
    number = chain.journal.number_of(bytes(_signature_of(text)))
    if number is None:
        raise RpcError(
            INTERNAL_ERROR, "no such transaction here: before and until name landed ones"
        )
    return number
