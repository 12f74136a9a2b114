"""Which Solana transactions we sign as fee payer: pure, and every rule refuses by name.

Our signature makes whatever the transaction does happen, at our cost: so what is not known to be a
payment, to the last byte, is refused. Import this module lazily: it loads solders.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import SanitizeError, VersionedTransaction

from parhelion.payments.facilitator.offers import SolanaOffer
from parhelion.payments.facilitator.outcomes import Code, Refused, SolanaPayment

PACKET_BYTES = 1_232
"""A transaction travels in one packet between validators: none may be longer."""

BASE64_LIMIT_CHARS = 1_644
"""What PACKET_BYTES come to."""

SIGNERS = 2
"""Fee payer and payer. Each further signature would cost us 5,000 lamports."""

SIGNATURE_LAMPORTS = 5_000

COMPUTE_LIMIT_UNITS = 1_400_000
"""The most that the chain lets one transaction ask for."""

PRIORITY_FEE_LIMIT_LAMPORTS = 50_000
"""Ten times the fee of a signature; what a payer asks beyond that he may pay himself."""

MICRO_LAMPORTS_PER_LAMPORT = 1_000_000
MEMO_LIMIT_BYTES = 256
"""x402's own limit of a memo."""

MEMOS = 1
LIGHTHOUSES = 2
"""Phantom adds one assertion for its user's protection, Solflare two."""

COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LIGHTHOUSE = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
SET_COMPUTE_LIMIT, SET_COMPUTE_PRICE, TRANSFER_CHECKED = 2, 3, 12
LIGHTHOUSE_WRITES = (0, 1)
"""MemoryWrite and MemoryClose: the two that change accounts; all others only assert."""

AnyMessage: TypeAlias = Message | MessageV0


class _Refusal(Exception):
    """A rule said no; never leaves this module."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(code=code, reason=reason)


class _Step(NamedTuple):
    """An instruction with its addresses looked up."""

    program: Pubkey
    accounts: tuple[Pubkey, ...]
    data: bytes


class _Transfer(NamedTuple):
    payer: Pubkey
    source: Pubkey


def judge_payload(payload: Mapping[str, Any], offer: SolanaOffer) -> SolanaPayment | Refused:
    """The payment in an x402 `payload`: a transaction in base64, its size looked at first."""
    text = payload.get("transaction")
    if not isinstance(text, str):
        return Refused(code=Code.MALFORMED, reason="the payload has no transaction")
    if len(text) > BASE64_LIMIT_CHARS:
        reason = f"{len(text)} characters; a transaction has at most {BASE64_LIMIT_CHARS}"
        return Refused(code=Code.TOO_LARGE, reason=reason)
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        return Refused(code=Code.MALFORMED, reason=f"the transaction is not base64: {error}")
    return judge(raw, offer)


def judge(transaction: bytes, offer: SolanaOffer) -> SolanaPayment | Refused:
    """The payment in a transaction's bytes, or why it is none; never an exception."""
    try:
        return _judge(transaction, offer)
    except _Refusal as refusal:
        return refusal.refused


def named(payment: SolanaPayment, fee_payer: Keypair) -> SolanaPayment:
    """The payment with the id it will land under: our signature, which is always the same."""
    signed = VersionedTransaction.from_bytes(co_signed(payment.wire, fee_payer))
    return msgspec.structs.replace(payment, transaction=str(signed.signatures[0]))


def co_signed(wire: bytes, fee_payer: Keypair) -> bytes:
    """A judged transaction with the fee payer's signature: from here on it may land."""
    transaction = VersionedTransaction.from_bytes(wire)
    message = transaction.message
    ours = fee_payer.sign_message(to_bytes_versioned(message))
    return bytes(VersionedTransaction.populate(message, [ours, transaction.signatures[1]]))


def _judge(raw: bytes, offer: SolanaOffer) -> SolanaPayment:
    transaction = _decoded(raw)
    message = transaction.message
    _check_signers(transaction, message)
    steps = _steps(message)
    _check_fee_payer(message, steps, offer)
    if len(steps) < 3:
        raise _Refusal(Code.NO_TRANSFER, f"a payment has 3 instructions or more, not {len(steps)}")
    priority_lamports = _check_fee(steps[0], steps[1])
    transfer = _check_transfer(steps[2], offer)
    _check_extras(steps[3:], offer)
    signature = _check_signature(transaction, message, transfer.payer)
    return SolanaPayment(
        network=offer.network,
        asset=offer.asset,
        payer=str(transfer.payer),
        payee=offer.pay_to,
        amount_micro=offer.amount_micro,
        key=hashlib.sha256(to_bytes_versioned(message)).hexdigest(),
        blockhash=str(message.recent_blockhash),
        source=str(transfer.source),
        token_program=offer.token_program,
        # What stood in the fee payer's place is not passed on, and makes no other payment.
        wire=bytes(VersionedTransaction.populate(message, [Signature.default(), signature])),
        fee=SIGNERS * SIGNATURE_LAMPORTS + priority_lamports,
    )


def _decoded(raw: bytes) -> VersionedTransaction:
    if len(raw) > PACKET_BYTES:
        reason = f"{len(raw)} bytes; a transaction has at most {PACKET_BYTES}"
        raise _Refusal(Code.TOO_LARGE, reason)
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except (ValueError, SanitizeError) as error:
        raise _Refusal(Code.MALFORMED, f"not a Solana transaction: {error}") from error
    if bytes(transaction) != raw:
        raise _Refusal(Code.MALFORMED, "the transaction's bytes are not the canonical ones")
    return transaction


def _check_signers(transaction: VersionedTransaction, message: AnyMessage) -> None:
    if isinstance(message, MessageV0) and message.address_table_lookups:
        raise _Refusal(Code.LOOKUP_TABLE, "addresses from lookup tables are not taken")
    required, signatures = message.header.num_required_signatures, len(transaction.signatures)
    if required > SIGNERS or signatures > SIGNERS:
        raise _Refusal(Code.TOO_MANY_SIGNERS, f"{required} signers; fee payer and payer sign alone")
    keys = message.account_keys
    if len(set(keys)) != len(keys):
        raise _Refusal(Code.MALFORMED, "an account is named twice")


def _steps(message: AnyMessage) -> list[_Step]:
    # `sanitize` has seen to it that every index is one of a key.
    keys = message.account_keys
    return [
        _Step(
            keys[instruction.program_id_index],
            tuple(keys[index] for index in bytes(instruction.accounts)),
            bytes(instruction.data),
        )
        for instruction in message.instructions
    ]


def _check_fee_payer(message: AnyMessage, steps: list[_Step], offer: SolanaOffer) -> None:
    keys = message.account_keys
    if str(keys[0]) != offer.fee_payer:
        raise _Refusal(Code.WRONG_FEE_PAYER, f"fee payer is {keys[0]}, not {offer.fee_payer}")
    for number, step in enumerate(steps):
        # Not only where it could lose something: what a program does with a signer is not ours to
        # find out.
        if keys[0] in step.accounts or step.program == keys[0]:
            reason = f"instruction {number} names the fee payer"
            raise _Refusal(Code.FEE_PAYER_IN_INSTRUCTION, reason)


def _check_fee(limit: _Step, price: _Step) -> int:
    """The priority fee in lamports."""
    if limit.program != COMPUTE_BUDGET or limit.data[:1] != bytes([SET_COMPUTE_LIMIT]):
        raise _Refusal(Code.COMPUTE_LIMIT, "instruction 0 does not set the compute unit limit")
    if len(limit.data) != 5 or limit.accounts:
        raise _Refusal(Code.COMPUTE_LIMIT, "the compute unit limit has 5 bytes and no accounts")
    if price.program != COMPUTE_BUDGET or price.data[:1] != bytes([SET_COMPUTE_PRICE]):
        raise _Refusal(Code.COMPUTE_PRICE, "instruction 1 does not set the compute unit price")
    if len(price.data) != 9 or price.accounts:
        raise _Refusal(Code.COMPUTE_PRICE, "the compute unit price has 9 bytes and no accounts")
    units = int.from_bytes(limit.data[1:], "little")
    if units > COMPUTE_LIMIT_UNITS:
        raise _Refusal(Code.COMPUTE_LIMIT, f"{units} compute units; {COMPUTE_LIMIT_UNITS} at most")
    lamports = -(-units * int.from_bytes(price.data[1:], "little") // MICRO_LAMPORTS_PER_LAMPORT)
    if lamports > PRIORITY_FEE_LIMIT_LAMPORTS:
        reason = f"a priority fee of {lamports} lamports; {PRIORITY_FEE_LIMIT_LAMPORTS} at most"
        raise _Refusal(Code.FEE_TOO_HIGH, reason)
    return lamports


def _check_transfer(step: _Step, offer: SolanaOffer) -> _Transfer:
    program, data = Pubkey.from_string(offer.token_program), step.data
    if step.program != program or len(data) != 10 or data[0] != TRANSFER_CHECKED:
        reason = f"instruction 2 is no TransferChecked of {program}"
        raise _Refusal(Code.NO_TRANSFER, reason)
    if len(step.accounts) != 4:
        raise _Refusal(Code.NO_TRANSFER, "TransferChecked has source, mint, destination and owner")
    source, mint, destination, payer = step.accounts
    payee = Pubkey.from_string(offer.pay_to)
    if str(mint) != offer.asset:
        raise _Refusal(Code.WRONG_ASSET, f"mint is {mint}, not {offer.asset}")
    if destination != get_associated_token_address(payee, mint, program):
        raise _Refusal(Code.WRONG_PAYEE, f"{destination} is not the account of {payee}")
    if payer == payee:
        raise _Refusal(Code.SELF_PAYMENT, "payer and payee are the same: nothing would move")
    # A delegate could pay from another's account: whose money it was must never be a question.
    if source != get_associated_token_address(payer, mint, program):
        raise _Refusal(Code.FOREIGN_SOURCE, f"{source} is not the associated account of {payer}")
    amount, decimals = int.from_bytes(data[1:9], "little"), data[9]
    if amount != offer.amount_micro or amount == 0:
        raise _Refusal(Code.WRONG_AMOUNT, f"{amount} base units, not exactly {offer.amount_micro}")
    if decimals != offer.decimals:
        raise _Refusal(Code.WRONG_ASSET, f"{decimals} decimals, not {offer.decimals}")
    return _Transfer(payer, source)


def _check_extras(steps: list[_Step], offer: SolanaOffer) -> None:
    memos = [step for step in steps if step.program == MEMO]
    assertions = [step for step in steps if step.program == LIGHTHOUSE]
    if len(memos) + len(assertions) != len(steps):
        raise _Refusal(Code.EXTRA_INSTRUCTION, "only a memo and Lighthouse may follow the transfer")
    if len(memos) > MEMOS or len(assertions) > LIGHTHOUSES:
        reason = f"{len(memos)} memos and {len(assertions)} assertions; 1 and 2 at most"
        raise _Refusal(Code.EXTRA_INSTRUCTION, reason)
    if any(not step.data or step.data[0] in LIGHTHOUSE_WRITES for step in assertions):
        raise _Refusal(Code.EXTRA_INSTRUCTION, "a Lighthouse instruction that does not only assert")
    if any(step.accounts or len(step.data) > MEMO_LIMIT_BYTES for step in memos):
        reason = f"a memo has at most {MEMO_LIMIT_BYTES} bytes and no accounts"
        raise _Refusal(Code.WRONG_MEMO, reason)
    if offer.memo and [step.data for step in memos] != [offer.memo.encode()]:
        raise _Refusal(Code.WRONG_MEMO, "the memo is not the one that was offered")


def _check_signature(
    transaction: VersionedTransaction, message: AnyMessage, payer: Pubkey
) -> Signature:
    if message.header.num_required_signatures != SIGNERS or message.account_keys[1] != payer:
        raise _Refusal(Code.BAD_SIGNATURE, "whoever pays does not sign")
    signature = transaction.signatures[1]
    if not signature.verify(payer, to_bytes_versioned(message)):
        raise _Refusal(Code.BAD_SIGNATURE, f"the signature of {payer} does not verify")
    return signature
