"""Our own read of a payment on an EVM chain: what a grant rests on, whoever said it was settled.

The receipt's status comes first: a transaction that reverted has a hash, a block and a receipt like
any other. Then only the token's own Transfer logs count, and of them only those to the payee. What
a node answers is judged field by field; an answer that contradicts itself is no answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

Rpc = Callable[[str, list[object]], Awaitable[object]]
"""One JSON-RPC call: method and params to `result`; it has its own deadline, and raises."""

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""keccak256 of Transfer(address,address,uint256), of ERC-20."""

AUTHORIZATION_USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
"""keccak256 of AuthorizationUsed(address,bytes32), of EIP-3009."""

AUTHORIZATION_STATE = "0xe94a0102"
"""Selector of authorizationState(address,bytes32), of EIP-3009."""

LOG_LIMIT = 10_000
"""More logs than a block of Base can hold; a longer list is not a receipt."""

ADDRESS_CHARS = 42
HASH_CHARS = 66


class ReadFailed(Exception):
    """The node's answer cannot be relied on: malformed, or about something else."""


class State(StrEnum):
    """What is known of a transaction."""

    UNKNOWN = "unknown"
    """No receipt: not mined yet, or never sent."""
    FAILED = "failed"
    """Mined and reverted: nothing was paid."""
    SUCCEEDED = "succeeded"
    """Mined, and its code ran to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One Transfer of the token to the payee; addresses are lower-case hex."""

    payer: str
    amount: int
    log_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A transaction as we read it; `authorizations` are its (payer, nonce) of EIP-3009.

    `fee_wei` is what one that failed cost its sender, as far as its receipt tells.
    """

    transaction: str
    state: State
    block_number: int | None = None
    block_hash: str | None = None
    received: tuple[Received, ...] = ()
    authorizations: tuple[tuple[str, str], ...] = ()
    fee_wei: int = 0

    def amount_from(self, payer: str) -> int:
        """What the payee got from `payer` by this transaction, in the token's base units."""
        wanted = payer.lower()
        return sum(item.amount for item in self.received if item.payer == wanted)


async def read_transaction(rpc: Rpc, transaction: str, token: str, payee: str) -> Reading:
    """Read a transaction from the chain: did it succeed, and what did `payee` get in `token`?"""
    asked = _hash(transaction, "transaction")
    receipt = await rpc("eth_getTransactionReceipt", [asked])
    return judge(receipt, asked, token, payee)


async def is_authorization_used(rpc: Rpc, token: str, payer: str, nonce: str) -> bool:
    """Whether an EIP-3009 authorization was spent or cancelled: then it never pays again."""
    words = _address(payer, "payer")[2:].rjust(64, "0") + _hash(nonce, "nonce")[2:]
    call = {"to": _address(token, "token"), "data": AUTHORIZATION_STATE + words}
    answer = _hash(await rpc("eth_call", [call, "latest"]), "authorizationState")
    if int(answer, 16) not in (0, 1):
        raise ReadFailed("authorizationState is neither true nor false")
    return int(answer, 16) == 1


async def find_authorization(
    rpc: Rpc, token: str, payer: str, nonce: str, first_block: int
) -> str | None:
    """The transaction that spent an authorization at or after `first_block`, or None."""
    topics = [AUTHORIZATION_USED, _topic(payer), _hash(nonce, "nonce")]
    address = _address(token, "token")
    wanted = {"address": address, "fromBlock": hex(first_block), "toBlock": "latest"}
    found = await rpc("eth_getLogs", [{**wanted, "topics": topics}])
    for log in _list(found, "logs"):
        fields = _fields(log, "log")
        if _address(fields.get("address"), "log address") != address:
            raise ReadFailed("a log of another contract was returned")
        if [_hash(topic, "topic") for topic in _list(fields.get("topics"), "topics")] != topics:
            raise ReadFailed("a log of another authorization was returned")
        return _hash(fields.get("transactionHash"), "log transactionHash")
    return None


def judge(receipt: object, transaction: str, token: str, payee: str) -> Reading:
    """What a receipt says of a payment in `token` to `payee`; ReadFailed when it cannot be."""
    asked = _hash(transaction, "transaction")
    if receipt is None:
        return Reading(transaction=asked, state=State.UNKNOWN)
    fields = _fields(receipt, "receipt")
    if _hash(fields.get("transactionHash"), "transactionHash") != asked:
        raise ReadFailed("the receipt is of another transaction")
    if fields.get("blockHash") is None and fields.get("blockNumber") is None:
        # Some nodes give a receipt before the block is sealed: that is not yet one.
        return Reading(transaction=asked, state=State.UNKNOWN)
    block_hash = _hash(fields.get("blockHash"), "blockHash")
    block_number = _number(fields.get("blockNumber"), "blockNumber")
    status = _number(fields.get("status"), "status")
    if status not in (0, 1):
        raise ReadFailed("status is neither 0 nor 1")
    if status == 0:
        return Reading(
            transaction=asked,
            state=State.FAILED,
            block_number=block_number,
            block_hash=block_hash,
            fee_wei=_fee_wei(fields),
        )
    logs = [_fields(log, "log") for log in _list(fields.get("logs"), "logs")]
    of_token = [log for log in logs if _is_of(log, asked, _address(token, "token"))]
    return Reading(
        transaction=asked,
        state=State.SUCCEEDED,
        block_number=block_number,
        block_hash=block_hash,
        received=_received(of_token, _topic(payee)),
        authorizations=_authorizations(of_token),
    )


def _fee_wei(receipt: dict[str, object]) -> int:
    """Gas, and the part of the chain below that rollups name; 0 where they are not told."""
    try:
        gas = _number(receipt.get("gasUsed"), "gasUsed")
        price_wei = _number(receipt.get("effectiveGasPrice"), "effectiveGasPrice")
        below_wei = _number(receipt.get("l1Fee", "0x0"), "l1Fee")
    except ReadFailed:
        return 0
    return gas * price_wei + below_wei


def _is_of(log: dict[str, object], transaction: str, token: str) -> bool:
    if log.get("removed") not in (None, False):
        raise ReadFailed("the receipt has a log that was removed")
    if _hash(log.get("transactionHash"), "log transactionHash") != transaction:
        raise ReadFailed("the receipt has a log of another transaction")
    return _address(log.get("address"), "log address") == token


def _received(logs: list[dict[str, object]], payee: str) -> tuple[Received, ...]:
    found: list[Received] = []
    seen: set[int] = set()
    for log in logs:
        topics = [_hash(topic, "topic") for topic in _list(log.get("topics"), "topics")]
        if len(topics) != 3 or topics[0] != TRANSFER or topics[2] != payee:
            continue
        index = _number(log.get("logIndex"), "logIndex")
        if index in seen:
            raise ReadFailed("one log appears twice")
        seen.add(index)
        amount = int(_hash(log.get("data"), "Transfer data"), 16)
        found.append(Received(payer=_of_topic(topics[1]), amount=amount, log_index=index))
    return tuple(found)


def _authorizations(logs: list[dict[str, object]]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for log in logs:
        topics = [_hash(topic, "topic") for topic in _list(log.get("topics"), "topics")]
        if len(topics) == 3 and topics[0] == AUTHORIZATION_USED:
            found.append((_of_topic(topics[1]), topics[2]))
    return tuple(found)


def _topic(address: str) -> str:
    return "0x" + _address(address, "address")[2:].rjust(64, "0")


def _of_topic(topic: str) -> str:
    if set(topic[2:26]) != {"0"}:
        raise ReadFailed("a topic that should be an address is none")
    return "0x" + topic[26:]


def _fields(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ReadFailed(f"{what} is not an object")
    return cast("dict[str, object]", value)


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise ReadFailed(f"{what} is not a list")
    items = cast("list[object]", value)
    if len(items) > LOG_LIMIT:
        raise ReadFailed(f"{what} has {len(items)} entries")
    return items


def _address(value: object, what: str) -> str:
    return _hex(value, ADDRESS_CHARS, what)


def _hash(value: object, what: str) -> str:
    return _hex(value, HASH_CHARS, what)


def _hex(value: object, chars: int, what: str) -> str:
    if not isinstance(value, str) or len(value) != chars or not value.startswith("0x"):
        raise ReadFailed(f"{what} is not {(chars - 2) // 2} bytes of hex")
    lower = value.lower()
    if not set(lower[2:]) <= set("0123456789abcdef"):
        raise ReadFailed(f"{what} is not hex")
    return lower


def _number(value: object, what: str) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or not 3 <= len(value) <= 18:
        raise ReadFailed(f"{what} is not a hex number")
    digits = value[2:].lower()
    if not set(digits) <= set("0123456789abcdef"):
        raise ReadFailed(f"{what} is not a hex number")
    return int(digits, 16)
