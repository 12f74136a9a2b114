"""Chains: reading and writing Solana and EVM networks, the embedded local ones, wallets."""
