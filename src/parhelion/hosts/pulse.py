"""Whether an idle host still lives: it is asked now and then, and owes an answer; pure.

Who works is heard of by its work, and judged by its owner. Who has nothing to do would stand still
unnoticed (stopped, or held by a driver) until the next job met it.
"""

from __future__ import annotations

from typing import Literal

PING_EVERY_S = 2.0
"""As often as a node beats (DESIGN 4): an idle host wakes for 0.1 ms or so."""

SILENCE_LIMIT_S = 6.0
"""Since its last sign of life, as of a node (DESIGN 4): a ping is unanswered for four seconds then,
and a host that is only swapped out has answered."""


SLACK_S = 0.05
"""A timer may be early by a hair: the look it makes is in time all the same."""


class Pulse:
    """One host's silence while it owes nothing but an answer to a ping, summed over looks.

    Each look counts PING_EVERY_S at most, by the monotonic clock: an owner that was itself held up,
    on a machine that slept, must not take its own absence for the host's. One ping is under way at
    a time: a pipe loses none.
    """

    def __init__(self, begin_s: float | None = None) -> None:
        """Counted from `begin_s`, or from the first look."""
        self._looked_s = begin_s
        self._silent_s = 0.0
        self._asked = False

    @property
    def silent_s(self) -> float:
        """For how long nothing was heard, as far as it was looked at."""
        return self._silent_s

    @property
    def owes(self) -> bool:
        """A ping is unanswered: nothing sent after it has been looked at."""
        return self._asked

    def heard(self) -> None:
        """A frame came: it lives."""
        self._silent_s = 0.0
        self._asked = False

    def ask(self) -> bool:
        """Ask out of turn, before work of which the answer is to be told apart; True: ping it."""
        first, self._asked = not self._asked, True
        return first

    def look(
        self, now_s: float, idle: bool, limit_s: float = SILENCE_LIMIT_S
    ) -> Literal["fine", "ask", "dead"]:
        """What to do now; after "ask" the host has been sent a ping.

        A host that got work behind an unanswered ping must answer the ping first.
        """
        passed_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        if not idle and not self._asked:
            self._silent_s = 0.0
            return "fine"
        self._silent_s += min(passed_s, PING_EVERY_S)
        if self._asked:
            return "dead" if self._silent_s >= limit_s - SLACK_S else "fine"
        if self._silent_s < PING_EVERY_S - SLACK_S:
            return "fine"
        self._asked = True
        return "ask"
