"""Another node as the source of a slice: read part by part over a link that the coordinator allows.

A ticket opens one link. It is dialled when the slice is asked for and not before, and with its end
the source is over: the next one is asked for the rest. As a rule only a direct link is used. What
the relay carries passes the coordinator twice, so the coordinator sends it cheaper itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from parhelion.link import LinkBroken, PairTicket
from parhelion.models import SliceCard
from parhelion.node.pipes import CLOSE_DEADLINE_S, OpenPipe, Pipe
from parhelion.node.slice_parts import WINDOW, Part, ask, part_at, read_answer
from parhelion.node.sources import Arriving, SourceBroken, SourceWrong
from parhelion.words import Problem

DIAL_DEADLINE_S = 5.0
"""A neighbour answers in milliseconds, and measuring the path may take 3 s; the coordinator is
there meanwhile and would have begun to send."""

PART_DEADLINE_S = 5.0
"""A part (256 kB) that takes longer comes quicker from the coordinator, however busy it is."""

SLOW_BYTES_S = 1024 * 1024
SLOW_AFTER_S = 10.0
"""A neighbour that brings less than that on the average is left, from then on at any time: it could
else keep us for as long as a fetch may take, and the coordinator would never be asked."""

RELAY_WAIT_S = 2.0
"""What the coordinator gets to begin by itself, before its relay has to carry the slice."""


class HolderSource:
    """A node that has the slice, as the coordinator says; `ticket` lets us dial it."""

    by_network = True

    def __init__(
        self,
        ticket: PairTicket,
        open_pipe: OpenPipe,
        *,
        dial_s: float = DIAL_DEADLINE_S,
        part_s: float = PART_DEADLINE_S,
    ) -> None:
        self.name = f"node {ticket.peer}"
        self._ticket = ticket
        self._open_pipe = open_pipe
        self._dial_s = dial_s
        self._part_s = part_s
        self._was_dialled = False
        self._pipe: Pipe | None = None
        self._asked: deque[Part] = deque()

    @asynccontextmanager
    async def open(self, want: SliceCard, offset_bytes: int) -> AsyncGenerator[Arriving]:
        """The slice from `offset_bytes` on."""
        pipe = await self._linked()
        try:
            yield Arriving(offset_bytes, self._blocks(pipe, want.size_bytes, offset_bytes))
        finally:
            if self._asked:
                # What still comes would be taken for the answer to another ask.
                await self.close()

    async def close(self) -> None:
        """Let the link go; harmless when there is none."""
        pipe, self._pipe = self._pipe, None
        self._asked.clear()
        if pipe is not None:
            with contextlib.suppress(TimeoutError, LinkBroken, OSError):
                async with asyncio.timeout(CLOSE_DEADLINE_S):
                    await pipe.close("the slice is not needed any more")

    async def _linked(self) -> Pipe:
        """The link, made when it is needed first."""
        if self._pipe is not None:
            return self._pipe
        if self._was_dialled:
            raise SourceWrong("its link is over")
        self._was_dialled = True
        try:
            async with asyncio.timeout(self._dial_s):
                self._pipe = await self._open_pipe(self._ticket)
        except TimeoutError as error:
            raise SourceWrong(f"no link to it within {self._dial_s:g} s") from error
        except (LinkBroken, Problem) as error:
            raise SourceWrong(error.message) from error
        except OSError as error:
            raise SourceWrong(str(error)[:200]) from error
        if self._pipe.view().path == "relay":
            raise SourceBroken("only the relay leads to it", RELAY_WAIT_S)
        return self._pipe

    async def _blocks(
        self, pipe: Pipe, size_bytes: int, offset_bytes: int
    ) -> AsyncGenerator[bytes]:
        next_bytes = offset_bytes
        loop = asyncio.get_running_loop()
        began_s, came_bytes = loop.time(), 0
        # Who is asked by the relay is the last one there is, however slow.
        is_last = pipe.view().path == "relay"
        try:
            while True:
                while next_bytes < size_bytes and len(self._asked) < WINDOW:
                    part = part_at(next_bytes, size_bytes)
                    self._asked.append(part)
                    next_bytes += part.length_bytes
                    # With the link's end nothing can be asked, but what came before it is here.
                    with contextlib.suppress(LinkBroken):
                        async with asyncio.timeout(self._part_s):
                            await pipe.send(ask(part))
                if not self._asked:
                    return
                async with asyncio.timeout(self._part_s):
                    frame = await pipe.receive()
                body = read_answer(frame, self._asked[0])
                self._asked.popleft()
                yield body
                came_bytes += len(body)
                took_s = loop.time() - began_s
                if took_s > SLOW_AFTER_S and came_bytes < SLOW_BYTES_S * took_s and not is_last:
                    raise SourceWrong(f"it brings less than {SLOW_BYTES_S} bytes a second")
        except TimeoutError as error:
            raise SourceWrong(f"no part came for {self._part_s:g} s") from error
        except (LinkBroken, Problem) as error:
            raise SourceWrong(error.message) from error
