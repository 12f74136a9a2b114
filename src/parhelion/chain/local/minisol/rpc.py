"""JSON-RPC 2.0: bytes in, bytes out, single calls and batches."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgspec

from parhelion.chain.local.minisol import methods_accounts as accounts
from parhelion.chain.local.minisol import methods_chain as about
from parhelion.chain.local.minisol import methods_transactions as transactions
from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.params import Call
from parhelion.chain.local.minisol.problems import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RpcError,
)

log = logging.getLogger("parhelion.minisol")

BATCH_LIMIT = 100
"""Calls in one body: as many as public providers take."""

Method: TypeAlias = Callable[[Call], Any]

METHODS: dict[str, Method] = {
    "getAccountInfo": accounts.get_account_info,
    "getBalance": accounts.get_balance,
    "getBlockHeight": about.get_slot,
    "getEpochInfo": about.get_epoch_info,
    "getFeeForMessage": about.get_fee_for_message,
    "getGenesisHash": about.get_genesis_hash,
    "getHealth": about.get_health,
    "getLatestBlockhash": about.get_latest_blockhash,
    "getMinimumBalanceForRentExemption": about.get_minimum_balance_for_rent_exemption,
    "getMultipleAccounts": accounts.get_multiple_accounts,
    "getRecentPrioritizationFees": about.get_recent_prioritization_fees,
    "getSignatureStatuses": transactions.get_signature_statuses,
    "getSignaturesForAddress": transactions.get_signatures_for_address,
    "getSlot": about.get_slot,
    "getTokenAccountBalance": accounts.get_token_account_balance,
    "getTokenAccountsByOwner": accounts.get_token_accounts_by_owner,
    "getTokenSupply": accounts.get_token_supply,
    "getTransaction": transactions.get_transaction,
    "getTransactionCount": about.get_transaction_count,
    "getVersion": about.get_version,
    "isBlockhashValid": about.is_blockhash_valid,
    "minisol_fund": transactions.fund,
    "requestAirdrop": transactions.request_airdrop,
    "sendTransaction": transactions.send_transaction,
    "simulateTransaction": transactions.simulate_transaction,
}


async def answer(chain: Chain, body: bytes, more: dict[str, Method] | None = None) -> bytes:
    """The answer to a body; empty when nothing in it asks for one.

    `more` are methods that only this carrier has: subscriptions.
    """
    methods = METHODS if more is None else METHODS | more
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _encoded(_failed(None, RpcError(PARSE_ERROR, "Parse error")))
    if not isinstance(asked, list):
        said = await _answer_one(chain, asked, methods)
        return b"" if said is None else _encoded(said)
    batch = cast("list[Any]", asked)
    if not 0 < len(batch) <= BATCH_LIMIT:
        refusal = f"Invalid request: a batch has 1 to {BATCH_LIMIT} calls"
        return _encoded(_failed(None, RpcError(INVALID_REQUEST, refusal)))
    # One after the other: the calls of one body see each other's effects in order.
    answers = [await _answer_one(chain, one, methods) for one in batch]
    said = [each for each in answers if each is not None]
    return _encoded(said) if said else b""


async def _answer_one(
    chain: Chain, asked: object, methods: dict[str, Method]
) -> dict[str, Any] | None:
    if not isinstance(asked, dict):
        return _failed(None, RpcError(INVALID_REQUEST, "Invalid request: a call is an object"))
    call = cast("dict[str, Any]", asked)
    id, name = call.get("id"), call.get("method")
    if isinstance(id, dict | list | bool):
        return _failed(None, RpcError(INVALID_REQUEST, "Invalid request: id is text or a number"))
    if call.get("jsonrpc") != "2.0" or not isinstance(name, str):
        refusal = RpcError(
            INVALID_REQUEST, 'Invalid request: `jsonrpc` "2.0" and `method` are needed'
        )
        return _failed(id, refusal)
    try:
        result = await _result(chain, name, call.get("params"), methods)
    except RpcError as error:
        return _failed(id, error) if "id" in call else None
    return {"jsonrpc": "2.0", "result": result, "id": id} if "id" in call else None


async def _result(chain: Chain, name: str, params: object, methods: dict[str, Method]) -> Any:
    method = methods.get(name)
    if method is None:
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: minisol has no {name[:80]!r}")
    if params is not None and not isinstance(params, list):
        raise RpcError(INVALID_PARAMS, "Invalid params: they go by place, in a list")
    try:
        result = method(Call(chain, cast("list[Any]", params or [])))
        return await result if inspect.isawaitable(result) else result
    except RpcError:
        raise
    except Exception as error:
        # One call must not end the chain's process, and a client must not see our innards.
        log.exception("a method failed", extra={"method": name})
        raise RpcError(INTERNAL_ERROR, "Internal error") from error


def _failed(id: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": error.as_json(), "id": id}


def _encoded(answered: Any) -> bytes:
    return msgspec.json.encode(answered)
