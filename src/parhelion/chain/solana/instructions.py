"""The instructions that our own Solana transactions are made of.

Import this module lazily: it loads solders.
"""

from __future__ import annotations

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
ASSOCIATED = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
SYSTEM = Pubkey.default()
SET_COMPUTE_LIMIT, SET_COMPUTE_PRICE, CREATE_IDEMPOTENT, TRANSFER_CHECKED = 2, 3, 1, 12


def compute(units: int, price_micro_lamports: int) -> list[Instruction]:
    """How much a transaction may compute, and what it offers for each unit beside the fee."""
    limit = bytes([SET_COMPUTE_LIMIT]) + units.to_bytes(4, "little")
    price = bytes([SET_COMPUTE_PRICE]) + price_micro_lamports.to_bytes(8, "little")
    return [Instruction(COMPUTE_BUDGET, data, []) for data in (limit, price)]


def open_account(payer: Pubkey, owner: Pubkey, mint: Pubkey, program: Pubkey) -> Instruction:
    """Make the owner's associated account of a mint at the payer's cost, unless it is there."""
    account = get_associated_token_address(owner, mint, program)
    accounts = [
        AccountMeta(payer, is_signer=True, is_writable=True),
        AccountMeta(account, is_signer=False, is_writable=True),
        *(AccountMeta(key, False, False) for key in (owner, mint, SYSTEM, program)),
    ]
    return Instruction(ASSOCIATED, bytes([CREATE_IDEMPOTENT]), accounts)


def transfer_checked(
    owner: Pubkey,
    to: Pubkey,
    mint: Pubkey,
    program: Pubkey,
    *,
    amount_micro: int,
    decimals: int,
    reference: Pubkey | None = None,
) -> Instruction:
    """So much of a mint from the owner's associated account to another's.

    The token program does not look at a `reference`; the chain lists the transaction under it.
    """
    source = get_associated_token_address(owner, mint, program)
    target = get_associated_token_address(to, mint, program)
    accounts = [
        AccountMeta(source, is_signer=False, is_writable=True),
        AccountMeta(mint, is_signer=False, is_writable=False),
        AccountMeta(target, is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=True, is_writable=False),
    ]
    if reference is not None:
        accounts.append(AccountMeta(reference, is_signer=False, is_writable=False))
    data = bytes([TRANSFER_CHECKED]) + amount_micro.to_bytes(8, "little") + bytes([decimals])
    return Instruction(program, data, accounts)


def memo(text: str) -> Instruction:
    """A text on the chain."""
    return Instruction(MEMO, text.encode(), [])
