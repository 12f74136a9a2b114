"""How fast one node is for one model, as the coordinator measured it; pure, None until measured.

Nothing here comes from what a node says of itself: only from when its ids came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

WEIGHT = 0.3
"""Of a sample of a second or more: three of them outweigh what was before."""

WEIGHT_LEAST = 0.03
"""Of the shortest samples: they say more about timers than about speed."""

IDS_LEAST = 4
"""Ids in a sample; fewer come in one frame and say nothing."""

SECONDS_LEAST = 0.001

PREFILL_TOKENS_LEAST = 64
"""A shorter prompt's time to the first id is the link's and the first step's, not the prefill's."""

ALONE_STREAMS = 1.5
"""Fewer than this on average is one stream alone."""

FULL_SHARE = 0.9
"""More than this share of the slots on average is full slots."""


@dataclass(slots=True)
class Speed:
    """Prefill and decode speed of one node for one model with `slots` slots.

    Decode is kept as seconds between two ids of one stream, at up to three loads: alone, with full
    slots, and at the mean load in between that service showed. Between them it is interpolated.
    """

    slots: int
    prefill_tokens_per_s: float | None = None
    _alone_s: float | None = None
    _full_s: float | None = None
    _shared: tuple[float, float] | None = None
    """(streams, seconds between ids): both means, so the point is on the line that made it."""
    _known: dict[int, float] = field(default_factory=dict[int, float], compare=False)

    @property
    def alone_tokens_per_s(self) -> float | None:
        """Decode speed of one stream alone."""
        return None if self._alone_s is None else 1 / self._alone_s

    @property
    def full_tokens_per_s(self) -> float | None:
        """Decode speed of all streams together with full slots."""
        return None if self._full_s is None else self.slots / self._full_s

    @property
    def tokens_per_s(self) -> float | None:
        """The most ids a second of all streams together that was measured at any load."""
        seen = [streams / step_s for streams, step_s in self._points()]
        return max(seen, default=None)

    @property
    def knows_shared(self) -> bool:
        """Whether more than one stream at once was ever measured."""
        return self._shared is not None or (self.slots > 1 and self._full_s is not None)

    def step_s(self, streams: int) -> float | None:
        """Seconds between two ids of one stream while so many run; None: nothing is measured.

        Past the largest measured load all streams share what was measured there: the least that
        one may expect, so that load spreads until more is known.
        """
        known = self._known.get(streams)
        if known is not None:
            return known
        points = self._points()
        if not points:
            return None
        step_s = self._known[streams] = _along(points, streams)
        return step_s

    def prefilled(self, tokens: int, seconds: float) -> None:
        """So many tokens, none of them cached and no other prompt before them, took so long."""
        if tokens < PREFILL_TOKENS_LEAST or seconds < SECONDS_LEAST:
            return
        seen = tokens / seconds
        self.prefill_tokens_per_s = _toward(self.prefill_tokens_per_s, seen, WEIGHT)

    def decoded(self, ids: int, seconds: float, streams: float) -> None:
        """One stream made so many ids in so long, beside others: `streams` ran on average."""
        if ids < IDS_LEAST or seconds < SECONDS_LEAST:
            return
        step_s = seconds / ids
        weight = max(WEIGHT_LEAST, WEIGHT * min(1.0, seconds))
        self._known.clear()
        is_alone, is_full = streams < ALONE_STREAMS, streams >= FULL_SHARE * self.slots
        if is_alone:
            self._alone_s = _toward(self._alone_s, step_s, weight)
        if is_full:
            self._full_s = _toward(self._full_s, step_s, weight)
        if not is_alone and not is_full:
            at, shared_s = self._shared or (streams, step_s)
            self._shared = _toward(at, streams, weight), _toward(shared_s, step_s, weight)

    def _points(self) -> list[tuple[float, float]]:
        """What is measured, as (streams, seconds between ids), the smallest load first."""
        points: list[tuple[float, float]] = []
        if self._alone_s is not None:
            points.append((1.0, self._alone_s))
        if self._shared is not None:
            points.append(self._shared)
        if self._full_s is not None and self.slots > 1:
            points.append((float(self.slots), self._full_s))
        return points


def _along(points: list[tuple[float, float]], streams: int) -> float:
    if streams <= points[0][0]:
        return points[0][1]
    for (left, left_s), (right, right_s) in pairwise(points):
        if streams <= right:
            return left_s + (right_s - left_s) * (streams - left) / (right - left)
    last, last_s = points[-1]
    return last_s * streams / last


def _toward(known: float | None, seen: float, weight: float) -> float:
    return seen if known is None else known + weight * (seen - known)
