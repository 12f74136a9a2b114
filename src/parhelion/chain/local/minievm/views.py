"""Blocks, transactions, receipts and logs as Ethereum's JSON-RPC shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parhelion.chain.local.minievm.encoding import data, quantity, word
from parhelion.chain.local.minievm.limits import CHAIN_ID
from parhelion.chain.local.minievm.records import Header, Log, Mined
from parhelion.chain.local.minievm.sealing import BLOOM_BYTES
from parhelion.chain.local.minievm.signed import LEGACY, Signed

View = dict[str, Any]


def block_view(header: Header, transactions: Sequence[View] | Sequence[str], size: int) -> View:
    """A block; its transactions whole or as hashes."""
    return {
        "number": quantity(header.number),
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "sha3Uncles": data(header.uncles_hash),
        "miner": data(header.coinbase),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transactions_root),
        "receiptsRoot": data(header.receipts_root),
        "logsBloom": data(header.bloom.to_bytes(BLOOM_BYTES, "big")),
        "difficulty": "0x0",
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "extraData": data(header.extra),
        "mixHash": data(header.mix_hash),
        "nonce": data(bytes(8)),
        "baseFeePerGas": quantity(header.base_fee),
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": data(header.parent_beacon_root),
        "requestsHash": data(header.requests_hash),
        "size": quantity(size),
        "uncles": [],
        "withdrawals": [],
        "transactions": list(transactions),
    }


def transaction_view(signed: Signed, mined: Mined | None, block_hash: bytes | None) -> View:
    """A transaction; one that waits for a block has nulls where the block would be."""
    view: View = {
        "hash": data(signed.hash),
        "type": quantity(signed.kind),
        "from": data(signed.sender),
        "to": data(signed.to) if signed.to else None,
        "nonce": quantity(signed.nonce),
        "gas": quantity(signed.gas),
        "value": quantity(signed.value),
        "input": data(signed.data),
        "chainId": quantity(CHAIN_ID),
        "v": quantity(signed.v),
        "r": quantity(signed.r),
        "s": quantity(signed.s),
        "blockHash": None if block_hash is None else data(block_hash),
        "blockNumber": None if mined is None else quantity(mined.block),
        "transactionIndex": None if mined is None else quantity(mined.position),
        "gasPrice": quantity(signed.fee_cap if mined is None else mined.gas_price),
    }
    if signed.kind != LEGACY:
        view["yParity"] = quantity(signed.v)
        view["accessList"] = [
            {"address": data(address), "storageKeys": [word(slot) for slot in slots]}
            for address, slots in signed.access_list
        ]
    if signed.kind == 2:
        view["maxFeePerGas"] = quantity(signed.fee_cap)
        view["maxPriorityFeePerGas"] = quantity(signed.tip_cap)
    return view


def receipt_view(signed: Signed, mined: Mined, block_hash: bytes, logs: Sequence[Log]) -> View:
    """What became of a mined transaction: `status` 0x0 is one that reverted and was paid for."""
    return {
        "transactionHash": data(mined.hash),
        "transactionIndex": quantity(mined.position),
        "blockHash": data(block_hash),
        "blockNumber": quantity(mined.block),
        "from": data(signed.sender),
        "to": data(signed.to) if signed.to else None,
        "contractAddress": None if mined.created is None else data(mined.created),
        "status": quantity(mined.status),
        "type": quantity(signed.kind),
        "gasUsed": quantity(mined.gas_used),
        "cumulativeGasUsed": quantity(mined.cumulative_gas),
        "effectiveGasPrice": quantity(mined.gas_price),
        "logsBloom": data(mined.bloom),
        "logs": [log_view(log, mined.hash, block_hash) for log in logs],
    }


def log_view(log: Log, tx_hash: bytes, block_hash: bytes) -> View:
    """One event."""
    return {
        "address": data(log.address),
        "topics": [data(topic) for topic in log.topics],
        "data": data(log.data),
        "blockNumber": quantity(log.block),
        "blockHash": data(block_hash),
        "transactionHash": data(tx_hash),
        "transactionIndex": quantity(log.tx_position),
        "logIndex": quantity(log.position),
        "removed": False,
    }
