"""What is kept of a transaction that landed: its `meta`, made from the accounts around it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from parhelion.chain.local.minisol.bank import Bank, Changes, Outcome
from parhelion.chain.local.minisol.fees import AnyMessage
from parhelion.chain.local.minisol.tokens import PROGRAM_NAMES, amount_json, holding_in, mint_in
from parhelion.chain.local.minisol.wire import memo_of
from parhelion.identity import base58


@dataclass(frozen=True, slots=True)
class Landed:
    """One row of the journal: a transaction in its slot, and the accounts that it changed."""

    signature: bytes
    message_hash: bytes
    slot: int
    block_time_s: int
    wire: bytes
    error: Any
    meta: bytes
    memo: str | None
    addresses: tuple[bytes, ...]
    changes: Changes


def landed(
    transaction: VersionedTransaction, outcome: Outcome, bank: Bank, slot: int, now_ms: int
) -> Landed:
    """The record of an outcome, made before the bank takes the changes over."""
    message = transaction.message
    keys = message.account_keys
    before = {key: bank.account(key) for key in keys if not _is_program(message, key)}
    after = {key: outcome.changes.get(key, account) for key, account in before.items()}
    meta: dict[str, Any] = {
        "err": outcome.error,
        "status": status(outcome.error),
        "fee": outcome.fee.total,
        "preBalances": [_lamports(before, key, bank) for key in keys],
        "postBalances": [_lamports(after, key, bank) for key in keys],
        "preTokenBalances": _token_balances(message, before, bank),
        "postTokenBalances": _token_balances(message, after, bank),
        "innerInstructions": inner_json(outcome),
        "logMessages": list(outcome.logs),
        "rewards": [],
        "loadedAddresses": {"writable": [], "readonly": []},
        "computeUnitsConsumed": outcome.units,
    }
    if outcome.returned is not None:
        meta["returnData"] = returned_json(outcome)
    return Landed(
        signature=bytes(transaction.signatures[0]),
        message_hash=bytes(hash_of(message)),
        slot=slot,
        block_time_s=now_ms // 1000,
        wire=bytes(transaction),
        error=outcome.error,
        meta=msgspec.json.encode(meta),
        memo=memo_of(message),
        addresses=tuple(bytes(key) for key in keys),
        changes=outcome.changes,
    )


def hash_of(message: AnyMessage) -> bytes:
    """What a transaction is known by: a fee payer may sign the same one twice, differently."""
    return bytes(type(message).hash(message))  # type: ignore[arg-type]


def status(error: Any) -> dict[str, Any]:
    """An error in the older of Solana's two forms."""
    return {"Ok": None} if error is None else {"Err": error}


def inner_json(outcome: Outcome) -> list[dict[str, Any]]:
    """What programs called in turn, grouped by the instruction that began it."""
    return [
        {"index": index, "instructions": [_called(step) for step in steps]}
        for index, steps in enumerate(outcome.inner)
        if steps
    ]


def returned_json(outcome: Outcome) -> dict[str, Any] | None:
    """What the last program returned, if any did."""
    if outcome.returned is None:
        return None
    program, data = outcome.returned
    return {
        "programId": base58.encode(program),
        "data": [base64.b64encode(data).decode(), "base64"],
    }


def _called(step: dict[str, Any]) -> dict[str, Any]:
    instruction = step["instruction"]
    # Byte strings come as lists whose first member is their length in Solana's short form.
    return {
        "programIdIndex": instruction["programIdIndex"],
        "accounts": instruction["accounts"][1:],
        "data": base58.encode(bytes(instruction["data"][1:])),
        "stackHeight": step["stackHeight"],
    }


def _token_balances(
    message: AnyMessage, accounts: dict[Pubkey, Account | None], bank: Bank
) -> list[dict[str, Any]]:
    balances: list[dict[str, Any]] = []
    for index, key in enumerate(message.account_keys):
        account = accounts.get(key)
        holding = holding_in(account)
        if account is None or holding is None:
            continue
        mint = mint_in(accounts.get(holding.mint) or bank.account(holding.mint))
        if mint is None:
            continue  # Wrapped SOL: no account stands behind its mint here.
        balances.append(
            {
                "accountIndex": index,
                "mint": str(holding.mint),
                "owner": str(holding.owner),
                "programId": str(account.owner),
                "uiTokenAmount": amount_json(holding.amount, mint.decimals),
            }
        )
    return balances


def _is_program(message: AnyMessage, key: Pubkey) -> bool:
    # Programs are not changed by being called, and copying a megabyte of code costs time.
    keys = message.account_keys
    return key in PROGRAM_NAMES or any(
        keys[instruction.program_id_index] == key for instruction in message.instructions
    )


def _lamports(accounts: dict[Pubkey, Account | None], key: Pubkey, bank: Bank) -> int:
    if key not in accounts:
        return bank.lamports(key)
    account = accounts[key]
    return 0 if account is None else account.lamports
