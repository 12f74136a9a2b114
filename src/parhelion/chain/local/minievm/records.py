"""What the chain keeps of a block: header, transactions with their receipts, logs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A sealed block's header: `encoded` is its RLP, whose hash is `hash`."""

    number: int
    hash: bytes
    parent_hash: bytes
    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    withdrawals_root: bytes
    parent_beacon_root: bytes
    requests_hash: bytes
    uncles_hash: bytes
    bloom: int
    gas_limit: int
    gas_used: int
    timestamp: int
    base_fee: int
    coinbase: bytes
    extra: bytes
    mix_hash: bytes
    encoded: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One event of a contract; `position` counts through the block."""

    block: int
    position: int
    tx_position: int
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """A transaction in its block, with what its receipt says."""

    block: int
    position: int
    hash: bytes
    raw: bytes
    status: int
    gas_used: int
    cumulative_gas: int
    gas_price: int
    created: bytes | None
    logs: int
    first_log: int
    bloom: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block to be kept: all of it becomes durable in one commit, or none."""

    header: Header
    transactions: tuple[Mined, ...] = ()
    logs: tuple[Log, ...] = ()
    nodes: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which logs are wanted: any address of `addresses`, and at each place one of the topics."""

    first_block: int
    last_block: int
    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...], ...] = ()
