"""An EVM transaction as it is on the chain: its receipt, and the Transfer logs of its tokens."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from parhelion.chain.evm.read import LOG_LIMIT, TRANSFER, Rpc
from parhelion.chain.transaction import CHANGES_LIMIT, Change, Misshapen, Standing, Transaction

Address = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{40}$")]
Word = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{64}$")]
Number = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{1,64}$")]
"""A uint256 has at most 64 hex digits."""

REVERTED = "reverted"
"""A receipt says no more about a failure than that there was one."""

Shape = TypeVar("Shape")


class _Log(msgspec.Struct):
    address: Address
    topics: Annotated[list[Word], Meta(max_length=4)]
    data: str


class _Receipt(msgspec.Struct, rename="camel"):
    transaction_hash: Word
    status: Number
    sender: Address = msgspec.field(name="from")
    gas_used: Number
    effective_gas_price: Number
    logs: Annotated[list[_Log], Meta(max_length=LOG_LIMIT)]
    block_number: Number | None = None
    block_hash: Word | None = None
    l1_fee: Number | None = msgspec.field(name="l1Fee", default=None)
    """What a rollup adds for its data on layer 1."""


class _Block(msgspec.Struct):
    hash: Word
    timestamp: Number


async def explore(rpc: Rpc, transaction: str) -> Transaction | None:
    """What the chain has of a transaction, by its hash; None where it has nothing."""
    receipt = await rpc("eth_getTransactionReceipt", [transaction])
    if receipt is None:
        known = await rpc("eth_getTransactionByHash", [transaction])
        return None if known is None else Transaction(id=transaction, standing=Standing.PENDING)
    told = read_receipt(receipt, transaction)
    if told.block is None:
        return told
    found = _shaped(receipt, _Receipt)
    block = await rpc("eth_getBlockByHash", [found.block_hash, False])
    # A block that is gone again, or another one, tells no time.
    if block is None:
        return told
    timed = _shaped(block, _Block)
    if timed.hash.lower() != (found.block_hash or "").lower():
        raise Misshapen("the block is another one")
    return msgspec.structs.replace(told, at_s=int(timed.timestamp, 16))


def read_receipt(receipt: object, transaction: str) -> Transaction:
    """What a receipt says. Pure; Misshapen where it cannot be, or is of another transaction."""
    told = _shaped(receipt, _Receipt)
    if told.transaction_hash.lower() != transaction.lower():
        raise Misshapen("the receipt is of another transaction")
    if told.block_number is None or told.block_hash is None:
        return Transaction(id=transaction, standing=Standing.PENDING)
    status = int(told.status, 16)
    if status not in (0, 1):
        raise Misshapen("status is neither 0 nor 1")
    changes = _changes(told.logs) if status == 1 else ()
    fee = int(told.gas_used, 16) * int(told.effective_gas_price, 16)
    return Transaction(
        id=transaction,
        standing=Standing.LANDED if status == 1 else Standing.FAILED,
        block=int(told.block_number, 16),
        error=None if status == 1 else REVERTED,
        fee=fee + int(told.l1_fee or "0x0", 16),
        fee_payer=told.sender.lower(),
        changes=changes[:CHANGES_LIMIT],
        omitted=max(0, len(changes) - CHANGES_LIMIT),
    )


def _changes(logs: list[_Log]) -> tuple[Change, ...]:
    gained: defaultdict[tuple[str, str], int] = defaultdict(int)
    for log in logs:
        # With a fourth topic it is a transfer of something that is no amount.
        if len(log.topics) != 3 or log.topics[0].lower() != TRANSFER:
            continue
        amount = int(_shaped(log.data, Word), 16)
        asset = log.address.lower()
        gained[(_party(log.topics[1]), asset)] -= amount
        gained[(_party(log.topics[2]), asset)] += amount
    return tuple(
        Change(owner=owner, asset=asset, amount=amount)
        for (owner, asset), amount in gained.items()
        if amount
    )


def _party(topic: str) -> str:
    if set(topic[2:26]) != {"0"}:
        raise Misshapen("a party of a transfer is no address")
    return "0x" + topic[26:].lower()


def _shaped(value: Any, shape: type[Shape] | Any) -> Any:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise Misshapen(str(error)) from error
