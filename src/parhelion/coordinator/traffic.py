"""What went through the pool over time: requests, tokens, waits for a first token; pure.

Every moment is an argument. What nobody has measured yet is None and never 0.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

STEP_S = 10.0
"""Between two points: fine enough for a chart of an hour, and 360 of them are 40 kB."""

POINTS_LIMIT = 360
"""An hour at one a STEP_S."""

WINDOW_S = 60.0
"""What the figures of the moment are over, at least once that much was seen, and at most a STEP_S
more: a minute is long enough for a p95 and short enough to be about now."""

LEAST_S = 1.0
"""Over less time the rate of what came is noise, and none is told."""

WAITS_LIMIT = 8192
"""Waits that are kept of answers that ended: past 136 a second the oldest of a window are left
out. Some 600 kB, and to sort them takes 2 ms."""


class Wait(NamedTuple):
    """When an answer's first token came, and how long it was waited for."""

    at_s: float
    wait_s: float


class Totals(NamedTuple):
    """Counted since the start; `tokens` also of answers that run. It may go back, see `Window`."""

    requests: int
    tokens: int


class Figures(NamedTuple):
    """Over the last `window_s` seconds; None where that is too short, or nothing was waited for."""

    window_s: float
    requests_per_s: float | None
    tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None


class Point(NamedTuple):
    """One point of the chart: rates and waits over the STEP_S before it, the rest at its moment."""

    at_ms: int
    requests_per_s: float | None
    tokens_per_s: float | None
    ttft_p50_s: float | None
    queue: int
    running: int


class Traffic:
    """Counts of what ended, beside the counters of /metrics and in the same call."""

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self._waits: deque[Wait] = deque(maxlen=WAITS_LIMIT)

    def ended(self, tokens: int, wait: Wait | None) -> None:
        """A request was settled, however it ended; `wait` is None where no token came."""
        self.requests += 1
        self.tokens += tokens
        if wait is not None:
            self._waits.append(wait)

    def waits_since(self, since_s: float) -> list[float]:
        """How long answers that have ended waited whose first token came after that moment."""
        return [wait.wait_s for wait in self._waits if wait.at_s > since_s]


class Window:
    """The figures of the last minute, and points of the last hour.

    A request that could not be settled takes its tokens out of the totals: like a counter that was
    reset, it is counted on from there, and no rate is ever below zero.
    """

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=POINTS_LIMIT)
        self._seen = Totals(0, 0)
        self._grown = Totals(0, 0)
        self._marks: deque[tuple[float, Totals]] = deque()

    def begin(self, now_s: float, totals: Totals) -> None:
        """Measure from this moment on."""
        self._seen = totals
        self._marks = deque([(now_s, self._grown)])

    def since_s(self, now_s: float) -> float | None:
        """When what figures are over began; None before `begin`."""
        return self._mark(now_s)[0] if self._marks else None

    def figures(self, now_s: float, totals: Totals, waits: Sequence[float]) -> Figures:
        """What was measured since `since_s`; `waits` are of answers whose first token came then."""
        if not self._marks:
            return Figures(0.0, None, None, None, None)
        self._note(totals)
        at_s, before = self._mark(now_s)
        requests_per_s, tokens_per_s = _rates(self._grown, before, now_s - at_s)
        p50_s, p95_s = quantiles(waits, (0.5, 0.95))
        return Figures(now_s - at_s, requests_per_s, tokens_per_s, p50_s, p95_s)

    def step(
        self,
        now_s: float,
        at_ms: int,
        totals: Totals,
        waits: Sequence[float],
        *,
        queue: int,
        running: int,
    ) -> None:
        """Add the point of this moment; `waits` are those of the time since the one before."""
        if not self._marks:
            self.begin(now_s, totals)
            return
        self._note(totals)
        before_s, before = self._marks[-1]
        requests_per_s, tokens_per_s = _rates(self._grown, before, now_s - before_s)
        (p50_s,) = quantiles(waits, (0.5,))
        self.points.append(Point(at_ms, requests_per_s, tokens_per_s, p50_s, queue, running))
        self._marks.append((now_s, self._grown))
        # The newest of those that are a window old stays: figures are over it.
        while len(self._marks) > 1 and self._marks[1][0] <= now_s - WINDOW_S:
            self._marks.popleft()

    @property
    def stepped_s(self) -> float | None:
        """When the last point was added, or it was begun."""
        return self._marks[-1][0] if self._marks else None

    def _mark(self, now_s: float) -> tuple[float, Totals]:
        """The newest mark that is at least a window old, or else the first."""
        found = self._marks[0]
        for mark in self._marks:
            if mark[0] > now_s - WINDOW_S:
                break
            found = mark
        return found

    def _note(self, totals: Totals) -> None:
        seen, grown = self._seen, self._grown
        self._grown = Totals(
            grown.requests + max(0, totals.requests - seen.requests),
            grown.tokens + max(0, totals.tokens - seen.tokens),
        )
        self._seen = totals


def quantiles(values: Iterable[float], shares: Sequence[float]) -> tuple[float | None, ...]:
    """The values below which these shares of all lie (nearest rank); None where there are none."""
    ranked = sorted(values)
    if not ranked:
        return tuple(None for _ in shares)
    # Always a wait that somebody had.
    return tuple(ranked[max(0, math.ceil(share * len(ranked)) - 1)] for share in shares)


def _rates(now: Totals, before: Totals, seconds: float) -> tuple[float | None, float | None]:
    requests, tokens = now.requests - before.requests, now.tokens - before.tokens
    return _rate(requests, seconds), _rate(tokens, seconds)


def _rate(count: int, seconds: float) -> float | None:
    # That nothing came was counted, and is 0 over however short a time.
    if seconds < LEAST_S:
        return None if count else 0.0
    return count / seconds
