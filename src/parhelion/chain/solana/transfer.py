"""A transfer of tokens as a transaction: pure, its fee paid by one key, its tokens by another.

Import this module lazily: it loads solders.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from parhelion.chain.solana.instructions import compute, memo, open_account, transfer_checked

COMPUTE_UNITS = 120_000
"""TransferChecked takes 6,000, the memo some 10,000, opening an account 25,000 to 50,000."""

COMPUTE_PRICE_MICRO_LAMPORTS = 50_000
"""6,000 lamports at most beside the 10,000 of two signatures: enough to land on busy days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """So much of a mint from one owner's associated account to another's.

    `memo` is written on the chain, and every transfer of it can be found by `reference_of` it.
    `opens_account`: at the fee payer's cost, where the receiver's account is not there.
    """

    mint: str
    token_program: str
    decimals: int
    amount_micro: int
    to: str
    memo: str
    opens_account: bool
    blockhash: str


def reference_of(memo: str) -> str:
    """An address that names nothing but this memo: the chain lists transactions by address."""
    return str(Pubkey.from_bytes(hashlib.sha256(f"parhelion {memo}".encode()).digest()))


def unsigned(transfer: Transfer, owner: Pubkey, fee_payer: Pubkey) -> bytes:
    """The transaction with empty signatures: it can be tried out, and cannot land."""
    message = _message(transfer, owner, fee_payer)
    empty = [Signature.default()] * message.header.num_required_signatures
    return bytes(VersionedTransaction.populate(message, empty))


def signed(transfer: Transfer, owner: Keypair, fee_payer: Keypair) -> tuple[str, bytes]:
    """The transaction's id and its bytes: from here on whoever has them can land it."""
    message = _message(transfer, owner.pubkey(), fee_payer.pubkey())
    signers = [fee_payer] if owner == fee_payer else [fee_payer, owner]
    made = VersionedTransaction(message, signers)
    return str(made.signatures[0]), bytes(made)


def _message(transfer: Transfer, owner: Pubkey, fee_payer: Pubkey) -> MessageV0:
    to, mint, program = (
        Pubkey.from_string(text) for text in (transfer.to, transfer.mint, transfer.token_program)
    )
    steps = compute(COMPUTE_UNITS, COMPUTE_PRICE_MICRO_LAMPORTS)
    if transfer.opens_account:
        steps.append(open_account(fee_payer, to, mint, program))
    moved = transfer_checked(
        *(owner, to, mint, program),
        amount_micro=transfer.amount_micro,
        decimals=transfer.decimals,
        reference=Pubkey.from_string(reference_of(transfer.memo)),
    )
    steps += [moved, memo(transfer.memo)]
    return MessageV0.try_compile(fee_payer, steps, [], Hash.from_string(transfer.blockhash))
