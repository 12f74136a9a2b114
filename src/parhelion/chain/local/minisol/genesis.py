"""The first state: a mint at USDC's address, and a faucet that may mint and give lamports."""

from __future__ import annotations

from pathlib import Path

from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.state import Mint

from parhelion.chain.local.minisol import USDC_DECIMALS, USDC_MINT
from parhelion.chain.local.minisol.bank import Bank, Changes
from parhelion.chain.local.minisol.tokens import MINT_BYTES, SYSTEM, TOKEN
from parhelion.identity import Entropy, read_secret, write_secret
from parhelion.words import Problem, ProblemCode

FAUCET_LAMPORTS = 500_000_000 * 10**9
"""About what testnet has in all; it cannot run dry by hand."""

FAUCET_KEY_BYTES = 32
KEY_FILE = "faucet.key"
MINT = Pubkey.from_string(USDC_MINT)


def faucet_key(folder: Path, entropy: Entropy) -> Keypair:
    """The faucet's key, in base58 as wallets write it; made at the first start, mode 0600."""
    path = folder / KEY_FILE
    if not path.exists():
        write_secret(path, str(Keypair.from_seed(entropy(FAUCET_KEY_BYTES))))
    try:
        return Keypair.from_base58_string(read_secret(path))
    except ValueError as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"{KEY_FILE} does not hold a Solana key",
            hint="put the key back that made this chain, or remove the chain's folder",
        ) from error


def accounts(faucet: Pubkey, bank: Bank) -> Changes:
    """The accounts that there are before the first transaction."""
    mint = Mint(
        mint_authority=faucet,
        supply=0,
        decimals=USDC_DECIMALS,
        is_initialized=True,
        freeze_authority=None,
    )
    return {
        MINT: Account(bank.rent_exempt(MINT_BYTES), bytes(mint), TOKEN),
        faucet: Account(FAUCET_LAMPORTS, b"", SYSTEM),
    }
