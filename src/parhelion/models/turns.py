"""Who is tokenised next: lines share the host by the bytes they ask about, whoever came first.

A line is an account, or a guest's address. Self-clocked fair queueing: each question is due when
an equal share of the host's work would have got its line that far, so a line that asks little is
next, however much the others have waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from parhelion.words import Problem, ProblemCode

IN_FLIGHT_LIMIT = 1024
IN_FLIGHT_LIMIT_BYTES = 64 * 1024 * 1024
"""What may wait here: the queue of the coordinator is 1,024 long too."""

RETRY_AFTER_S = 2


@dataclass(slots=True)
class Line:
    """What one line has in here, and when its last question is due."""

    questions: int = 0
    size_bytes: int = 0
    due: int = 0


class Turns:
    """Questions by number, from `join` to `leave`; those not yet `next` wait in order."""

    def __init__(self) -> None:
        self.questions = 0
        self.size_bytes = 0
        self._lines: dict[str, Line] = {}
        self._waiting: list[tuple[int, int]] = []
        # The due of what is at work: who comes now starts from here, not from the beginning.
        self._now = 0

    def join(self, number: int, line: str, size_bytes: int) -> int:
        """Take a place; when it is due. Problem when the line has its share in here already.

        A line may take as much as is still free: one alone gets half of all there is, and however
        many there are, something is left for the next.
        """
        mine = self._lines.get(line)
        if mine is None:
            mine = Line()
        free_bytes = IN_FLIGHT_LIMIT_BYTES - self.size_bytes
        if self.questions >= IN_FLIGHT_LIMIT or size_bytes > free_bytes:
            raise busy("too many prompts wait to be tokenised")
        free = IN_FLIGHT_LIMIT - self.questions
        if mine.questions >= free or mine.size_bytes + size_bytes > free_bytes:
            raise Problem(
                ProblemCode.QUEUE_SHARE_EXCEEDED,
                f"{mine.questions} of your prompts wait to be tokenised already",
                hint="send fewer requests at once",
                retry_after_s=RETRY_AFTER_S,
            )
        self._lines[line] = mine
        self._count(mine, 1, size_bytes)
        mine.due = max(mine.due, self._now) + size_bytes
        heappush(self._waiting, (mine.due, number))
        return mine.due

    def first(self) -> int | None:
        """The number of the question whose turn it is; None when none waits."""
        return self._waiting[0][1] if self._waiting else None

    def next(self) -> None:
        """The first goes to work."""
        self._now = max(self._now, heappop(self._waiting)[0])

    def again(self, number: int, due: int) -> None:
        """What was at work waits again, in its old place."""
        heappush(self._waiting, (due, number))

    def last_due(self) -> int:
        """A due behind everybody's who waits."""
        return 1 + max(self._waiting, default=(self._now, 0))[0]

    def leave(self, line: str, size_bytes: int) -> None:
        """A question is answered. One that leaves while it waits is still told as `first`."""
        mine = self._lines[line]
        self._count(mine, -1, -size_bytes)
        if not mine.questions:
            # Nothing is forgiven by this: with its last question served, its due has come.
            del self._lines[line]

    def _count(self, line: Line, questions: int, size_bytes: int) -> None:
        line.questions += questions
        line.size_bytes += size_bytes
        self.questions += questions
        self.size_bytes += size_bytes


def busy(message: str) -> Problem:
    """What everybody is told when it is too much."""
    return Problem(
        ProblemCode.OVERLOADED, message, hint="try again in a moment", retry_after_s=RETRY_AFTER_S
    )
