"""Wallets: one key for Solana and one for EVM in a file of their owner, and what they sign."""

from __future__ import annotations

from parhelion.chain.wallet.keyfile import Wallet, create, default_path, load

__all__ = ["Wallet", "create", "default_path", "load"]
