"""A pipe: frames between two nodes over one sealed channel, measured and watched.

One task reads, one writes. Whatever breaks a rule, and silence, and a side that takes nothing, end
the pipe with the cause; both sides see it, and nobody but them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from parhelion.link.broken import (
    GOODBYE_DEADLINE_S,
    LinkBroken,
    broken,
    clipped,
)
from parhelion.link.pair_channel import Channel, Path
from parhelion.link.pair_frames import (
    HEADER_BYTES,
    PAIR_LIMIT_BYTES,
    PIECE_BYTES,
    TOKEN_BYTES,
    Joiner,
    Kind,
    Piece,
    pong,
    read_pong,
)
from parhelion.link.pair_rate import Rate
from parhelion.words import Problem, ProblemCode, Record

PING_S = 2.0
MISSES = 3
"""Pings without a sign of life after which the other side is gone: 6 s, as a node's session."""

SEND_LIMIT_BYTES = PAIR_LIMIT_BYTES
"""What may wait to be sent before `send` waits: one frame of the largest size, many small ones."""

HELD_LIMIT_BYTES = PAIR_LIMIT_BYTES
"""What may wait to be received; past it nothing is read, and the other side's `send` waits."""

HELD_LIMIT = 4096
"""Frames of any size: an empty one costs memory too."""

STALL_DEADLINE_S = 10.0
"""A side that takes no piece for so long has stopped reading, whatever it says of being alive."""

WARM_BYTES = (2 * PIECE_BYTES, 8 * PIECE_BYTES)
WARM_LONG_S = 0.05
"""The bursts at set-up: the second only where the first took no longer than this."""

WARM_DEADLINE_S = 3.0
"""What the warming may add to a set-up; a path on which 256 kB take longer is not measured."""

ASKED_LIMIT = 4
"""Pings whose answer still counts; an older one would only say that it is late."""

SMOOTHING = 0.25
"""How much a new round trip weighs against those before it."""

log = logging.getLogger("parhelion.link")


class LinkView(Record, frozen=True, kw_only=True):
    """A link as one side sees it; `mbit_s` is the rate at which its frames arrive at the other."""

    path: Path
    rtt_ms: float
    mbit_s: float | None
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pipe waits for signs of life, and for its pieces to be taken."""

    ping_s: float = PING_S
    stall_s: float = STALL_DEADLINE_S


PATIENCE = Patience()


class Pipe:
    """Frames to and from the proven node `peer`; LinkBroken with the cause once it has ended.

    One task receives (`async for`, or `receive`); any may send.
    """

    def __init__(self, channel: Channel, rtt_s: float, patience: Patience = PATIENCE) -> None:
        self.peer = channel.peer
        self.path: Path = channel.path
        self._channel = channel
        self._rtt_s = rtt_s
        self._patience = patience
        self._asked: deque[tuple[bytes, float | None]] = deque(maxlen=ASKED_LIMIT)
        self._ping_due = False
        self._pong: bytes | None = None
        self._mbit_s: float | None = None
        self._rate = Rate()
        self._answered = asyncio.Event()
        self._waiting: deque[tuple[Kind, bytes]] = deque()
        self._waiting_bytes = 0
        self._begun_bytes = 0
        self._joiner = Joiner()
        self._heard: deque[bytes] = deque()
        self._heard_bytes = 0
        self._has_work, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_frame, self._has_place = asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._has_place.set()
        self._goodbye: str | None = None
        self._cause: LinkBroken | None = None
        self._ticker = asyncio.get_running_loop().call_later(patience.ping_s, self._tick)
        name = f"pair-{self.peer[-6:]}"
        self._writer = asyncio.create_task(self._write(), name=f"{name}-out")
        self._reader = asyncio.create_task(self._read(), name=f"{name}-in")

    @property
    def cause(self) -> LinkBroken | None:
        """Why the pipe has ended; None while it carries."""
        return self._cause

    def view(self) -> LinkView:
        """The path, as measured until now."""
        return LinkView(
            path=self.path,
            rtt_ms=round(self._rtt_s * 1000, 3),
            mbit_s=None if self._mbit_s is None else round(self._mbit_s, 1),
            sent_bytes=self._channel.sent_bytes,
            received_bytes=self._channel.received_bytes,
        )

    async def send(self, frame: bytes) -> None:
        """Queue a frame, waiting for room; Problem BODY_TOO_LARGE for one over the limit."""
        if len(frame) > PAIR_LIMIT_BYTES:
            raise Problem(
                ProblemCode.BODY_TOO_LARGE,
                f"a frame of {len(frame)} bytes",
                hint=f"a link between nodes takes at most {PAIR_LIMIT_BYTES} bytes at once",
            )
        while self._cause is None and not self._has_room.is_set():
            # Bounded by the writer's own deadline: it makes room, or ends the pipe.
            await self._has_room.wait()
        self._queue(Kind.DATA, frame)

    async def receive(self) -> bytes:
        """The next frame; a cancelled call loses nothing."""
        while not self._heard:
            if self._cause is not None:
                raise self._cause
            self._has_frame.clear()
            await self._has_frame.wait()
        frame = self._heard.popleft()
        self._heard_bytes -= len(frame)
        if self._heard_bytes <= HELD_LIMIT_BYTES and len(self._heard) < HELD_LIMIT:
            self._has_place.set()
        return frame

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield await self.receive()

    async def close(self, reason: str) -> None:
        """Say why and end: what waits goes out first, within GOODBYE_DEADLINE_S."""
        if self._cause is None:
            self._fail(broken(f"ended by this side: {clipped(reason)}"), logging.DEBUG)
            await self._say_goodbye(reason)
        self._reader.cancel()
        self._writer.cancel()
        await self._channel.close()

    async def warm(self) -> None:
        """Measure the rate of our direction by short bursts, and wake the path up by them."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WARM_DEADLINE_S):
                for size_bytes in WARM_BYTES:
                    began_s = loop.time()
                    self._queue(Kind.WARM, bytes(size_bytes))
                    # The ping stands behind the burst, so its answer knows of it.
                    self._answered.clear()
                    self._queue(Kind.PING, b"")
                    await self._answered.wait()
                    if self._cause is not None or loop.time() - began_s > WARM_LONG_S:
                        break
        if self._cause is not None:
            raise self._cause

    def _queue(self, kind: Kind, frame: bytes) -> None:
        if self._cause is not None:
            raise self._cause
        self._waiting.append((kind, frame))
        self._waiting_bytes += len(frame) + HEADER_BYTES
        if self._waiting_bytes > SEND_LIMIT_BYTES:
            self._has_room.clear()
        self._has_work.set()

    def _tick(self) -> None:
        self._ping_due = True
        self._has_work.set()
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(self._patience.ping_s, self._tick)

    async def _write(self) -> None:
        loop, stall_s = asyncio.get_running_loop(), self._patience.stall_s
        try:
            # One deadline for the writer's life, moved along: a new one a piece costs more.
            async with asyncio.timeout(None) as deadline:
                while True:
                    if not self._has_work.is_set():
                        deadline.reschedule(None)
                        await self._has_work.wait()
                    deadline.reschedule(loop.time() + stall_s)
                    if await self._write_one():
                        continue
                    if self._goodbye is not None:
                        await self._channel.send_bye(self._goodbye)
                        return
                    self._has_work.clear()
        except TimeoutError:
            cause = self._fail(broken(f"the other side took nothing for {stall_s:g} s"))
            await self._channel.close(cause)
        except LinkBroken as cause:
            # The reader meets the same end, but may have a goodbye to read first.
            await asyncio.wait([self._reader], timeout=GOODBYE_DEADLINE_S)
            await self._channel.close(self._fail(cause))
        except Exception:
            # A bug of ours ends one pipe, and is as loud as any.
            log.exception("writing to a node failed", extra={"peer": self.peer})
            await self._channel.close(self._fail(broken("this side failed")))

    async def _write_one(self) -> bool:
        """Send the next piece, signs of life before frames; whether there was one."""
        if self._pong is not None:
            body, self._pong = self._pong, None
            await self._channel.send(Kind.PONG, body)
        elif self._ping_due:
            self._ping_due = False
            # Not the loop's time: uvloop counts whole milliseconds, and on a LAN that is nothing.
            await self._ping(time.perf_counter())
        elif not self._waiting:
            return False
        else:
            await self._write_piece()
        return True

    async def _write_piece(self) -> None:
        kind, frame = self._waiting[0]
        if kind is Kind.PING:
            self._waiting.popleft()
            self._waiting_bytes -= HEADER_BYTES
            # Behind a burst it measures the burst, and no round trip.
            await self._ping(None)
            return
        end = self._begun_bytes + PIECE_BYTES
        piece = frame if len(frame) <= PIECE_BYTES else frame[self._begun_bytes : end]
        await self._channel.send(kind, piece, len(frame))
        self._begun_bytes = end
        if end < len(frame):
            # A long frame must not keep the event loop for itself.
            await asyncio.sleep(0)
            return
        self._begun_bytes = 0
        self._waiting.popleft()
        self._waiting_bytes -= len(frame) + HEADER_BYTES
        if self._waiting_bytes <= SEND_LIMIT_BYTES:
            self._has_room.set()

    async def _ping(self, now_s: float | None) -> None:
        token = os.urandom(TOKEN_BYTES)
        self._asked.append((token, now_s))
        await self._channel.send(Kind.PING, token)

    async def _read(self) -> None:
        loop, silence_s = asyncio.get_running_loop(), MISSES * self._patience.ping_s
        try:
            async with asyncio.timeout(None) as deadline:
                while self._cause is None:
                    # Where our own side is behind, the other's silence says nothing.
                    deadline.reschedule(None)
                    await self._has_place.wait()
                    deadline.reschedule(loop.time() + silence_s)
                    piece = await self._channel.receive()
                    self._hear(piece, time.perf_counter())
        except TimeoutError:
            await self._break(broken(f"silence: nothing from the other side for {silence_s:g} s"))
        except LinkBroken as cause:
            await self._break(cause)
        except Exception:
            log.exception("reading from a node failed", extra={"peer": self.peer})
            await self._break(broken("this side failed"))

    def _hear(self, piece: Piece, now_s: float) -> None:
        match piece.kind:
            case Kind.DATA | Kind.WARM:
                frame = self._joiner.add(piece)
                self._rate.add(len(piece.body), now_s, is_last=frame is not None)
                if frame is not None and piece.kind is Kind.DATA:
                    self._keep(frame)
            case Kind.PING:
                # One answer waits at most: who asks without listening is answered once.
                self._pong = pong(piece.body, self._rate.mbit_s)
                self._has_work.set()
            case Kind.PONG:
                self._hear_pong(piece.body, now_s)
            case Kind.BYE:
                said = clipped(piece.body.decode("utf-8", "replace"))
                raise broken(f"the other side ended the link: {said}")
            case Kind.USE:
                raise broken("a path was chosen twice")

    def _keep(self, frame: bytes) -> None:
        self._heard.append(frame)
        self._heard_bytes += len(frame)
        if self._heard_bytes > HELD_LIMIT_BYTES or len(self._heard) >= HELD_LIMIT:
            self._has_place.clear()
        self._has_frame.set()

    def _hear_pong(self, body: bytes, now_s: float) -> None:
        token, mbit_s = read_pong(body)
        self._mbit_s = mbit_s if mbit_s is not None else self._mbit_s
        asked = dict(self._asked)
        if token not in asked:
            return
        sent_s = asked[token]
        if sent_s is None:
            self._answered.set()
        else:
            self._rtt_s += SMOOTHING * (now_s - sent_s - self._rtt_s)

    async def _break(self, cause: LinkBroken) -> None:
        """End after a broken rule, a silence or a goodbye: tell the other side, and close."""
        if self._cause is not None:
            return
        self._fail(cause)
        await self._say_goodbye(cause.message)
        self._writer.cancel()
        await self._channel.close(cause)

    async def _say_goodbye(self, reason: str) -> None:
        self._goodbye = reason
        self._has_work.set()
        await asyncio.wait([self._writer], timeout=GOODBYE_DEADLINE_S)

    def _fail(self, cause: LinkBroken, level: int = logging.INFO) -> LinkBroken:
        """Remember the first cause, log it once, and let nobody wait; the cause that counts."""
        if self._cause is None:
            self._cause = cause
            self._ticker.cancel()
            who = {"peer": self.peer, "path": self.path, "cause": cause.message}
            log.log(level, "link between nodes ended", extra=who)
            for event in (self._has_room, self._has_place, self._has_frame, self._answered):
                event.set()
        return self._cause
