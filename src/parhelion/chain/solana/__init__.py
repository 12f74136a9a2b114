"""Solana, read by ourselves: what a transaction did, whatever somebody says that it did."""

from __future__ import annotations

from parhelion.chain.solana.read import (
    Reading,
    RpcCall,
    Standing,
    TokenChange,
    associated_account,
    is_expired,
    judge,
    read_payment,
)

__all__ = [
    "Reading",
    "RpcCall",
    "Standing",
    "TokenChange",
    "associated_account",
    "is_expired",
    "judge",
    "read_payment",
]
