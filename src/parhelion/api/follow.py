"""A stream that goes on until its reader leaves: whatever is told, to any number of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from litestar.types import Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.payer import caller_of
from parhelion.api.rooms import Rooms
from parhelion.api.stream import EventStream
from parhelion.api.watch import Watch
from parhelion.api.wire import HEAD, ClientLeft, Visit, visit_of
from parhelion.identity import Caller
from parhelion.words import Problem

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)

OPENING = b"retry: 2000\n: what follows is data: lines with a type\n\n"
"""Goes out at once, so that a page knows that it is connected; browsers come back after 2 s."""


class Reading(Protocol[E_co]):
    """A reader's place: what comes next while it is entered; the end when nothing more does."""

    def __enter__(self) -> Reading[E_co]: ...
    def __exit__(self, *_: object) -> None: ...
    def __aiter__(self) -> Reading[E_co]: ...
    async def __anext__(self) -> E_co: ...


class Followed(Generic[E]):
    """An ASGI app: one reader of a stream, until it leaves or the coordinator stops.

    A reader holds no more than the piece of the event that is being written: one that is slow gets
    fewer and fuller events, and one that takes nothing for a minute has left.
    """

    def __init__(
        self,
        rooms: Rooms,
        follow: Callable[[Visit, Caller], Reading[E]],
        framed: Callable[[E], Iterable[bytes]],
    ) -> None:
        self._rooms = rooms
        self._config = rooms.config.api
        self._clock = rooms.clock
        self._follow = follow
        self._framed = framed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write events; a Problem before the first byte is an ordinary error."""
        visit = visit_of(scope)
        stream = EventStream(visit, self._config, self._clock)
        if scope.get(HEAD):
            await stream.write(b"", more=False)
            return
        try:
            caller = await caller_of(scope, self._rooms)
            with self._follow(visit, caller) as reader:
                async with Watch(receive, stream.tick_s, stream.tick) as watch:
                    await stream.write(OPENING)
                    async for event in reader:
                        for piece in self._framed(event):
                            await stream.write(piece)
                        watch.check()
            await stream.write(b"", more=False)
        except ClientLeft:
            return
        except Problem as problem:
            await errors.reply(problem).write(send, ())
