"""EVM networks: what we read of a payment ourselves, over any JSON-RPC."""

from __future__ import annotations

from parhelion.chain.evm.read import (
    ReadFailed,
    Reading,
    Received,
    Rpc,
    State,
    find_authorization,
    is_authorization_used,
    judge,
    read_transaction,
)

__all__ = [
    "ReadFailed",
    "Reading",
    "Received",
    "Rpc",
    "State",
    "find_authorization",
    "is_authorization_used",
    "judge",
    "read_transaction",
]
