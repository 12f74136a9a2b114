"""Transactions as clients send them, and as answers show them: pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import SanitizeError, VersionedTransaction

from parhelion.chain.local.minisol.fees import AnyMessage
from parhelion.chain.local.minisol.problems import UNSUPPORTED_VERSION, RpcError, invalid_params
from parhelion.chain.local.minisol.tokens import MEMO, MEMO_V1
from parhelion.identity import base58

PACKET_BYTES = 1_232
"""A transaction travels in one packet between validators: none may be longer."""

ENCODED_LIMIT_CHARS = {"base64": 1_644, "base58": 1_683}
"""What PACKET_BYTES come to, encoded."""


def decode(text: object, encoding: object) -> VersionedTransaction:
    """The transaction in a client's text; RpcError that names what is wrong with it."""
    if not isinstance(text, str):
        raise invalid_params("invalid type: the transaction must be a string")
    if not isinstance(encoding, str) or encoding not in ENCODED_LIMIT_CHARS:
        raise invalid_params(f"unsupported encoding: {encoding!r}; use base64 or base58")
    limit = ENCODED_LIMIT_CHARS[encoding]
    if len(text) > limit:
        raise invalid_params(
            f"{encoding} encoded transaction too large: {len(text)} bytes (max: encoded/raw "
            f"{limit}/{PACKET_BYTES})"
        )
    raw = unbase64(text) if encoding == "base64" else unbase58(text)
    if len(raw) > PACKET_BYTES:
        raise invalid_params(
            f"decoded transaction too large: {len(raw)} bytes (max: {PACKET_BYTES} bytes)"
        )
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except SanitizeError as error:
        raise invalid_params(
            f"invalid transaction: Transaction failed to sanitize: {error}"
        ) from error
    except ValueError as error:
        raise invalid_params(f"failed to deserialize the transaction: {error}") from error
    if len(transaction.signatures) != transaction.message.header.num_required_signatures:
        raise invalid_params("invalid transaction: as many signatures as signers are required")
    return transaction


def unbase64(text: str) -> bytes:
    """Standard base64 with padding, nothing else."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_params(f"invalid base64 encoding: {error}") from error


def unbase58(text: str) -> bytes:
    """Base58 of any length that a transaction may have."""
    number = 0
    for character in text:
        value = base58.ALPHABET.find(character)
        if value < 0:
            raise invalid_params(f"invalid base58 encoding: {character!r} is no character of it")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def all_signed(transaction: VersionedTransaction) -> bool:
    """Whether every signature is there and true."""
    results = transaction.verify_with_results()
    return bool(results) and all(results)


def signers(message: AnyMessage) -> int:
    """How many of the first keys sign."""
    return message.header.num_required_signatures


def is_writable(message: AnyMessage, index: int) -> bool:
    """Whether the header lets the transaction change this key's account."""
    header, count = message.header, len(message.account_keys)
    signed = header.num_required_signatures
    if index < signed:
        return index < signed - header.num_readonly_signed_accounts
    return index < count - header.num_readonly_unsigned_accounts


def memo_of(message: AnyMessage) -> str | None:
    """The memos, as `getSignaturesForAddress` tells them: `[length] text; ...`."""
    keys, found = message.account_keys, list[str]()
    for instruction in message.instructions:
        if keys[instruction.program_id_index] in (MEMO, MEMO_V1):
            data = bytes(instruction.data)
            found.append(f"[{len(data)}] {data.decode('utf-8', 'replace')}")
    return "; ".join(found) or None


def version_of(message: AnyMessage) -> int | str:
    """0, or `legacy`."""
    return 0 if isinstance(message, MessageV0) else "legacy"


def shown(raw: bytes, encoding: object, supported: object) -> dict[str, Any]:
    """A landed transaction's `transaction` and `version` members."""
    transaction = VersionedTransaction.from_bytes(raw)
    version = version_of(transaction.message)
    if version != "legacy" and supported is None:
        raise RpcError(
            UNSUPPORTED_VERSION,
            "Transaction version (0) is not supported by the requesting client. Please try the "
            "request again with the following configuration parameter: "
            '"maxSupportedTransactionVersion": 0',
        )
    members: dict[str, Any] = {} if supported is None else {"version": version}
    if encoding == "base64":
        members["transaction"] = [base64.b64encode(raw).decode(), "base64"]
    elif encoding == "base58":
        members["transaction"] = [base58.encode(raw), "base58"]
    elif encoding in ("json", "jsonParsed"):
        message = transaction.message
        show = _message_json if encoding == "json" else _message_parsed
        members["transaction"] = {
            "signatures": [str(signature) for signature in transaction.signatures],
            "message": show(message),
        }
    else:
        raise invalid_params(
            f"unsupported encoding: {encoding!r}; use json, jsonParsed, base64 or base58"
        )
    return members


def _message_json(message: AnyMessage) -> dict[str, Any]:
    header = message.header
    shown: dict[str, Any] = {
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "accountKeys": [str(key) for key in message.account_keys],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programIdIndex": instruction.program_id_index,
                "accounts": list(bytes(instruction.accounts)),
                "data": base58.encode(bytes(instruction.data)),
                "stackHeight": 1,
            }
            for instruction in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        # A table cannot be made here (its program needs slot hashes), so none was ever looked up.
        shown["addressTableLookups"] = []
    return shown


def _message_parsed(message: AnyMessage) -> dict[str, Any]:
    """Solana's form for programs that it has no parser for; we have none at all."""
    keys = message.account_keys
    parsed: dict[str, Any] = {
        "accountKeys": [
            {
                "pubkey": str(key),
                "signer": index < signers(message),
                "writable": is_writable(message, index),
                "source": "transaction",
            }
            for index, key in enumerate(keys)
        ],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programId": str(keys[instruction.program_id_index]),
                "accounts": [str(keys[index]) for index in bytes(instruction.accounts)],
                "data": base58.encode(bytes(instruction.data)),
                "stackHeight": 1,
            }
            for instruction in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        parsed["addressTableLookups"] = []
    return parsed


def key_of(text: object) -> Pubkey:
    """An address in a client's text."""
    if not isinstance(text, str):
        raise invalid_params("invalid type: an address must be a string")
    try:
        return Pubkey.from_string(text)
    except ValueError as error:
        raise invalid_params(f"Invalid param: {error}") from error
