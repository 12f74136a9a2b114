"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio

DEFAULT_NOW_MS = 1_800_000_000_000
"""January 2027: a plausible date, the same in every test."""


class ManualClock:
    """A `words.Clock` set by hand; `sleep` ends when `advance` has gone far enough."""

    def __init__(self, now_ms: int = DEFAULT_NOW_MS) -> None:
        self._start_ms = now_ms
        self._passed_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds."""
        return self._start_ms + round(self._passed_s * 1000)

    def monotonic_s(self) -> float:
        """Seconds since the clock was made."""
        return self._passed_s

    def advance(self, seconds: float) -> None:
        """Move both times forward, and wake whoever slept until then, earliest first."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._passed_s += seconds
        due = [one for one in self._sleepers if one[0] <= self._passed_s]
        self._sleepers = [one for one in self._sleepers if one[0] > self._passed_s]
        for _, woken in sorted(due, key=lambda one: one[0]):
            if not woken.done():
                woken.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Like asyncio.sleep, in this clock's time."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._passed_s + seconds, woken))
        await woken
