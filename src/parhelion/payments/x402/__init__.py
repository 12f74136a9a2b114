"""Payments by x402: what is sold and for how much, claims on payments, and what the chain says.

Imported only where a payment network is configured: a coordinator with keys alone stays small.
"""

from __future__ import annotations

from parhelion.payments.x402.cashier import Cashier, Earlier, Window
from parhelion.payments.x402.claim_book import ClaimBook, Opens, Paid, Settlement, TotalsRow
from parhelion.payments.x402.claim_rows import Claim
from parhelion.payments.x402.claims import ClaimEvent, ClaimState, may_still_land, next_state
from parhelion.payments.x402.networks import NETWORKS, Network, Payee, asset_of, known, payees
from parhelion.payments.x402.offers import (
    CUSTODY,
    Desk,
    Hint,
    PaymentRequired,
    Requirement,
    payment_required,
)
from parhelion.payments.x402.outside import Expired, FailedOnChain, Landed, Reader, Sight, Unknown
from parhelion.payments.x402.payload import Payment, accept, read
from parhelion.payments.x402.prices import (
    TIERS,
    Price,
    request_price,
    smallest_topup,
    tier_named,
    tier_price,
    topup_price,
)
from parhelion.payments.x402.reconcile import Reconciler, Round

__all__ = [
    "CUSTODY",
    "NETWORKS",
    "TIERS",
    "Cashier",
    "Claim",
    "ClaimBook",
    "ClaimEvent",
    "ClaimState",
    "Desk",
    "Earlier",
    "Expired",
    "FailedOnChain",
    "Hint",
    "Landed",
    "Network",
    "Opens",
    "Paid",
    "Payee",
    "Payment",
    "PaymentRequired",
    "Price",
    "Reader",
    "Reconciler",
    "Requirement",
    "Round",
    "Settlement",
    "Sight",
    "TotalsRow",
    "Unknown",
    "Window",
    "accept",
    "asset_of",
    "known",
    "may_still_land",
    "next_state",
    "payees",
    "payment_required",
    "read",
    "request_price",
    "smallest_topup",
    "tier_named",
    "tier_price",
    "topup_price",
]
