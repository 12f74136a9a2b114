"""The states that each node came into, the latest of them; no I/O, and bounded in every way."""

from __future__ import annotations

from collections import OrderedDict, deque

from parhelion.coordinator.views import StateMark
from parhelion.words import Clock

MARKS_KEPT = 50
"""Of one node: what a page shows; one that comes and goes every minute fills it in an hour."""

NODES_KEPT = 4096
"""As many as there are names of nodes that left (`roster.GONE_KEPT`), and only of members."""


class States:
    """Marks by peer id, over all its sessions; whose last mark is oldest is pushed out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: OrderedDict[str, deque[StateMark]] = OrderedDict()

    def note(self, peer: str, state: str, reason: str | None) -> None:
        """It is in this state now; the same again is no news."""
        marks = self._marks.setdefault(peer, deque(maxlen=MARKS_KEPT))
        if marks and marks[-1].state == state and state != "refused":
            return
        marks.append(StateMark(at_ms=self._clock.now_ms(), state=state, reason=reason))
        self._marks.move_to_end(peer)
        if len(self._marks) > NODES_KEPT:
            self._marks.popitem(last=False)

    def of(self, peer: str) -> tuple[StateMark, ...]:
        """The marks of a node, the latest first; none of one that was never a member."""
        return tuple(reversed(self._marks.get(peer, ())))
