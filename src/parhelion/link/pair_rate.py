"""How fast frames arrive, from the times of their pieces; pure, the time is told."""

from __future__ import annotations

from parhelion.link.pair_frames import PIECE_BYTES

SHORTEST_BYTES = PIECE_BYTES
"""What has to follow a frame's first piece: less than this says more of the clock than the path."""

SMOOTHING = 0.5
"""How much a new frame weighs against those before it."""


class Rate:
    """The smoothed rate of long frames; short ones say nothing and change nothing."""

    def __init__(self) -> None:
        self.mbit_s: float | None = None
        self._began_s: float | None = None
        self._counted_bytes = 0

    def add(self, size_bytes: int, now_s: float, *, is_last: bool) -> None:
        """A piece has arrived; the first of a frame only starts the clock."""
        if self._began_s is None:
            self._began_s, self._counted_bytes = now_s, 0
        else:
            self._counted_bytes += size_bytes
        if not is_last:
            return
        took_s, self._began_s = now_s - self._began_s, None
        if self._counted_bytes < SHORTEST_BYTES or took_s <= 0:
            return
        mbit_s = self._counted_bytes * 8 / took_s / 1e6
        before = mbit_s if self.mbit_s is None else self.mbit_s
        self.mbit_s = before + SMOOTHING * (mbit_s - before)
