"""Files read and written beside the event loop: one call after another, each in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


class OffLoop:
    """Runs calls in a thread, and lets go of what they use once none of them runs.

    A thread cannot be stopped: whoever waits for a call may be cancelled, the call ends by itself,
    and its file must not be closed under it. `threads` None: those that asyncio has.
    """

    def __init__(self, threads: Executor | None = None) -> None:
        self._threads = threads
        self._call: asyncio.Future[Any] | None = None

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` gives; never two at a time."""
        assert self._call is None or self._call.done(), "the call before still runs"
        loop = asyncio.get_running_loop()
        self._call = call = loop.run_in_executor(self._threads, work)
        return await asyncio.shield(call)

    def end(self, let_go: Callable[[], object]) -> None:
        """Call `let_go` now, or as soon as the call that runs has ended."""
        if self._call is None or self._call.done():
            let_go()
            return

        def ended(call: asyncio.Future[Any]) -> None:
            if not call.cancelled():
                call.exception()  # Seen: nobody waits for it any more.
            let_go()

        self._call.add_done_callback(ended)
