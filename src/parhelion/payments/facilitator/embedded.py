"""The facilitator inside this process: one carrier a network, and a bound on the time in all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from parhelion.payments.facilitator.embedded_evm import EmbeddedEvm
from parhelion.payments.facilitator.embedded_solana import EmbeddedSolana
from parhelion.payments.facilitator.offers import EvmOffer, Offer, SolanaOffer
from parhelion.payments.facilitator.outcomes import (
    Code,
    EvmPayment,
    Outcome,
    Payment,
    Refused,
    SolanaPayment,
    unavailable,
)
from parhelion.payments.facilitator.payload import Payload, mismatch
from parhelion.payments.facilitator.protocol import (
    RECONCILE_BUDGET_S,
    SETTLE_BUDGET_S,
    VERIFY_BUDGET_S,
)


class Embedded:
    """`networks` are CAIP-2 ids; whoever settles shields it from the client's disconnect."""

    def __init__(
        self,
        networks: Mapping[str, EmbeddedSolana | EmbeddedEvm],
        *,
        verify_budget_s: float = VERIFY_BUDGET_S,
        settle_budget_s: float = SETTLE_BUDGET_S,
    ) -> None:
        self._networks = networks
        self._verify_budget_s = verify_budget_s
        self._settle_budget_s = settle_budget_s

    async def verify(self, payload: Payload, offer: Offer) -> Payment | Refused:
        """Hold a payment against the offer, every rule and the chain's own simulation."""
        refused = mismatch(payload.accepted, offer)
        if refused is not None:
            return refused
        carrier = self._networks.get(offer.network)
        try:
            async with asyncio.timeout(self._verify_budget_s):
                if isinstance(carrier, EmbeddedSolana) and isinstance(offer, SolanaOffer):
                    return await carrier.verify(payload, offer)
                if isinstance(carrier, EmbeddedEvm) and isinstance(offer, EvmOffer):
                    return await carrier.verify(payload, offer)
        except TimeoutError as error:
            reason = f"no answer of {offer.network} within {self._verify_budget_s} s"
            raise unavailable(Code.CHAIN_UNAVAILABLE, reason) from error
        return Refused(code=Code.WRONG_NETWORK, reason=f"nothing is settled on {offer.network}")

    async def settle(self, payment: Payment) -> Outcome:
        """Bring a verified payment to the chain, once."""
        carrier = self._networks.get(payment.network)
        deadline_s = asyncio.get_running_loop().time() + self._settle_budget_s
        if isinstance(carrier, EmbeddedSolana) and isinstance(payment, SolanaPayment):
            return await carrier.settle(payment, deadline_s)
        if isinstance(carrier, EmbeddedEvm) and isinstance(payment, EvmPayment):
            return await carrier.settle(payment, deadline_s)
        return Refused(code=Code.WRONG_NETWORK, reason=f"nothing is settled on {payment.network}")

    async def urge(self, payment: Payment) -> None:
        """Help along what was sent and waits for a block; sends nothing that was not sent."""
        carrier = self._networks.get(payment.network)
        if isinstance(carrier, EmbeddedEvm) and isinstance(payment, EvmPayment):
            await carrier.urge(payment)

    async def reconcile(self, payment: Payment) -> Outcome:
        """What the chain says of a payment that was sent, or perhaps was; sends nothing new."""
        carrier = self._networks.get(payment.network)
        try:
            async with asyncio.timeout(RECONCILE_BUDGET_S):
                if isinstance(carrier, EmbeddedSolana) and isinstance(payment, SolanaPayment):
                    return await carrier.reconcile(payment)
                if isinstance(carrier, EmbeddedEvm) and isinstance(payment, EvmPayment):
                    return await carrier.reconcile(payment)
        except TimeoutError as error:
            raise unavailable(Code.CHAIN_UNAVAILABLE, "no answer in time") from error
        # The network was taken out of the settings: the payment stays open until it is back.
        raise unavailable(Code.CHAIN_UNAVAILABLE, f"{payment.network} is not configured")
