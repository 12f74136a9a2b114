"""What this node serves to other nodes: slices that it has, to whom the coordinator names.

Each order is good for one link, one slice and one other node, which proves itself. Whoever runs
jobs here goes first: while there are any, a slice gets a quarter of its link.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from parhelion.link import LinkBroken, ServeSlice, clipped
from parhelion.models import OffLoop
from parhelion.node.pipes import CLOSE_DEADLINE_S, PAIR_DEADLINE_S, OpenPipe, Pipe
from parhelion.node.slice_parts import answer, read_ask
from parhelion.words import Problem

SERVED_LIMIT = 2
"""Slices that are read at once: more would each be slower than the coordinator's own."""

ORDERS_LIMIT = 8
"""Orders whose node has not come yet, or came and goes: it may find the slice elsewhere first."""

FIRST_ASK_S = 15.0
"""From the link to the first ask: a node that can do without us asks the coordinator first."""

NEXT_ASK_S = 15.0
"""Between two asks: the other node's disk takes a part, or four of them."""

SERVE_DEADLINE_S = 3600.0
"""As long as a fetch goes on at all (fetching.DEADLINE_S)."""

TIMES_SENT_LIMIT = 2
"""Each byte once, and once more where what had come before was wrong."""

REST_SHARE = 3.0
"""While jobs run here a part is followed by a rest three times as long as the link takes for it."""

USUAL_MBIT_S = 100.0
FASTEST_MBIT_S = 1000.0
"""A link that is not measured yet, and one whose other end claims anything: 256 kB in 2 ms."""

REST_LIMIT_S = 2.0
"""Of a rest: whoever waits must not take us for gone (holder_source.PART_DEADLINE_S)."""

BUSY = "this node serves as many slices as it may"

log = logging.getLogger("parhelion.node")


@dataclass(frozen=True, slots=True)
class Lent:
    """A slice that can be read: bytes from an offset on, as many; Problem, OSError. It blocks."""

    read: Callable[[int, int], bytes]
    release: Callable[[], None]


Lend = Callable[[ServeSlice], Awaitable[Lent]]
"""The slice of an order; Problem where this node does not have it."""


def rest_s(sent_bytes: int, mbit_s: float | None, is_busy: bool) -> float:
    """How long a link rests after it has taken so much; pure."""
    if not is_busy:
        return 0.0
    rate = min(FASTEST_MBIT_S, mbit_s or USUAL_MBIT_S) * 1e6 / 8
    return min(REST_LIMIT_S, REST_SHARE * sent_bytes / rate)


@dataclass(slots=True)
class _Served:
    """An order whose node has come, and what it got."""

    order: ServeSlice
    pipe: Pipe
    sent_bytes: int = 0


class SliceServer:
    """Serves slices for one session with the coordinator after the other."""

    def __init__(self, lend: Lend, is_busy: Callable[[], bool]) -> None:
        self.sent_bytes = 0
        """To all nodes, since the start."""
        self._lend = lend
        self._is_busy = is_busy
        self._open_pipe: OpenPipe | None = None
        self._serving = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, open_pipe: OpenPipe) -> None:
        """A session begins: from now on its orders are obeyed."""
        self._open_pipe = open_pipe

    async def end(self) -> None:
        """The session is over, and every order with it."""
        self._open_pipe = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * CLOSE_DEADLINE_S)

    def obey(self, order: ServeSlice) -> None:
        """Wait for the other node of this order; one that is not obeyed costs it a moment."""
        if self._open_pipe is None or len(self._tasks) >= ORDERS_LIMIT:
            log.info("a slice is not served", extra={**_about(order), "cause": BUSY})
            return
        work = self._serve(order, self._open_pipe)
        task = asyncio.create_task(work, name="slice-serve")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, order: ServeSlice, open_pipe: OpenPipe) -> None:
        try:
            async with asyncio.timeout(PAIR_DEADLINE_S):
                pipe = await open_pipe(order.ticket)
        except (TimeoutError, LinkBroken, Problem, OSError) as error:
            extra = {**_about(order), "cause": clipped(str(error))}
            log.debug("nobody came for a slice", extra=extra)
            return
        served, cause = _Served(order, pipe), "this side failed"
        try:
            async with asyncio.timeout(SERVE_DEADLINE_S):
                cause = await self._answer(served)
        except TimeoutError:
            cause = "nothing was asked for in time"
        except (LinkBroken, Problem) as error:
            cause = clipped(error.message)
        except OSError as error:
            cause = f"its file cannot be read: {error.strerror}"
        except Exception:
            # A bug of ours ends one link, and is as loud as any.
            log.exception("a slice could not be served", extra=_about(order))
        finally:
            self.sent_bytes += served.sent_bytes
            extra = {**_about(order), "sent_bytes": served.sent_bytes, "cause": cause}
            log.info("a slice was served", extra=extra)
            with contextlib.suppress(TimeoutError, LinkBroken, OSError):
                async with asyncio.timeout(CLOSE_DEADLINE_S):
                    await pipe.close(cause)

    async def _answer(self, served: _Served) -> str:
        """Bring what is asked for, one part after the other; why no more is brought."""
        frame = await _next(served.pipe, FIRST_ASK_S)
        if self._serving >= SERVED_LIMIT:
            return BUSY
        self._serving += 1
        try:
            lent = await self._lend(served.order)
            thread = OffLoop()
            try:
                return await self._bring(served, lent, thread, frame)
            finally:
                thread.end(lent.release)
        finally:
            self._serving -= 1

    async def _bring(self, served: _Served, lent: Lent, thread: OffLoop, frame: bytes) -> str:
        pipe, size_bytes = served.pipe, served.order.size_bytes
        while True:
            part = read_ask(frame, size_bytes)
            if served.sent_bytes + part.length_bytes > TIMES_SENT_LIMIT * size_bytes:
                return "the slice was asked for again and again"
            body = await thread.do(partial(lent.read, *part))
            if len(body) != part.length_bytes:
                return "the slice's file has changed"
            await pipe.send(answer(part, body))
            served.sent_bytes += len(body)
            await asyncio.sleep(rest_s(len(body), pipe.view().mbit_s, self._is_busy()))
            frame = await _next(pipe, NEXT_ASK_S)


async def _next(pipe: Pipe, deadline_s: float) -> bytes:
    async with asyncio.timeout(deadline_s):
        return await pipe.receive()


def _about(order: ServeSlice) -> dict[str, object]:
    return {
        "digest": order.digest[:64],
        "layers": f"{order.start}-{order.end - 1}",
        "peer": order.ticket.peer[:64],
    }
