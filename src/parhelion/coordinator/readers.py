"""Who follows a stream of ours: so many in all and of one address, each woken when more comes."""

from __future__ import annotations

import asyncio

from parhelion.words import Problem, ProblemCode

RETRY_AFTER_S = 30
"""Readers are pages: they stay for minutes."""

READERS_LIMIT = 256
"""A reader is a connection and a place in what is told; beyond this many, pages may poll."""

READERS_PER_SITE_LIMIT = 64
"""Of one address (identity.site_of): an office behind one, and never all that there are."""


class Seat:
    """One reader's: where it comes from, and what wakes it."""

    def __init__(self, site: str) -> None:
        self.site = site
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

    def check(self, site: str) -> None:
        """Problem OVERLOADED when too many read already, in all or from this site."""
        if len(self._seats) >= READERS_LIMIT:
            raise self._crowded(f"too many read {self._what} already")
        # Counted over a bounded set when one comes, so that nothing has to be kept in step.
        if sum(seat.site == site for seat in self._seats) >= READERS_PER_SITE_LIMIT:
            raise self._crowded(f"too many read {self._what} from this address already")

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

    def _crowded(self, message: str) -> Problem:
        return Problem(
            ProblemCode.OVERLOADED,
            message,
            hint=f"ask {self._instead} now and then instead",
            retry_after_s=RETRY_AFTER_S,
        )
