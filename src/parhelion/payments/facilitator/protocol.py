"""What every facilitator can do, embedded or remote."""

from __future__ import annotations

from typing import Protocol

from parhelion.payments.facilitator.offers import Offer
from parhelion.payments.facilitator.outcomes import Outcome, Payment, Refused
from parhelion.payments.facilitator.payload import Payload

VERIFY_BUDGET_S = 5.0
SETTLE_BUDGET_S = 15.0
"""Together the 20 s within which whoever pays is answered."""

RECONCILE_BUDGET_S = 10.0
"""In the background, where nobody waits."""


class Facilitator(Protocol):
    """Verifies payments and brings them to the chain; it remembers none: claims do."""

    async def verify(self, payload: Payload, offer: Offer) -> Payment | Refused:
        """The payment, if it would settle now; a Problem (503) where nobody can tell."""
        ...

    async def settle(self, payment: Payment) -> Outcome:
        """Bring it to the chain, once a payment; never raises but for a cancellation."""
        ...

    async def reconcile(self, payment: Payment) -> Outcome:
        """What became of an ambiguous one; sends nothing new. A Problem (503): nobody can tell."""
        ...
