"""A streamed answer as raw ASGI events: headers late, bytes at once, comments when it is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Any

from parhelion.api import errors
from parhelion.api.dialect import KEEP_ALIVE, Pen
from parhelion.api.watch import Watch
from parhelion.api.wire import NO_STORE, Visit, nodes_comment, nodes_header
from parhelion.config import ApiConfig
from parhelion.words import Chunk, Clock, Problem

SLOW_READER_S = 60.0
"""A reader that takes nothing for this long has left; its connection only never said so."""

TICKS_A_KEEP_ALIVE = 4
"""How finely quiet and stalled times are seen; four wake-ups in ten seconds cost nothing."""

SHORTEST_TICK_S = 0.02
"""A setting of 0 must not turn the ticks into a busy loop."""

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    NO_STORE,
    # Nginx and its kin buffer answers unless told not to.
    (b"x-accel-buffering", b"no"),
)


class EventStream:
    """One stream's writer; the task that relays and the Watch's tick take turns at `send`."""

    def __init__(
        self, visit: Visit, config: ApiConfig, clock: Clock, slow_reader_s: float = SLOW_READER_S
    ) -> None:
        self.started = False
        waits_s = min(config.first_id_wait_s, config.keep_alive_s)
        self.tick_s = max(SHORTEST_TICK_S, waits_s / TICKS_A_KEEP_ALIVE)
        self._visit = visit
        self._send: Any = visit.send
        self._config = config
        self._clock = clock
        self._slow_reader_s = slow_reader_s
        self._starting = asyncio.Lock()
        self._opened_s = self._wrote_s = clock.monotonic_s()
        self._sending_since_s: float | None = None
        self.holds_head = False
        """Whether the head waits for something that it must name, longer than for the first id."""
        self.nodes: Callable[[], tuple[str, ...]] = tuple
        """Who makes the answer, asked when the head goes out and whenever more of it came."""
        self._named: tuple[str, ...] = ()

    async def relay(self, answer: AsyncIterable[Chunk], pen: Pen, watch: Watch) -> None:
        """Send every chunk as it comes, and the end; whatever the answer raises is passed on."""
        opening = pen.opening()
        ended = False
        async for chunk in answer:
            data = opening + pen.text(chunk.text) if chunk.text else opening
            if chunk.usage is None:
                data = self._moved() + data
            opening = b""
            if chunk.usage is not None:
                ended = True
                data += pen.ending(chunk.finish_reason or "stop", chunk.usage)
            await self.write(data, more=not ended)
            watch.check()
        if not ended:
            raise RuntimeError("the answer ended without usage")

    async def write(self, data: bytes, more: bool = True) -> None:
        """Send bytes now; the time is noted so that a reader that takes nothing is found out."""
        if not self.started:
            await self._start()
        self._sending_since_s = self._wrote_s = self._clock.monotonic_s()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending_since_s = None

    def _moved(self) -> bytes:
        """A comment where others make the answer than was said last; clients skip comments."""
        now = self.nodes()
        if not self.started or not now or now == self._named:
            return b""
        self._named = now
        return nodes_comment(now)

    async def fail(self, problem: Problem) -> None:
        """End a stream that began: the error as its last event, and no [DONE] after it.

        OpenAI's SDKs raise APIError for a data event that holds an `error`.
        """
        await self.write(b"data: " + errors.body(problem) + b"\n\n", more=False)

    async def tick(self) -> bool:
        """Called now and then: False when the reader has stalled for too long."""
        now_s = self._clock.monotonic_s()
        if self._sending_since_s is not None:
            return now_s - self._sending_since_s < self._slow_reader_s
        if self.holds_head:
            return True
        quiet_s = now_s - self._wrote_s
        limit_s = self._config.keep_alive_s if self.started else self._config.first_id_wait_s
        # Half a tick early is better than a whole tick late.
        if quiet_s + self.tick_s / 2 >= limit_s:
            try:
                async with asyncio.timeout(self._slow_reader_s):
                    await self.write(KEEP_ALIVE)
            except TimeoutError:
                return False
        return True

    async def _start(self) -> None:
        # The lock: the first chunk and the end of the header wait may come at the same moment.
        async with self._starting:
            if self.started:
                return
            self._named = self.nodes()
            headers = [*HEADERS, *nodes_header(self._named), *self._visit.headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            self.started = True
