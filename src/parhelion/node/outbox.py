"""What the node says, in order; the steps of one turn of the event loop leave as one message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from parhelion.link import FromNode, LinkBroken, Steps
from parhelion.words import Step

STEPS_LIMIT = 4096
"""Steps that wait before a message is cut off: far under a frame, far over one engine step."""


class Outbox:
    """Collects steps until the loop's next turn; anything else goes out behind them at once."""

    def __init__(self, post: Callable[[FromNode], None]) -> None:
        self._post = post
        self._steps: list[Step] = []
        self._loop = asyncio.get_running_loop()

    def step(self, step: Step) -> None:
        """Queue one step; the first of a turn arranges for all of them to leave together."""
        self._steps.append(step)
        if len(self._steps) == 1:
            self._loop.call_soon(self.flush)
        elif len(self._steps) >= STEPS_LIMIT:
            self.flush()

    def say(self, message: FromNode) -> None:
        """Queue a message behind every step so far."""
        self.flush()
        self._put(message)

    def flush(self) -> None:
        """Send what waits."""
        if self._steps:
            steps, self._steps = tuple(self._steps), []
            self._put(Steps(steps=steps))

    def _put(self, message: FromNode) -> None:
        # The session's reader meets the same cause and ends the session with it.
        with contextlib.suppress(LinkBroken):
            self._post(message)
