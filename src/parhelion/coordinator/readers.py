"""Who follows a stream of ours: so many in all and of one caller, each woken when more comes."""

from __future__ import annotations

import asyncio

from parhelion.identity import Caller
from parhelion.words import Problem, ProblemCode

RETRY_AFTER_S = 30
"""Readers are pages: they stay for minutes."""

READERS_LIMIT = 256
"""A reader is a connection and a place in what is told; beyond this many, pages may poll."""

READERS_PER_SITE_LIMIT = 64
"""Of one address (identity.site_of): an office behind one, and never all that there are."""

READERS_PER_ACCOUNT_LIMIT = 8
"""Tabs of one person. Where a proxy hides addresses, accounts are what tells people apart."""

READERS_HIDDEN_LIMIT = 96
"""Of all strangers whose address a proxy hides, together: one of them may take these, and leaves
room for who is signed in and for whose address is known."""

READERS_FOR_ACCOUNTS = 32
"""Of READERS_LIMIT, for who is signed in alone: strangers, from however many addresses, never have
them."""


STRANGER = Caller()
"""Somebody behind a proxy, who sent no credential."""


class Seat:
    """One reader's: who it is, and what wakes it."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.woken = asyncio.Event()


class Readers:
    """The readers of one stream; `what` they read and what they may ask `instead` are told to one
    too many."""

    def __init__(self, what: str, instead: str) -> None:
        self._what = what
        self._instead = instead
        self._seats: set[Seat] = set()

    def __len__(self) -> int:
        return len(self._seats)

    def check(self, caller: Caller) -> None:
        """Problem OVERLOADED when too many read already, in all or of this caller."""
        kept = 0 if caller.account else READERS_FOR_ACCOUNTS
        if len(self._seats) >= READERS_LIMIT - kept:
            raise self._crowded("already")
        # Counted over a bounded set when one comes, so that nothing has to be kept in step.
        seated = [seat.caller for seat in self._seats]
        of_account = sum(each.account == caller.account for each in seated)
        if caller.account and of_account >= READERS_PER_ACCOUNT_LIMIT:
            raise self._crowded("with this account already")
        of_site = sum(each.site == caller.site for each in seated)
        if caller.site and of_site >= READERS_PER_SITE_LIMIT:
            raise self._crowded("from this address already")
        hidden = sum(not each.share for each in seated)
        if not caller.share and hidden >= READERS_HIDDEN_LIMIT:
            raise self._crowded("through a proxy already")

    def add(self, seat: Seat) -> None:
        """It reads from now on."""
        self._seats.add(seat)

    def discard(self, seat: Seat) -> None:
        """It reads no more."""
        self._seats.discard(seat)

    def wake(self) -> None:
        """Let all of them look."""
        for seat in self._seats:
            seat.woken.set()

    def _crowded(self, where: str) -> Problem:
        return Problem(
            ProblemCode.OVERLOADED,
            f"too many read {self._what} {where}",
            hint=f"ask {self._instead} now and then instead",
            retry_after_s=RETRY_AFTER_S,
        )
