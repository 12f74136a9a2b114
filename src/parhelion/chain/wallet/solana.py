"""What a wallet signs on Solana: x402 payments that others carry, and its own transfers of USDC.

Import it lazily: it loads solders.
"""

from __future__ import annotations

from solders.hash import Hash
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from parhelion.chain.solana import instructions
from parhelion.chain.solana.instructions import compute, open_account, transfer_checked
from parhelion.chain.solana.read import TOKEN_PROGRAM
from parhelion.chain.wallet.keyfile import Wallet

COMPUTE_UNITS = 20_000
"""What x402's own client asks for: a transfer and a memo of 256 bytes fit."""

COMPUTE_PRICE_MICROLAMPORTS = 1
SEND_UNITS = 60_000
"""A transfer that makes the payee's account first."""

TOKEN = Pubkey.from_string(TOKEN_PROGRAM)


def payment(
    wallet: Wallet,
    *,
    mint: str,
    decimals: int,
    amount_micro: int,
    pay_to: str,
    fee_payer: str,
    memo: str,
    blockhash: str,
) -> bytes:
    """A payment by x402's exact scheme: all but the fee payer's signature, which is zeros."""
    message = _payment(
        *(wallet.solana, pay_to, mint, TOKEN_PROGRAM, fee_payer),
        decimals=decimals,
        amount_micro=amount_micro,
        memo=memo,
        blockhash=blockhash,
    )
    ours = Signature.from_bytes(wallet.sign_solana(to_bytes_versioned(message)))
    return bytes(VersionedTransaction.populate(message, [Signature.default(), ours]))


def unsigned_payment(
    owner: str,
    *,
    mint: str,
    token_program: str,
    decimals: int,
    amount_micro: int,
    pay_to: str,
    fee_payer: str,
    memo: str,
    blockhash: str,
) -> bytes:
    """The same payment of another's wallet, which adds its signature: both are zeros."""
    message = _payment(
        *(owner, pay_to, mint, token_program, fee_payer),
        decimals=decimals,
        amount_micro=amount_micro,
        memo=memo,
        blockhash=blockhash,
    )
    empty = [Signature.default()] * message.header.num_required_signatures
    return bytes(VersionedTransaction.populate(message, empty))


def transfer(
    wallet: Wallet, *, mint: str, decimals: int, amount_micro: int, to: str, blockhash: str
) -> tuple[bytes, str]:
    """A transfer of the wallet's own, which makes the payee's account if it has none; and its id.

    The wallet pays the fee, and what the account costs.
    """
    owner, payee, token = (Pubkey.from_string(text) for text in (wallet.solana, to, mint))
    moved = transfer_checked(
        *(owner, payee, token, TOKEN), amount_micro=amount_micro, decimals=decimals
    )
    steps = [
        *compute(SEND_UNITS, COMPUTE_PRICE_MICROLAMPORTS),
        open_account(owner, payee, token, TOKEN),
        moved,
    ]
    message = MessageV0.try_compile(owner, steps, [], Hash.from_string(blockhash))
    ours = Signature.from_bytes(wallet.sign_solana(to_bytes_versioned(message)))
    return bytes(VersionedTransaction.populate(message, [ours])), str(ours)


def _payment(
    owner: str,
    pay_to: str,
    mint: str,
    token_program: str,
    fee_payer: str,
    *,
    decimals: int,
    amount_micro: int,
    memo: str,
    blockhash: str,
) -> MessageV0:
    payer, payee, token, program = (
        Pubkey.from_string(text) for text in (owner, pay_to, mint, token_program)
    )
    moved = transfer_checked(
        *(payer, payee, token, program), amount_micro=amount_micro, decimals=decimals
    )
    steps = [
        *compute(COMPUTE_UNITS, COMPUTE_PRICE_MICROLAMPORTS),
        moved,
        instructions.memo(memo),
    ]
    return MessageV0.try_compile(
        Pubkey.from_string(fee_payer), steps, [], Hash.from_string(blockhash)
    )
