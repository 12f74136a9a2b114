"""What can become of a payment: the codes of refusal and the three outcomes of settling."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from parhelion.words import Problem, ProblemCode, Record

RETRY_AFTER_S = 5
"""A node of the chain that restarts is back within seconds."""


class Code(StrEnum):
    """Why a payment is refused; docs/facilitator.md has a line for each."""

    # --- what the client sent -------------------------------------------------------------------
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    VERSION_UNSUPPORTED = "version_unsupported"
    WRONG_SCHEME = "wrong_scheme"
    WRONG_NETWORK = "wrong_network"
    WRONG_ASSET = "wrong_asset"
    WRONG_AMOUNT = "wrong_amount"
    WRONG_PAYEE = "wrong_payee"
    SELF_PAYMENT = "self_payment"
    BAD_SIGNATURE = "bad_signature"
    # --- Solana ---------------------------------------------------------------------------------
    LOOKUP_TABLE = "lookup_table"
    TOO_MANY_SIGNERS = "too_many_signers"
    WRONG_FEE_PAYER = "wrong_fee_payer"
    FEE_PAYER_IN_INSTRUCTION = "fee_payer_in_instruction"
    COMPUTE_LIMIT = "compute_limit"
    COMPUTE_PRICE = "compute_price"
    FEE_TOO_HIGH = "fee_too_high"
    NO_TRANSFER = "no_transfer"
    FOREIGN_SOURCE = "foreign_source"
    EXTRA_INSTRUCTION = "extra_instruction"
    WRONG_MEMO = "wrong_memo"
    # --- EVM ------------------------------------------------------------------------------------
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    VALID_TOO_LONG = "valid_too_long"
    PERMIT2_UNSUPPORTED = "permit2_unsupported"
    SMART_WALLET_UNSUPPORTED = "smart_wallet_unsupported"
    # --- what the chain said --------------------------------------------------------------------
    INSUFFICIENT_BALANCE = "insufficient_balance"
    ALREADY_USED = "already_used"
    SIMULATION_FAILED = "simulation_failed"
    FAILED_ON_CHAIN = "failed_on_chain"
    FACILITATOR_REFUSED = "facilitator_refused"
    # --- what is not the payer's doing ----------------------------------------------------------
    CHAIN_UNAVAILABLE = "chain_unavailable"
    FACILITATOR_UNAVAILABLE = "facilitator_unavailable"
    FACILITATOR_OUT_OF_FUNDS = "facilitator_out_of_funds"
    NETWORK_FEES_TOO_HIGH = "network_fees_too_high"


OURS = frozenset(
    {
        Code.CHAIN_UNAVAILABLE,
        Code.FACILITATOR_UNAVAILABLE,
        Code.FACILITATOR_OUT_OF_FUNDS,
        Code.NETWORK_FEES_TOO_HIGH,
    }
)
"""Refusals that another payment would meet too: 503 and never 402, else a client pays again."""


class SolanaPayment(Record, frozen=True, kw_only=True, tag="solana"):
    """A transaction that its payer signed, held against every rule.

    `key` is the hash of what was signed: two signatures of one message are one payment.
    `transaction` is the id under which it will land, known before it is sent; "" where the fee
    payer's key is somebody else's. `wire` has no signature of ours. `fee` is what it costs the fee
    payer, in lamports, whether it succeeds or fails.
    """

    network: str
    asset: str
    payer: str
    payee: str
    amount_micro: int
    key: str
    blockhash: str
    source: str
    token_program: str
    wire: bytes
    transaction: str = ""
    request: bytes = b""
    fee: int = 0


class EvmPayment(Record, frozen=True, kw_only=True, tag="evm"):
    """An EIP-3009 authorization that its payer signed, held against every rule.

    `key` is payer and nonce, of which the token spends one authorization at most. `seen_block` is
    the chain's height when it was verified: what spends it lands later. Addresses are lower-case.
    """

    network: str
    asset: str
    payer: str
    payee: str
    amount_micro: int
    key: str
    nonce: str
    valid_after_s: int
    valid_before_s: int
    signature: bytes
    seen_block: int = 0
    request: bytes = b""


Payment: TypeAlias = SolanaPayment | EvmPayment


class Refused(Record, frozen=True, kw_only=True, tag="refused"):
    """Definitely not paid by this: never broadcast, or landed with an error, or expired for good.

    `transaction` names one that landed and failed, and `fee` what that cost whoever sent it, in
    lamports or wei.
    """

    code: Code
    reason: str
    transaction: str = ""
    fee: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether it is our or the chain's trouble: 503 then, and 402 otherwise."""
        return self.code in OURS


class Settled(Record, frozen=True, kw_only=True, tag="settled"):
    """It landed. `landed_micro` is what the payee gained, as we read it; None where nobody read."""

    transaction: str
    landed_micro: int | None = None


class Ambiguous(Record, frozen=True, kw_only=True, tag="ambiguous"):
    """Sent, or perhaps sent, and nobody knows what became of it.

    Never released: the chain decides, through `reconcile`. `transaction` is "" where it is unknown.
    """

    reason: str
    transaction: str = ""


Outcome: TypeAlias = Settled | Refused | Ambiguous


def unavailable(code: Code, reason: str) -> Problem:
    """The 503 of a payment that nobody can check now: neither refused nor accepted."""
    return Problem(
        ProblemCode.PAYMENT_UNAVAILABLE,
        f"payments cannot be checked now ({code}): {reason}",
        hint="send the same payment again after Retry-After; sign no second one",
        retry_after_s=RETRY_AFTER_S,
    )
