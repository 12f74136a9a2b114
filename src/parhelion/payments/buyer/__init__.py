"""The buyer's side of x402: which offers it takes, what it may spend, and what the chain then says.

The seller is the stranger here: nothing that it says is signed before it was held against what we
know of the network, and nothing is signed twice for one request.
"""

from __future__ import annotations

from parhelion.payments.buyer.course import Attempt, Step, Verdict, next_step
from parhelion.payments.buyer.offers import Choice, Offered, choose, read_offers
from parhelion.payments.buyer.purchase import Answer, Bought, Buyer, Consent, Lost, Send, Unpaid
from parhelion.payments.buyer.seen import Seen, Told, look_up, read_response
from parhelion.payments.buyer.signing import Signed, sign
from parhelion.payments.buyer.spending import Limits, Spending

__all__ = [
    "Answer",
    "Attempt",
    "Bought",
    "Buyer",
    "Choice",
    "Consent",
    "Limits",
    "Lost",
    "Offered",
    "Seen",
    "Send",
    "Signed",
    "Spending",
    "Step",
    "Told",
    "Unpaid",
    "Verdict",
    "choose",
    "look_up",
    "next_step",
    "read_offers",
    "read_response",
    "sign",
]
