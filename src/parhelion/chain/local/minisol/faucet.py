"""Money for a wallet, as ordinary transactions that the faucet signs."""

from __future__ import annotations

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from parhelion.chain.local.minisol import USDC_DECIMALS
from parhelion.chain.local.minisol.genesis import MINT
from parhelion.chain.local.minisol.tokens import ASSOCIATED, MEMO, SYSTEM, TOKEN

LAMPORTS_LIMIT = 1_000 * 10**9
USDC_LIMIT_MICRO = 1_000_000 * 10**USDC_DECIMALS
"""The most of each at once: enough for any test, far below where 64 bits end."""

CREATE_IDEMPOTENT, MINT_TO_CHECKED = 1, 14


def gift(
    faucet: Keypair, to: Pubkey, lamports: int, usdc_micro: int, blockhash: bytes, nonce: str
) -> VersionedTransaction:
    """A signed transaction that gives both to a wallet, and makes its USDC account if it has none.

    The nonce, in a memo, keeps two equal gifts of one slot apart.
    """
    instructions = [Instruction(MEMO, f"faucet {nonce}".encode(), [])]
    if lamports:
        give = TransferParams(from_pubkey=faucet.pubkey(), to_pubkey=to, lamports=lamports)
        instructions.append(transfer(give))
    if usdc_micro:
        account = get_associated_token_address(to, MINT)
        instructions.append(create_account(faucet.pubkey(), to))
        instructions.append(_mint(faucet.pubkey(), account, usdc_micro))
    message = MessageV0.try_compile(faucet.pubkey(), instructions, [], Hash.from_bytes(blockhash))
    return VersionedTransaction(message, [faucet])


def create_account(payer: Pubkey, owner: Pubkey) -> Instruction:
    """Make an owner's USDC account, at a payer's cost, unless it is there."""
    return Instruction(
        ASSOCIATED,
        bytes([CREATE_IDEMPOTENT]),
        [
            AccountMeta(payer, is_signer=True, is_writable=True),
            AccountMeta(get_associated_token_address(owner, MINT), False, True),
            AccountMeta(owner, is_signer=False, is_writable=False),
            AccountMeta(MINT, is_signer=False, is_writable=False),
            AccountMeta(SYSTEM, is_signer=False, is_writable=False),
            AccountMeta(TOKEN, is_signer=False, is_writable=False),
        ],
    )


def _mint(authority: Pubkey, account: Pubkey, amount_micro: int) -> Instruction:
    data = bytes([MINT_TO_CHECKED]) + amount_micro.to_bytes(8, "little") + bytes([USDC_DECIMALS])
    return Instruction(
        TOKEN,
        data,
        [
            AccountMeta(MINT, is_signer=False, is_writable=True),
            AccountMeta(account, is_signer=False, is_writable=True),
            AccountMeta(authority, is_signer=True, is_writable=False),
        ],
    )
