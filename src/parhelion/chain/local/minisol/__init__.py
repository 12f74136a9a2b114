"""minisol: Solana's real programs (LiteSVM) behind a loopback JSON-RPC, journalled; always LOCAL.

It runs under testnet's names so that stock clients find USDC and its decimals by themselves. This
module holds names only: whoever needs them does not load the engine.
"""

from __future__ import annotations

GENESIS_HASH = "4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"
"""Testnet's own: a client that checks its network by this answer is satisfied."""

CAIP2 = f"solana:{GENESIS_HASH[:32]}"

USDC_MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
"""Testnet's official USDC address, which x402's own table of assets names."""

USDC_DECIMALS = 6

__all__ = ["CAIP2", "GENESIS_HASH", "USDC_DECIMALS", "USDC_MINT"]
