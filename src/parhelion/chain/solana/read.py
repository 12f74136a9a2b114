"""Our own read of a payment on Solana: its error before its status, then what the payee gained.

The judgement is pure; the reading takes any function that calls the RPC. An answer that is not in
Solana's shape is a Problem, never a payment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from parhelion.words import Problem, ProblemCode, Record

RpcCall: TypeAlias = Callable[[str, Sequence[Any]], Awaitable[Any]]
"""`await call("getSlot", [])` is the call's result; it raises for an error or no answer in time."""

TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"

SURE = ("confirmed", "finalized")


class Standing(StrEnum):
    """Where a transaction stands, for whoever must decide."""

    UNKNOWN = "unknown"
    """The chain has not seen it (yet)."""
    PENDING = "pending"
    """In a block that is not confirmed, or not readable yet."""
    FAILED = "failed"
    """In a block, and it failed: nothing moved but its fee."""
    LANDED = "landed"
    """Confirmed, without an error."""


class TokenChange(Record, frozen=True, kw_only=True):
    """A token account before and after, in base units."""

    account: str
    owner: str | None
    mint: str
    before: int
    after: int

    @property
    def gained(self) -> int:
        """What came in; below 0 what went out."""
        return self.after - self.before


class Reading(Record, frozen=True, kw_only=True):
    """What the chain says of one payment. `credited` is what the payee's own account gained."""

    standing: Standing
    slot: int | None = None
    error: Any = None
    fee_payer: str | None = None
    fee_lamports: int = 0
    payer: str | None = None
    credited: int = 0
    changes: tuple[TokenChange, ...] = ()


class _Status(msgspec.Struct, rename="camel"):
    slot: int
    err: Any = None
    confirmation_status: str | None = None


class _Amount(msgspec.Struct):
    amount: str


class _Balance(msgspec.Struct, rename="camel"):
    account_index: int
    mint: str
    ui_token_amount: _Amount
    owner: str | None = None


class _Loaded(msgspec.Struct):
    writable: list[str] = []
    readonly: list[str] = []


class _Meta(msgspec.Struct, rename="camel"):
    err: Any
    fee: int
    pre_token_balances: list[_Balance] | None = None
    post_token_balances: list[_Balance] | None = None
    loaded_addresses: _Loaded | None = None


class _Message(msgspec.Struct, rename="camel"):
    account_keys: list[str]


class _Inner(msgspec.Struct):
    signatures: list[str]
    message: _Message


class _Transaction(msgspec.Struct):
    slot: int
    meta: _Meta
    transaction: _Inner


class _Statuses(msgspec.Struct):
    value: list[_Status | None]


class _Flag(msgspec.Struct):
    value: bool


async def read_payment(
    call: RpcCall, signature: str, *, payee: str, mint: str, token_program: str = TOKEN_PROGRAM
) -> Reading:
    """What a transaction did to the payee's associated account of a mint."""
    asked = [[signature], {"searchTransactionHistory": True}]
    statuses = _in_shape(await call("getSignatureStatuses", asked), _Statuses).value
    status = statuses[0] if len(statuses) == 1 else None
    if status is None:
        return Reading(standing=Standing.UNKNOWN)
    if status.err is not None:
        # First of all: a transaction that failed is confirmed like any other.
        sure = status.confirmation_status in SURE
        standing = Standing.FAILED if sure else Standing.PENDING
        return Reading(standing=standing, slot=status.slot, error=status.err)
    if status.confirmation_status not in SURE:
        return Reading(standing=Standing.PENDING, slot=status.slot)
    how = {"encoding": "json", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
    found = await call("getTransaction", [signature, how])
    if found is None:
        # Its block is confirmed, but this server has not indexed it yet.
        return Reading(standing=Standing.PENDING, slot=status.slot)
    account = associated_account(payee, mint, token_program)
    return judge(found, signature=signature, account=account, mint=mint)


def judge(found: Any, *, signature: str, account: str, mint: str) -> Reading:
    """What a `getTransaction` answer says of one token account. Pure."""
    transaction = _in_shape(found, _Transaction)
    if transaction.transaction.signatures[:1] != [signature]:
        raise _misshapen("it is another transaction")
    meta, loaded = transaction.meta, transaction.meta.loaded_addresses or _Loaded()
    keys = transaction.transaction.message.account_keys
    if not keys:
        raise _misshapen("it names no accounts")
    changes = _changes([*keys, *loaded.writable, *loaded.readonly], meta)
    told = Reading(
        standing=Standing.LANDED,
        slot=transaction.slot,
        fee_payer=keys[0],
        fee_lamports=meta.fee,
        changes=changes,
    )
    if meta.err is not None:
        return msgspec.structs.replace(told, standing=Standing.FAILED, error=meta.err)
    credited = sum(c.gained for c in changes if c.account == account and c.mint == mint)
    losers = {c.owner for c in changes if c.mint == mint and c.gained < 0}
    payer = losers.pop() if len(losers) == 1 else None
    return msgspec.structs.replace(told, credited=credited, payer=payer)


async def is_expired(call: RpcCall, blockhash: str) -> bool:
    """Whether a transaction on this blockhash can land no more.

    Ask for its status once more *after* this says so: it may have landed in between.
    """
    valid = await call("isBlockhashValid", [blockhash, {"commitment": "processed"}])
    return not _in_shape(valid, _Flag).value


def associated_account(owner: str, mint: str, token_program: str = TOKEN_PROGRAM) -> str:
    """The one token account of an owner and a mint that everybody can derive."""
    # Loaded here: a coordinator with keys only never comes this way.
    from solders.pubkey import Pubkey
    from solders.token.associated import get_associated_token_address

    try:
        keys = [Pubkey.from_string(text) for text in (owner, mint, token_program)]
    except ValueError as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"not a Solana address: {error}",
            hint="addresses are 32 bytes in base58",
        ) from error
    return str(get_associated_token_address(keys[0], keys[1], keys[2]))


def _changes(keys: Sequence[str], meta: _Meta) -> tuple[TokenChange, ...]:
    # An account that a transaction opens or closes stands on one side only: the other is 0.
    before = {each.account_index: each for each in meta.pre_token_balances or ()}
    after = {each.account_index: each for each in meta.post_token_balances or ()}
    changes: list[TokenChange] = []
    for index in sorted(before.keys() | after.keys()):
        if index >= len(keys):
            raise _misshapen("its token balances do not fit its accounts")
        sides = [side for side in (after.get(index), before.get(index)) if side is not None]
        # Closed and opened again within one transaction, an account may change its mint.
        for mint in sorted({side.mint for side in sides}):
            change = TokenChange(
                account=keys[index],
                owner=next(side.owner for side in sides if side.mint == mint),
                mint=mint,
                before=_units(before.get(index), mint),
                after=_units(after.get(index), mint),
            )
            changes.append(change)
    return tuple(changes)


def _units(balance: _Balance | None, mint: str) -> int:
    if balance is None or balance.mint != mint:
        return 0
    text = balance.ui_token_amount.amount
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise _misshapen("an amount in it is no whole number")
    return int(text)


def _in_shape(answer: Any, shape: type[Any]) -> Any:
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        raise _misshapen(str(error)) from error


def _misshapen(why: str) -> Problem:
    return Problem(
        ProblemCode.INTERNAL,
        f"The chain's RPC server gave an answer that is not in Solana's shape: {why}",
        hint="check rpc_url of the network; nothing was granted on this answer",
    )
