"""What a payment is held against: one offer of ours, typed and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

SOLANA = "solana:"
EVM = "eip155:"

TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
TOKEN_2022_PROGRAM = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"


@dataclass(frozen=True, slots=True, kw_only=True)
class SolanaOffer:
    """So much of a mint to a payee, the fee paid by us.

    `token_program` is the mint's owner. `memo` "" leaves the memo to the payer.
    """

    network: str
    asset: str
    amount_micro: int
    pay_to: str
    max_timeout_s: int
    fee_payer: str
    memo: str = ""
    decimals: int = 6
    token_program: str = TOKEN_PROGRAM


@dataclass(frozen=True, slots=True, kw_only=True)
class EvmOffer:
    """So much of a token to a payee; `name` and `version` are of the token's EIP-712 domain."""

    network: str
    asset: str
    amount_micro: int
    pay_to: str
    max_timeout_s: int
    name: str
    version: str

    @property
    def chain_id(self) -> int:
        """The number in the CAIP-2 id."""
        return int(self.network.removeprefix(EVM))


Offer: TypeAlias = SolanaOffer | EvmOffer


def requirements(offer: Offer) -> dict[str, object]:
    """The offer as x402 writes it on the wire: `accepts` of a 402, and what a facilitator reads."""
    if isinstance(offer, SolanaOffer):
        extra: dict[str, object] = {"feePayer": offer.fee_payer}
        if offer.memo:
            extra["memo"] = offer.memo
    else:
        extra = {"name": offer.name, "version": offer.version}
    return {
        "scheme": "exact",
        "network": offer.network,
        "asset": offer.asset,
        "amount": str(offer.amount_micro),
        "payTo": offer.pay_to,
        "maxTimeoutSeconds": offer.max_timeout_s,
        "extra": extra,
    }
