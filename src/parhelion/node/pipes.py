"""The links of one stage: its frames leave by the next one, and come in by the previous one.

Each side has at most one link that carries and one that is being made. A newer link takes over as
soon as it carries; the older one is emptied first, so that no frame overtakes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, Protocol

from parhelion.link import FromNode, LinkBroken, PairDown, PairTicket, PairUp, clipped
from parhelion.words import Problem

Side = Literal["next", "previous"]

PAIR_DEADLINE_S = 30.0
"""Both ends dial, try each direct address and meet at the relay; after that one has not come."""

AT_ONCE_LIMIT = 16
"""Links of one stage that carry, are made or wind down; two carry, and two may be on their way."""

EMPTY_DEADLINE_S = 2.0
"""What a replaced link gets for the frames that are on their way; one that is lost needs none."""

CLOSE_DEADLINE_S = 2.0
"""A link whose other end is gone is left to the system after that."""

WAITING_LIMIT_BYTES = 64 * 1024 * 1024
"""Frames that wait for a slow next stage: a prompt of 4,000 ids of the widest models. It is asked
for one micro-batch at a time, so more than a few of them is a stage that stands still."""

FIRST_VIEW_S = 3.0
"""By then a ping was answered while it carries; what was measured at set-up is said at once."""

VIEW_EVERY_S = 10.0
"""How often a link is looked at for what is worth saying again."""

CHANGED_SHARE = 0.25
CHANGED_RTT_MS = 1.0
"""A round trip that changed by less is the same one; on a LAN a quarter is noise."""

CHANGED_BYTES = 1024 * 1024
"""Traffic worth a message: a hundred ids of a large model."""

log = logging.getLogger("parhelion.node")


class View(Protocol):
    """What is known of a link at this end."""

    @property
    def path(self) -> str: ...
    @property
    def rtt_ms(self) -> float: ...
    @property
    def mbit_s(self) -> float | None: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...


class Pipe(Protocol):
    """A sealed link to another node (see link.pair)."""

    async def send(self, frame: bytes) -> None:
        """Hand a frame over, waiting for room; LinkBroken when the link has ended."""
        ...

    async def receive(self) -> bytes:
        """The next frame; LinkBroken when there is none any more."""
        ...

    def view(self) -> View:
        """Path, round trip and traffic as measured here."""
        ...

    async def close(self, reason: str) -> None:
        """Let what was sent leave, then close; harmless when it is closed."""
        ...


OpenPipe = Callable[[PairTicket], Awaitable[Pipe]]
"""Dials or accepts as the ticket says, and returns a link that carries; LinkBroken if none can."""


class StagePipes:
    """Both sides of one stage for one session with the coordinator."""

    def __init__(
        self,
        open_pipe: OpenPipe,
        feed: Callable[[bytes], None],
        say: Callable[[FromNode], None],
    ) -> None:
        self._open_pipe = open_pipe
        self._feed = feed
        self._say = say
        self._links: dict[Side, _Link] = {}
        self._opening: dict[Side, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def pair(self, side: Side, ticket: PairTicket) -> None:
        """Make a link for this side; one that is still being made gives way at once."""
        if len(self._tasks) >= AT_ONCE_LIMIT:
            self._say(PairDown(link=ticket.link, cause="too many links are being made here"))
            return
        older = self._opening.pop(side, None)
        if older is not None:
            older.cancel()
        self._opening[side] = self._start(self._open(side, ticket))

    def send(self, frame: bytes) -> bool:
        """Send a frame to the next stage; False where no link carries to it."""
        link = self._links.get("next")
        return link is not None and link.put(frame)

    async def close(self) -> None:
        """Drop every link, said to nobody: the session that they belong to is over."""
        self._say = _silence
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_DEADLINE_S)

    # --- one link -----------------------------------------------------------------------------

    async def _open(self, side: Side, ticket: PairTicket) -> None:
        try:
            async with asyncio.timeout(PAIR_DEADLINE_S):
                pipe = await self._open_pipe(ticket)
        except TimeoutError:
            cause = f"no link within {PAIR_DEADLINE_S:g} s: the other node did not come"
            self._say(PairDown(link=ticket.link, cause=cause))
        except (Problem, LinkBroken) as error:
            self._say(PairDown(link=ticket.link, cause=clipped(error.message)))
        except OSError as error:
            self._say(PairDown(link=ticket.link, cause=clipped(str(error))))
        else:
            feed = self._feed if side == "previous" else None
            # From here on a newer one waits for this one's end, where it cancelled its start.
            link = _Link(ticket.link, pipe, feed, self._opening.pop(side))
            await self._carry(side, link)

    async def _carry(self, side: Side, link: _Link) -> None:
        """Take the older link's place, and serve until this one ends or is replaced in turn."""
        older, self._links[side] = self._links.get(side), link
        cause = "this node let the stage go"
        try:
            link.tell(self._say)
            if older is not None:
                await older.empty()
            cause = await link.run(self._say)
        finally:
            if self._links.get(side) is link:
                del self._links[side]
                self._say(PairDown(link=link.name, cause=cause))
            with contextlib.suppress(TimeoutError, LinkBroken, OSError):
                async with asyncio.timeout(CLOSE_DEADLINE_S):
                    await link.pipe.close(cause)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="pair")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Link:
    """One link that carries; `feed` takes what comes in, and one without it only sends.

    Frames wait here for it, in order. `task` serves it.
    """

    def __init__(
        self,
        name: str,
        pipe: Pipe,
        feed: Callable[[bytes], None] | None,
        task: asyncio.Task[None],
    ) -> None:
        self.name = name
        self.pipe = pipe
        self._feed = feed
        self._task = task
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._waiting_bytes = 0
        self._is_full = asyncio.Event()
        self._told: PairUp | None = None

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False where too many wait, which ends the link."""
        if self._waiting_bytes + len(frame) > WAITING_LIMIT_BYTES:
            self._is_full.set()
            return False
        self._waiting_bytes += len(frame)
        self._waiting.put_nowait(frame)
        return True

    async def empty(self) -> None:
        """Replaced: let what is on its way pass, then end it."""
        if self._feed is None:
            self._waiting.put_nowait(None)
        # Of one that receives, the other end closes it when it has sent all.
        await asyncio.wait([self._task], timeout=EMPTY_DEADLINE_S)
        self._task.cancel()

    def tell(self, say: Callable[[FromNode], None]) -> None:
        """Say what is known of the link now."""
        view = self.pipe.view()
        self._told = PairUp(
            link=self.name,
            path=view.path,
            rtt_ms=view.rtt_ms,
            mbit_s=view.mbit_s,
            sent_bytes=view.sent_bytes,
            received_bytes=view.received_bytes,
        )
        say(self._told)

    async def run(self, say: Callable[[FromNode], None]) -> str:
        """Carry until it ends; why it did."""
        works = [self._read(), self._watch(say)]
        if self._feed is None:
            works += [self._write(), self._overflow()]
        parts = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
        return done.pop().result()

    async def _read(self) -> str:
        try:
            while True:
                frame = await self.pipe.receive()
                if self._feed is None:
                    return "a frame came against the direction of the ring"
                self._feed(frame)
        except (Problem, LinkBroken) as error:
            return clipped(error.message)
        except OSError as error:
            return clipped(str(error))

    async def _write(self) -> str:
        try:
            while (frame := await self._waiting.get()) is not None:
                self._waiting_bytes -= len(frame)
                await self.pipe.send(frame)
        except (Problem, LinkBroken) as error:
            return clipped(error.message)
        except OSError as error:
            return clipped(str(error))
        return "replaced by a newer link"

    async def _overflow(self) -> str:
        await self._is_full.wait()
        return f"the next stage reads too slowly: over {WAITING_LIMIT_BYTES} bytes wait for it"

    async def _watch(self, say: Callable[[FromNode], None]) -> str:
        await asyncio.sleep(FIRST_VIEW_S)
        while True:
            if self._told is None or changes_much(self._told, self.pipe.view()):
                self.tell(say)
            await asyncio.sleep(VIEW_EVERY_S)


def changes_much(told: PairUp, view: View) -> bool:
    """Whether a link has become another one than was said; pure."""
    moved_ms = abs(view.rtt_ms - told.rtt_ms)
    return (
        view.path != told.path
        or (view.rtt_ms > 0.0) is not (told.rtt_ms > 0.0)
        or moved_ms > max(CHANGED_RTT_MS, CHANGED_SHARE * told.rtt_ms)
        or _moved(view.mbit_s, told.mbit_s)
        or view.sent_bytes - told.sent_bytes > CHANGED_BYTES
        or view.received_bytes - told.received_bytes > CHANGED_BYTES
    )


def _moved(now: float | None, then: float | None) -> bool:
    if now is None or then is None:
        return now is not then
    return abs(now - then) > CHANGED_SHARE * then


def _silence(_message: FromNode) -> None:
    """Nobody is there to be told."""
