"""Tells parts of this program that nodes came, went or changed; heartbeats are no news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TELL_S = 0.5
"""Who is told looks at all nodes, and in a storm hundreds join a second: once for all of those."""

WATCHERS_LIMIT = 4
"""Parts of this program, not clients: those follow the feed."""


class News:
    """Calls its watchers after a change: at once after a quiet time, else every TELL_S."""

    def __init__(self) -> None:
        self._watchers: list[Callable[[], None]] = []
        self._version = -1
        self._told_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def watch(self, look: Callable[[], None]) -> None:
        """Call `look` after changes, for good."""
        assert len(self._watchers) < WATCHERS_LIMIT, "who watches must not come and go"
        self._watchers.append(look)

    def touch(self, version: int) -> None:
        """This is what the registry's version is now; the same as before is no news."""
        if version == self._version:
            return
        self._version = version
        if self._timer is None and self._watchers and not self._closed:
            loop = asyncio.get_running_loop()
            wait_s = max(0.0, self._told_s + TELL_S - loop.time())
            self._timer = loop.call_later(wait_s, self._tell)

    def close(self) -> None:
        """Tell nothing more: the coordinator stops."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self._timer = None
        self._told_s = asyncio.get_running_loop().time()
        for look in self._watchers:
            look()
