"""What an address holds of a token and of its network's own coin, read from the chain."""

from __future__ import annotations

import msgspec

from parhelion.chain.rpc import RpcUnavailable
from parhelion.chain.solana import RpcCall, associated_account
from parhelion.words import Record

BALANCE_OF = "0x70a08231"
"""Selector of balanceOf(address), of ERC-20."""

WORD_CHARS = 66


class Holding(Record, frozen=True, kw_only=True):
    """Base units of the token; `native` in lamports or wei, which pay for one's own transfers.

    `has_account`: whether the chain has an account of the token for it; on EVM chains all have.
    """

    token_micro: int
    native: int
    has_account: bool = True


class _Lamports(msgspec.Struct):
    value: int


class _TokenAmount(msgspec.Struct):
    amount: str


class _Info(msgspec.Struct, rename="camel"):
    token_amount: _TokenAmount


class _Parsed(msgspec.Struct):
    info: _Info


class _Data(msgspec.Struct):
    parsed: _Parsed


class _Account(msgspec.Struct):
    data: _Data


class _Row(msgspec.Struct):
    pubkey: str
    account: _Account


class _Rows(msgspec.Struct):
    value: list[_Row]


async def on_solana(rpc: RpcCall, owner: str, mint: str) -> Holding:
    """What a Solana address holds, at `confirmed`: in lamports, and in its associated account."""
    lamports = await rpc("getBalance", [owner, {"commitment": "confirmed"}])
    try:
        native = msgspec.convert(lamports, _Lamports).value
    except ValueError as error:
        raise _misshapen(error) from error
    token_micro, has_account = await token_on_solana(rpc, owner, mint)
    return Holding(token_micro=token_micro, native=native, has_account=has_account)


async def token_on_solana(rpc: RpcCall, owner: str, mint: str) -> tuple[int, bool]:
    """The token alone, at `confirmed`: base units, and whether there is an account for it."""
    how = {"encoding": "jsonParsed", "commitment": "confirmed"}
    rows = await rpc("getTokenAccountsByOwner", [owner, {"mint": mint}, how])
    try:
        accounts = msgspec.convert(rows, _Rows).value
        ours = associated_account(owner, mint)
        amounts = [
            row.account.data.parsed.info.token_amount.amount
            for row in accounts
            if row.pubkey == ours
        ]
        return sum(_whole(text) for text in amounts), bool(amounts)
    except ValueError as error:
        raise _misshapen(error) from error


async def on_evm(rpc: RpcCall, owner: str, token: str) -> Holding:
    """What an EVM address holds, at the last block."""
    token_micro, _ = await token_on_evm(rpc, owner, token)
    wei = await rpc("eth_getBalance", [owner, "latest"])
    return Holding(token_micro=token_micro, native=_number(wei))


async def token_on_evm(rpc: RpcCall, owner: str, token: str) -> tuple[int, bool]:
    """The token alone, at the last block: base units; there always is an account for it."""
    call = {"to": token, "data": BALANCE_OF + owner[2:].lower().rjust(64, "0")}
    return _number(await rpc("eth_call", [call, "latest"])), True


def _misshapen(error: ValueError) -> RpcUnavailable:
    return RpcUnavailable(f"a balance not in Solana's shape: {error}")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise ValueError("an amount is no whole number")
    return int(text)


def _number(value: object) -> int:
    if (
        not isinstance(value, str)
        or not value.startswith("0x")
        or not 3 <= len(value) <= WORD_CHARS
    ):
        raise RpcUnavailable("a balance that is no hex number")
    try:
        return int(value, 16)
    except ValueError as error:
        raise RpcUnavailable("a balance that is no hex number") from error
