"""The client's side of one exchange: every wait of ours ends when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType

from litestar.types import Receive

from parhelion.api.wire import ClientLeft

log = logging.getLogger("parhelion.api")


class Watch:
    """While entered, listens for http.disconnect and then cancels whatever its task waits for.

    The cancellation comes out of the block as ClientLeft, as asyncio.timeout does it for time.
    `on_tick`, where given, is called every `tick_s` and says whether the client may stay.
    """

    def __init__(
        self,
        receive: Receive,
        tick_s: float | None = None,
        on_tick: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.gone = False
        self._receive = receive
        self._tick_s = tick_s
        self._on_tick = on_tick
        self._main: asyncio.Task[object]
        self._task: asyncio.Task[None]
        self._cancelling = 0
        self._over = False

    async def __aenter__(self) -> Watch:
        main = asyncio.current_task()
        assert main is not None
        self._main = main
        self._cancelling = main.cancelling()
        self._task = asyncio.create_task(self._listen(), name="watch")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        self._task.cancel()
        # Cancelled before its first step it keeps the exception: then this must not keep the task.
        del self._task
        if not self.gone:
            return
        # Ours was one of the cancellations; if there was another (shutdown), that one stands.
        ours_alone = self._main.uncancel() <= self._cancelling
        if ours_alone and kind is asyncio.CancelledError:
            raise ClientLeft from error

    def check(self) -> None:
        """ClientLeft when the client is gone: for a loop that never has to wait."""
        if self.gone:
            raise ClientLeft

    async def _listen(self) -> None:
        try:
            while await self._stays():
                pass
        except asyncio.CancelledError:
            # Ended by __aexit__. A task that ends cancelled keeps the exception, which keeps this
            # frame, which keeps the task: a ring for the garbage collector, once a request.
            return
        except Exception:
            # A connection that can neither be heard nor written to is a client that left.
            log.exception("the connection failed")
        if not self._over:
            self.gone = True
            self._main.cancel()

    async def _stays(self) -> bool:
        """Wait for the next message or tick: whether the client is still there, and may be."""
        if self._tick_s is None:
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout(self._tick_s):
                    message = await self._receive()
            except TimeoutError:
                return self._on_tick is None or await self._on_tick()
        return bool(message["type"] != "http.disconnect")
