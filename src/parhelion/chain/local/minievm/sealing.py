# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# py-evm makes its classes at run time, so a checker cannot know their fields.
"""Headers, receipts and their roots: a block is hashed as on any Ethereum chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import rlp  # pyright: ignore[reportMissingTypeStubs]
from eth.vm.forks.prague.blocks import PragueBlockHeader
from eth_bloom.bloom import BloomFilter
from eth_typing import Address, BlockNumber, Hash32
from trie.hexary import HexaryTrie

from parhelion.chain.local.minievm.limits import BASE_FEE_WEI, BLOCK_GAS, FEE_VAULT
from parhelion.chain.local.minievm.machine import BLANK_ROOT, Outcome
from parhelion.chain.local.minievm.records import Block, Header, Log, Mined
from parhelion.chain.local.minievm.signed import LEGACY, Signed

EXTRA = b"minievm LOCAL"
BLOOM_BYTES = 256


@dataclass(frozen=True, slots=True)
class Run:
    """A transaction with how it went."""

    signed: Signed
    outcome: Outcome


def seal(
    parent: Header | None,
    timestamp: int,
    state_root: bytes,
    runs: Sequence[Run],
    nodes: dict[bytes, bytes],
) -> Block:
    """The block of these runs on top of `parent`, or the first one."""
    number = 0 if parent is None else parent.number + 1
    mined: list[Mined] = []
    logs: list[Log] = []
    receipts: list[bytes] = []
    bloom = 0
    gas_used = 0
    for position, run in enumerate(runs):
        gas_used += run.outcome.gas_used
        new_logs = _logs(number, position, len(logs), run.outcome)
        tx_bloom = _bloom(new_logs)
        bloom |= tx_bloom
        receipts.append(_receipt(run, gas_used, tx_bloom, new_logs))
        mined.append(_mined(number, position, run, gas_used, len(logs), len(new_logs), tx_bloom))
        logs.extend(new_logs)
    sealed = cast("Any", PragueBlockHeader)(
        difficulty=0,
        block_number=BlockNumber(number),
        gas_limit=BLOCK_GAS,
        timestamp=timestamp,
        coinbase=Address(FEE_VAULT),
        parent_hash=Hash32(bytes(32) if parent is None else parent.hash),
        state_root=Hash32(state_root),
        transaction_root=_root([run.signed.raw for run in runs]),
        receipt_root=_root(receipts),
        bloom=bloom,
        gas_used=gas_used,
        extra_data=EXTRA,
        nonce=bytes(8),
        base_fee_per_gas=BASE_FEE_WEI,
    )
    return Block(
        header=read_header(rlp.encode(sealed)),
        transactions=tuple(mined),
        logs=tuple(logs),
        nodes=nodes,
    )


def read_header(encoded: bytes) -> Header:
    """A header from its RLP."""
    found = cast("Any", rlp.decode(encoded, sedes=PragueBlockHeader))
    return Header(
        number=found.block_number,
        hash=bytes(found.hash),
        parent_hash=bytes(found.parent_hash),
        state_root=bytes(found.state_root),
        transactions_root=bytes(found.transaction_root),
        receipts_root=bytes(found.receipt_root),
        withdrawals_root=bytes(found.withdrawals_root),
        parent_beacon_root=bytes(found.parent_beacon_block_root),
        requests_hash=bytes(found.requests_hash),
        uncles_hash=bytes(found.uncles_hash),
        bloom=found.bloom,
        gas_limit=found.gas_limit,
        gas_used=found.gas_used,
        timestamp=found.timestamp,
        base_fee=found.base_fee_per_gas,
        coinbase=bytes(found.coinbase),
        extra=bytes(found.extra_data),
        mix_hash=bytes(found.mix_hash),
        encoded=encoded,
    )


def _mined(
    number: int,
    position: int,
    run: Run,
    cumulative: int,
    first_log: int,
    logs: int,
    bloom: int,
) -> Mined:
    signed, outcome = run.signed, run.outcome
    return Mined(
        block=number,
        position=position,
        hash=signed.hash,
        raw=signed.raw,
        status=1 if outcome.error is None else 0,
        gas_used=outcome.gas_used,
        cumulative_gas=cumulative,
        gas_price=signed.gas_price(BASE_FEE_WEI),
        created=outcome.created,
        logs=logs,
        first_log=first_log,
        bloom=bloom.to_bytes(BLOOM_BYTES, "big"),
    )


def _logs(number: int, tx_position: int, first: int, outcome: Outcome) -> list[Log]:
    return [
        Log(
            block=number,
            position=first + index,
            tx_position=tx_position,
            address=bytes(address),
            topics=tuple(topic.to_bytes(32, "big") for topic in topics),
            data=bytes(data),
        )
        for index, (address, topics, data) in enumerate(outcome.logs)
    ]


def _bloom(logs: Sequence[Log]) -> int:
    return int(
        BloomFilter.from_iterable(item for log in logs for item in (log.address, *log.topics))
    )


def _receipt(run: Run, cumulative: int, bloom: int, logs: Sequence[Log]) -> bytes:
    status = b"\x01" if run.outcome.error is None else b""
    entries = [[log.address, list(log.topics), log.data] for log in logs]
    payload = cast(
        "bytes", rlp.encode([status, cumulative, bloom.to_bytes(BLOOM_BYTES, "big"), entries])
    )
    return payload if run.signed.kind == LEGACY else bytes([run.signed.kind]) + payload


def _root(items: Sequence[bytes]) -> Hash32:
    if not items:
        return Hash32(BLANK_ROOT)
    trie = HexaryTrie({})
    for index, item in enumerate(items):
        trie[rlp.encode(index)] = item
    return Hash32(trie.root_hash)
