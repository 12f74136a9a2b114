"""Facilitators: what a payment must be, and how it comes to the chain exactly once."""

from __future__ import annotations

from parhelion.payments.facilitator.embedded import Embedded
from parhelion.payments.facilitator.embedded_evm import EmbeddedEvm
from parhelion.payments.facilitator.embedded_solana import EmbeddedSolana
from parhelion.payments.facilitator.offers import EvmOffer, Offer, SolanaOffer, requirements
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    EvmPayment,
    Outcome,
    Payment,
    Refused,
    Settled,
    SolanaPayment,
)
from parhelion.payments.facilitator.payload import Payload, read_header
from parhelion.payments.facilitator.protocol import (
    SETTLE_BUDGET_S,
    VERIFY_BUDGET_S,
    Facilitator,
)
from parhelion.payments.facilitator.remote import Remote

__all__ = [
    "SETTLE_BUDGET_S",
    "VERIFY_BUDGET_S",
    "Ambiguous",
    "Code",
    "Embedded",
    "EmbeddedEvm",
    "EmbeddedSolana",
    "EvmOffer",
    "EvmPayment",
    "Facilitator",
    "Offer",
    "Outcome",
    "Payload",
    "Payment",
    "Refused",
    "Remote",
    "Settled",
    "SolanaOffer",
    "SolanaPayment",
    "read_header",
    "requirements",
]
