"""Which jobs stand still at a node that is otherwise alive; the sweep looks, no job has a timer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Protocol, TypeVar

SHORTEST_STILL_S = 6.0
"""As an engine judges its own host (DESIGN 3): under this a busy machine is only slow."""

USUAL_STEPS = 5.0
"""A node whose usual step is long may be silent for so many of them."""

LONGEST_STILL_S = 60.0
"""Nobody earns the right to hold a request for longer by being slow."""

PROMPT_ID_S = 1.0
"""What one more id of the prompt excuses. Slower than that no engine reads whose answer somebody
waits for: the largest models on a laptop's CPU read some two ids a second when alone."""

LONGEST_LOOK_S = 1.0
"""What one look counts at most: while we did not look we did not listen either."""

Mark = tuple[int, int, int]
"""(attempt, prefilled, ids): what a job's progress between two looks is told by."""


class Moving(Protocol):
    """A job at a node, as far as its progress goes."""

    @property
    def mark(self) -> Mark | None: ...  # None: it ended
    @property
    def digest(self) -> str: ...
    @property
    def began(self) -> bool: ...  # its first id is there


Job = TypeVar("Job", bound=Moving)
Key = TypeVar("Key", bound=Hashable)


class Progress:
    """How long each job of one session has stood still, from look to look."""

    def __init__(self) -> None:
        self._looked_s: float | None = None
        self._still: dict[Hashable, tuple[Mark, float]] = {}

    def look(
        self, jobs: Mapping[Key, Job], limit_s: float, prompt_id_s: float, now_s: float
    ) -> list[Job]:
        """The jobs that stand still for longer than the limit; `jobs` in the order of opening.

        An engine prefills the oldest prompt first, so a younger one is only as still as those of
        its model before it. An id of the answer excuses all silence before it, one of the prompt
        only `prompt_id_s`: nobody sees that one but the node.
        """
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, LONGEST_LOOK_S)
        self._looked_s = now_s
        if not jobs:
            self._still = {}
            return []
        before, self._still = self._still, {}
        ahead: dict[str, float] = {}
        stuck: list[Job] = []
        for name, job in jobs.items():
            mark = job.mark
            if mark is None:
                continue
            seen, still_s = before.get(name, (mark, -passed_s))
            moved_s = excused_s(seen, mark, prompt_id_s)
            still_s = max(0.0, still_s + passed_s - moved_s)
            if not job.began:
                still_s = ahead[job.digest] = min(still_s, ahead.get(job.digest, still_s))
            self._still[name] = mark, still_s
            if still_s > limit_s:
                stuck.append(job)
        return stuck


def excused_s(seen: Mark, mark: Mark, prompt_id_s: float) -> float:
    """How much silence a job's progress between two looks makes good."""
    if seen[0] != mark[0] or seen[2] != mark[2]:
        return math.inf
    return (mark[1] - seen[1]) * prompt_id_s


def still_limit_s(tokens_per_s: float | None, streams: int) -> float:
    """How long a job may stand still at a node of this measured speed (of all streams together)."""
    return min(LONGEST_STILL_S, max(SHORTEST_STILL_S, _usual_steps_s(tokens_per_s, streams)))


def prompt_id_limit_s(tokens_per_s: float | None, streams: int) -> float:
    """How long one id of a prompt may take there.

    Beside streams a step carries at least one (docs/decisions/012), whatever the step takes.
    """
    return min(LONGEST_STILL_S, max(PROMPT_ID_S, _usual_steps_s(tokens_per_s, streams)))


def _usual_steps_s(tokens_per_s: float | None, streams: int) -> float:
    return USUAL_STEPS * max(1, streams) / tokens_per_s if tokens_per_s else 0.0
