"""What stands between a process's frames and a job's reader; and how long silence may last."""

from __future__ import annotations

import asyncio
from collections import deque

from parhelion.words import Problem, ProblemCode, Step

SHORTEST_SILENCE_S = 6.0
"""Under this a busy machine is only slow (DESIGN 3)."""

USUAL_STEPS = 5.0
"""An engine whose usual step is long may be silent for so many of them."""


class Inbox:
    """The steps of one job that its reader has not taken: at most its own ids and a report."""

    def __init__(self, ids_left: int) -> None:
        # Every id is at most a step of its own; one progress report and one end may stand beside.
        self._limit = max(0, ids_left) + 2
        self._steps: deque[Step] = deque()
        self._changed = asyncio.Event()
        self._problem: Problem | None = None

    @property
    def failed(self) -> bool:
        """No further step can come."""
        return self._problem is not None

    def put(self, step: Step) -> None:
        """Add a step; a newer progress report replaces an unread one.

        Problem where more was made than the job asks for.
        """
        if self._steps and _is_report(self._steps[-1]):
            self._steps.pop()
        if len(self._steps) >= self._limit:
            raise Problem(ProblemCode.ENGINE_FAILED, "more was made than the job asks for")
        self._steps.append(step)
        self._changed.set()

    def fail(self, problem: Problem) -> None:
        """End the job; steps that arrived before are still read."""
        self._problem = self._problem or problem
        self._changed.set()

    async def next(self) -> Step:
        """The next step; the Problem when there is none left."""
        while not self._steps:
            if self._problem is not None:
                raise self._problem
            self._changed.clear()
            await self._changed.wait()
        return self._steps.popleft()


def _is_report(step: Step) -> bool:
    return not step.ids and step.finish is None


class Liveness:
    """Measures a host's silence while it has work, against its usual step.

    Silence is summed over looks, each counting LONGEST_LOOK_S at most: a parent that was itself
    held up must not take its own absence for the host's.
    """

    WEIGHT = 0.1
    LONGEST_LOOK_S = 1.0

    def __init__(self) -> None:
        self._heard_s: float | None = None
        self._looked_s = 0.0
        self._usual_s = 0.0
        self._silent_s = 0.0

    def heard(self, now_s: float) -> None:
        """A frame came."""
        if self._heard_s is not None:
            # Bounded, so that one long silence does not excuse the next.
            gap_s = min(now_s - self._heard_s, SHORTEST_SILENCE_S)
            self._usual_s += self.WEIGHT * (gap_s - self._usual_s)
        self._heard_s = now_s
        self._silent_s = 0.0

    def look(self, now_s: float, busy: bool) -> float:
        """Seconds of silence so far; an idle host owes no frame."""
        if busy:
            self._silent_s += min(now_s - self._looked_s, self.LONGEST_LOOK_S)
        else:
            self._silent_s = 0.0
            self._heard_s = None
        self._looked_s = now_s
        return self._silent_s

    def limit_s(self) -> float:
        """How long a silence is still fine."""
        return max(SHORTEST_SILENCE_S, USUAL_STEPS * self._usual_s)
