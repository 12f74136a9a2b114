"""Who waits for a slot: bounded, fair by account, answers that have begun first; no I/O.

Guests share an account and not their turns: what is called account here is of a guest the line
that `lines` says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from parhelion.coordinator.provider import Choice
from parhelion.coordinator.registry import Node
from parhelion.coordinator.route import Need
from parhelion.words import Problem, ProblemCode

RETRY_AFTER_S = 2
"""A slot comes free about as often as an answer ends; sooner retries only add load."""


BEGUN = ""
"""The line of answers that have begun and lost their node; no account has this name."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's wait; `got` resolves to the node that was reserved for it.

    Nodes of `without` are never taken, `rather_without` only where no other is free. `begun`:
    its client has the start of the answer, so it goes before all that have not begun, and waits
    also while no node is there at all.
    """

    need: Need
    account: str
    without: frozenset[str]
    got: asyncio.Future[Node] = field(repr=False)
    rather_without: str | None = None
    begun: bool = False
    last_resort: frozenset[str] = frozenset()
    """Operators whose nodes a suspect takes only where no other could ever serve it."""
    arrival: int = 0
    """Counts who came; who was handed back keeps the number of its first ticket."""
    returned: bool = False
    """It had a node, which handed it back: it goes where it stood, not to the end."""
    come_s: float = 0.0
    """How long a suspect waits for a node to come, where none is there that could serve it."""
    deserted: asyncio.TimerHandle | None = field(default=None, repr=False)
    """Of a suspect that waits for that: what ends its wait."""
    patient_until_s: float = 0.0
    """Until then it may leave a slow node's free slot to wait for a faster one's."""

    @property
    def terms(
        self,
    ) -> tuple[Choice | None, int | None, tuple[frozenset[str], ...], frozenset[str]]:
        """Which nodes it takes, beside its size: equal for tickets that fit the same nodes."""
        return self.need.choice, self.need.max_price_micro, self.need.accused, self.without

    @property
    def line(self) -> str:
        """Whose line it stands in."""
        return BEGUN if self.begun else self.account


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
        """Go to the end of the line; Problem when a bound is reached.

        The bounds are for who asks: answers that have begun are as few as the slots, and so are
        those that were returned, which get their place and their line's turn back.
        """
        digest, line = ticket.need.digest, ticket.line
        if not ticket.begun:
            if not ticket.returned:
                self.check(ticket.account)
            self._of_account[ticket.account] = self._of_account.get(ticket.account, 0) + 1
        lines = self._lines.setdefault(digest, {})
        if ticket.begun and BEGUN not in lines:
            lines = self._lines[digest] = {BEGUN: deque(), **lines}
        mine = lines.setdefault(line, deque())
        if ticket.returned:
            mine.insert(sum(one.arrival < ticket.arrival for one in mine), ticket)
            self._lines[digest] = _with_turn_back(lines, ticket)
        else:
            mine.append(ticket)
        self.size += 1

    def leave(self, ticket: Ticket) -> None:
        """Leave the line, wherever in it; nothing happens when it has left already."""
        lines = self._lines.get(ticket.need.digest, {})
        line = lines.get(ticket.line)
        if line is None or ticket not in line:
            return
        line.remove(ticket)
        if not line:
            del lines[ticket.line]
        if not lines:
            del self._lines[ticket.need.digest]
        self.size -= 1
        if ticket.begun:
            return
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

    def ahead_of(self, ticket: Ticket) -> int:
        """Tickets of its model that would be served before a ticket that joined now."""
        lines = self._lines.get(ticket.need.digest, {})
        mine = len(lines.get(ticket.line, ()))
        others = [len(line) for name, line in lines.items() if name not in (BEGUN, ticket.line)]
        begun = 0 if ticket.begun else len(lines.get(BEGUN, ()))
        return begun + mine + sum(min(length, mine + 1) for length in others)

    def in_turn(self, digest: str) -> list[Ticket]:
        """All tickets of a model in the order in which they would be served."""
        lines = self._lines.get(digest, {})
        rounds = itertools.zip_longest(*(line for name, line in lines.items() if name != BEGUN))
        asked = [ticket for one in rounds for ticket in one if ticket is not None]
        return [*lines.get(BEGUN, ()), *asked]

    def of_model(self, digest: str) -> Iterator[Ticket]:
        """All tickets of a model, in no particular order."""
        return itertools.chain.from_iterable(self._lines.get(digest, {}).values())

    def serve(self, ticket: Ticket) -> None:
        """Take the ticket out; its account's next one waits until the others had a turn."""
        digest, line = ticket.need.digest, ticket.line
        self.leave(ticket)
        lines = self._lines.get(digest)
        if lines and line in lines and line != BEGUN:
            lines[line] = lines.pop(line)

    def tickets(self) -> list[Ticket]:
        """All tickets, in no particular order."""
        return [t for lines in self._lines.values() for line in lines.values() for t in line]


def _with_turn_back(lines: dict[str, deque[Ticket]], ticket: Ticket) -> dict[str, deque[Ticket]]:
    """The lines with a returned ticket's before all but who was returned too and came earlier."""

    def rank(name: str) -> tuple[bool, bool, int]:
        head = lines[name][0]
        return name != BEGUN, not head.returned, head.arrival if head.returned else 0

    # The sort is stable, so who was not returned keeps the turn that it had.
    return {name: lines[name] for name in sorted(lines, key=rank)} if not ticket.begun else lines
