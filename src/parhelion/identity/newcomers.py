"""Accounts that strangers open for themselves: how many, so that nobody fills the database."""

from __future__ import annotations

import os

from parhelion.allowance import Allowance, Allowances
from parhelion.identity.secrets import Entropy
from parhelion.identity.sites import site_of
from parhelion.ledger import Ledger
from parhelion.store import Statement
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, mint

HOUR_S = 3600.0
KIND = "user"

UNKNOWN_SHARE = 0.5
"""Of `per_hour`, for all whose address a proxy hides: one of them must not close the door to those
whose address is known."""

_OWN = "INSERT INTO owners(account, kind, created_at_ms) VALUES (?, ?, ?)"


class Newcomers:
    """Lets strangers open accounts: `per_hour` in all, `per_hour_address` from one address.

    An account stays for good, some 600 bytes of it, and to open one costs a stranger nothing: what
    bounds the file is the rate. Who brings a payment or a wallet's signature is counted elsewhere.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        per_hour: int,
        per_hour_address: int,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._entropy = entropy
        # An hour's worth may come at once: a class signs up in the same minute.
        self._all = Allowance(per_hour / HOUR_S, float(per_hour))
        self._addresses = Allowances(per_hour_address / HOUR_S, float(per_hour_address))
        unknown = max(1.0, float(per_hour_address), per_hour * UNKNOWN_SHARE)
        self._unknown = Allowance(unknown / HOUR_S, unknown)

    def admit(self, address: str) -> None:
        """Count one new account; Problem RATE_LIMITED. `address` is "" where it is not known."""
        now_s, site = self._clock.monotonic_s(), site_of(address)
        if address and not self._addresses.take(site, now_s):
            raise _too_many("from your address", "accounts_per_hour_address")
        if not address and not self._unknown.take(now_s):
            raise _too_many("through a proxy", "accounts_per_hour")
        if not self._all.take(now_s):
            if address:
                self._addresses.give_back(site)
            else:
                self._unknown.left += 1.0
            raise _too_many("here", "accounts_per_hour")

    def name(self) -> str:
        """The id of a new account, which nobody has yet."""
        return mint("acct", self._clock.now_ms(), self._entropy(ID_ENTROPY_BYTES))

    def opening(self, account: str) -> tuple[Statement, ...]:
        """The rows of a new account, for the unit that gives it its credential."""
        row = (account, KIND, self._clock.now_ms())
        return (
            self._ledger.opening(account, KIND),
            Statement("owner.insert", _OWN, row, rows=1),
        )


def _too_many(where: str, setting: str) -> Problem:
    return Problem(
        ProblemCode.RATE_LIMITED,
        f"Too many accounts were opened {where} within the hour.",
        hint=f"try again later, or sign in; the operator sets {setting} in [limits]",
        retry_after_s=60,
    )
