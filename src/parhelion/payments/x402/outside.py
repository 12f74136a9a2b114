"""What payments need of the world beside a facilitator: our own eyes on the chain.

A facilitator's word moves nothing here: it says where to look. What is credited is what the reader
saw. `bootstrap` gives both (`readers.py` has ours); tests give their own.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.words import Record


class Landed(Record, frozen=True, kw_only=True):
    """The payment is on the chain without an error: what the payee got by it, and from whom."""

    transaction: str
    amount_micro: int
    payer: str
    slot: int | None = None


class FailedOnChain(Record, frozen=True, kw_only=True):
    """The payment's own transaction is on the chain, and it failed: nothing was paid by it.

    `fee` is what it cost whoever sent it, in lamports or wei, as far as that is told.
    """

    transaction: str
    reason: str = ""
    fee: int = 0


class Unknown(Record, frozen=True, kw_only=True):
    """The chain does not have it, or not for sure yet; it may still land."""


class Expired(Record, frozen=True, kw_only=True):
    """The chain does not have it, and by the chain's own time it can land no more.

    A reader looks for the payment once more *after* it saw the expiry: it may have landed between.
    """


Sight: TypeAlias = Landed | FailedOnChain | Unknown | Expired


class Reader(Protocol):
    """Our own look at one network."""

    async def find(self, payment: Signed, transaction: str | None) -> Sight:
        """What the chain has of this very payment; `transaction` is where it is said to be.

        A transaction that is not this payment's is Unknown, whatever it did. Raises where the
        chain does not answer, or not in its shape.
        """
        ...
