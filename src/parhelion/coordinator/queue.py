"""Who waits for a slot: bounded, fair by account, first come first served inside one; no I/O.

Guests share an account and not their turns: what is called account here is of a guest the line
that `lines` says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from parhelion.coordinator.registry import Node
from parhelion.coordinator.route import Need
from parhelion.words import Problem, ProblemCode

RETRY_AFTER_S = 2
"""A slot comes free about as often as an answer ends; sooner retries only add load."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's wait; `got` resolves to the node that was reserved for it."""

    need: Need
    account: str
    without: frozenset[str]
    got: asyncio.Future[Node] = field(repr=False)


class Queue:
    """Tickets by model, then by account; the accounts of a model take turns."""

    def __init__(self, length: int, per_account: int) -> None:
        self._length = length
        self._per_account = per_account
        self._of_account: dict[str, int] = {}
        # digest -> account -> tickets; the first account of a dict has the next turn.
        self._lines: dict[str, dict[str, deque[Ticket]]] = {}
        self.size = 0

    def check(self, account: str) -> None:
        """Problem when one more ticket of this account would pass a bound."""
        if self.size >= self._length:
            raise Problem(
                ProblemCode.OVERLOADED,
                f"{self.size} requests wait for a slot already",
                hint="all nodes are busy; retry later",
                retry_after_s=RETRY_AFTER_S,
            )
        waiting = self._of_account.get(account, 0)
        if waiting >= self._per_account:
            raise Problem(
                ProblemCode.QUEUE_SHARE_EXCEEDED,
                f"{waiting} of your requests wait for a slot already",
                hint="send fewer requests at once",
                retry_after_s=RETRY_AFTER_S,
            )

    def join(self, ticket: Ticket) -> None:
        """Go to the end of the account's line; Problem when a bound is reached."""
        self.check(ticket.account)
        lines = self._lines.setdefault(ticket.need.digest, {})
        lines.setdefault(ticket.account, deque()).append(ticket)
        self.size += 1
        self._of_account[ticket.account] = self._of_account.get(ticket.account, 0) + 1

    def leave(self, ticket: Ticket) -> None:
        """Leave the line, wherever in it; nothing happens when it has left already."""
        lines = self._lines.get(ticket.need.digest, {})
        line = lines.get(ticket.account)
        if line is None or ticket not in line:
            return
        line.remove(ticket)
        if not line:
            del lines[ticket.account]
        if not lines:
            del self._lines[ticket.need.digest]
        self.size -= 1
        self._of_account[ticket.account] -= 1
        if not self._of_account[ticket.account]:
            del self._of_account[ticket.account]

    def models(self) -> list[str]:
        """Digests of the models that somebody waits for."""
        return list(self._lines)

    def first(self, digest: str) -> Ticket | None:
        """The ticket whose turn it is."""
        lines = self._lines.get(digest)
        return next(iter(lines.values()))[0] if lines else None

    def in_turn(self, digest: str) -> list[Ticket]:
        """All tickets of a model in the order in which they would be served."""
        lines = self._lines.get(digest, {}).values()
        rounds = itertools.zip_longest(*lines)
        return [ticket for one in rounds for ticket in one if ticket is not None]

    def of_model(self, digest: str) -> Iterator[Ticket]:
        """All tickets of a model, in no particular order."""
        return itertools.chain.from_iterable(self._lines.get(digest, {}).values())

    def serve(self, ticket: Ticket) -> None:
        """Take the ticket out; its account's next one waits until the others had a turn."""
        digest, account = ticket.need.digest, ticket.account
        self.leave(ticket)
        lines = self._lines.get(digest)
        if lines and account in lines:
            lines[account] = lines.pop(account)

    def tickets(self) -> list[Ticket]:
        """All tickets, in no particular order."""
        return [t for lines in self._lines.values() for line in lines.values() for t in line]
