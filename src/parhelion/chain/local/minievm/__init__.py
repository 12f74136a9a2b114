"""minievm: a real EVM (py-evm) with a durable chain (SQLite) behind Ethereum's JSON-RPC, LOCAL.

`python -m parhelion.chain.local.minievm --data DIR` is a process of its own: py-evm is large, and
a call that computes for a second must not hold up a coordinator. This module holds names only:
whoever needs them does not load the engine.
"""

from __future__ import annotations

CHAIN_ID = 84532
"""Base Sepolia's, so that "$" prices, token tables and spend limits of stock clients work."""

CAIP2 = f"eip155:{CHAIN_ID}"

USDC_ADDRESS = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
"""Where Base Sepolia has its USDC, and this chain its own token of the same interface."""

USDC_DECIMALS = 6
