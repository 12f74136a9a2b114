"""What one layer takes at a node, from its last timings and from what it was found slow by; pure.

One timing on a machine that does other things too may be three times another. It decides who holds
how many layers and who is paid what, so the median of the last few speaks and not the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

TIMINGS_KEPT = 5
"""Timings of a node and model that its time is the median of: two bad ones of them move nothing."""

BELIEVED_TIMINGS = TIMINGS_KEPT // 2 + 1
"""A majority of those kept: so many outweigh what was seen while streams waited."""

ROUNDS_LEAST = 4
"""Of each stage so many runs are timed at least: two that agree may both have been disturbed."""

ROUNDS_LIMIT = 20
ROUNDS_ENOUGH_S = 3.0
"""On a busy machine more of them are timed, until the quickest agree, or for so long."""

CONFIRMED = 1.1
"""The quickest third is believed when none of it took longer than so many times the least."""

RUN_MS = 20.0
REPEATS_LIMIT = 8
"""A run has as many steps as take this long: a quick step would be lost in what the way to the node
varies by, and a longer run is hardly ever left alone by what else runs on the machine."""

LEAST_SHARE = 0.125
"""Of what the shortest long run allows for a step, however it and the short one differ: where every
short one was disturbed, they differ by nearly nothing."""

SHORTEST_STEP_MS = 0.01
"""Two measurements may cross; nothing computes a layer in no time."""


class Runs:
    """One timing of a stage: runs of one step, and of `repeats` more; what both have, the way to
    the node, is in neither's difference.

    The quickest third of the runs speaks, by the slowest of them: a mean would be of what else ran
    on the machine for a moment, which only ever adds to a step, and the least by itself would be
    of the lucky moments of a machine that is held back for most of the time.
    """

    def __init__(self) -> None:
        self.repeats = REPEATS_LIMIT // 2
        self._short_ms: list[float] = []
        self._long_ms: list[tuple[float, int]] = []
        """With how many steps more than one."""

    def add(self, short_s: float, long_s: float) -> None:
        """One round: a run of one step, and one of `repeats` more, which may be others now."""
        self._short_ms.append(short_s * 1e3)
        self._long_ms.append((long_s * 1e3, self.repeats))
        self.repeats = max(1, min(REPEATS_LIMIT, round(RUN_MS / self.step_ms)))

    @property
    def step_ms(self) -> float:
        """What one step takes."""
        least_ms = min(long_ms / (1 + repeats) for long_ms, repeats in self._long_ms) * LEAST_SHARE
        return max(SHORTEST_STEP_MS, least_ms, _quick(self._steps_ms()))

    @property
    def is_confirmed(self) -> bool:
        """Whether the quickest third was no accident: all of it says the same."""
        return len(self._short_ms) >= ROUNDS_LEAST and all(
            _quick(seen) <= min(seen) * CONFIRMED for seen in (self._short_ms, self._steps_ms())
        )

    def _steps_ms(self) -> list[float]:
        short_ms = _quick(self._short_ms)
        return [(long_ms - short_ms) / repeats for long_ms, repeats in self._long_ms]


def _quick(seen: Sequence[float]) -> float:
    """The slowest of the quickest third, at least of two."""
    return sorted(seen)[len(seen) // 3]


@dataclass(slots=True)
class LayerTime:
    """One layer's time at a node, in milliseconds."""

    _timings: deque[float] = field(default_factory=lambda: deque[float](maxlen=TIMINGS_KEPT))
    _slow_ms: float | None = None

    @property
    def usual_ms(self) -> float | None:
        """The median of the last timings, of two in the middle the lower; None before the first."""
        return median_low(self._timings) if self._timings else None

    @property
    def planned_ms(self) -> float | None:
        """What layers are dealt by: `usual_ms`, or what it was found slow by a moment ago."""
        return self._slow_ms if self._is_slow else self.usual_ms

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever measured of it."""
        return not self._timings and self._slow_ms is None

    @property
    def is_known(self) -> bool:
        """Whether it was timed, and not found slow since."""
        return bool(self._timings) and not self._is_slow

    @property
    def _is_slow(self) -> bool:
        return self._slow_ms is not None and len(self._timings) < BELIEVED_TIMINGS

    def timed(self, layer_ms: float) -> None:
        """It was timed."""
        self._timings.append(layer_ms)

    def found_slow(self, layer_ms: float) -> None:
        """It held up its streams by this: that counts at once, and what was timed before does not.

        A quick timing does not clear it: it may be quick while nobody waits.
        """
        self._timings.clear()
        self._slow_ms = layer_ms
