"""Several ways to one channel, tried at once; what is not kept is closed at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Self

from parhelion.link.broken import LinkBroken, broken
from parhelion.link.pair_channel import Channel

TIE_S = 0.002
"""Round trips closer than this are equal: on a busy machine measuring again may turn them round,
and the direct path costs the coordinator nothing."""

log = logging.getLogger("parhelion.link")


class Tried(NamedTuple):
    """A path that answered, and its round trip."""

    channel: Channel
    rtt_s: float


Way = Coroutine[Any, Any, Tried]


def choose(answered: Sequence[Tried]) -> Tried:
    """The path with the shortest round trip; where it hardly matters, the direct one."""
    return min(answered, key=lambda one: one.rtt_s - (TIE_S if one.channel.path == "direct" else 0))


class Race:
    """Ways on trial, used as a context; `kept` is the one channel that survives it."""

    def __init__(self, *ways: Way) -> None:
        self.kept: Channel | None = None
        self._changed = asyncio.Event()
        self._tries: list[asyncio.Task[Tried]] = []
        for way in ways:
            self.add(way)

    def add(self, way: Way) -> None:
        """Try this too."""
        task = asyncio.create_task(way, name="pair-try")
        task.add_done_callback(lambda _: self._changed.set())
        self._tries.append(task)

    @property
    def running(self) -> int:
        """How many have neither answered nor failed."""
        return sum(not one.done() for one in self._tries)

    def answered(self) -> list[Tried]:
        """Those that have answered."""
        return [one.result() for one in self._tries if one.done() and not _failed(one)]

    async def first(self, *, more_may_come: bool = False) -> list[Tried]:
        """Wait for an answer; LinkBroken with every cause where all have failed."""
        while not (answered := self.answered()):
            if not self.running and not more_may_come:
                raise broken("; ".join(str(_failed(one)) for one in self._tries))
            self._changed.clear()
            await self._changed.wait()
        return answered

    async def all(self, deadline_s: float) -> None:
        """Wait until all have answered or failed, or for this long."""
        await asyncio.wait(self._tries, timeout=deadline_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        closing = asyncio.create_task(self._close_rest(), name="pair-close")
        try:
            # Shielded: cancelled in the middle it would leave channels open that nobody knows of.
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            # Whoever opened is gone, so nobody else closes the one that was to be kept.
            kept, self.kept = self.kept, None
            ending = asyncio.create_task(_close_after(closing, kept), name="pair-close")
            _ending.add(ending)
            ending.add_done_callback(_ending.discard)
            await asyncio.shield(ending)
            raise

    async def _close_rest(self) -> None:
        """End every way but the one that is kept: a goodbye each, which has a deadline."""
        for one in self._tries:
            one.cancel()
        if self._tries:
            await asyncio.wait(self._tries)
        for one in self._tries:
            if (error := _failed(one)) is None:
                if one.result().channel is not self.kept:
                    await one.result().channel.close()
            elif isinstance(error, LinkBroken):
                # As it should be where another was shorter; the cause says whether it was that.
                taken = None if self.kept is None else self.kept.path
                what = "is not there" if taken is None else "is not used"
                log.info(
                    f"a path between nodes {what}", extra={"cause": error.message, "used": taken}
                )
            elif not isinstance(error, asyncio.CancelledError):
                # A bug of ours: as loud as any.
                log.error("a path between nodes failed", exc_info=error)


_ending: set[asyncio.Task[None]] = set()
"""Closings whose opener was cancelled twice: held until they are done, some seconds later."""


async def _close_after(closing: asyncio.Task[None], kept: Channel | None) -> None:
    await asyncio.wait([closing])
    if kept is not None:
        await kept.close()
    closing.result()


def _failed(task: asyncio.Task[Tried]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()
