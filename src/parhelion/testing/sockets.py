"""Two ends of a wire in memory, as ByteSockets: for sessions without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parhelion.link import ConnectionClosed

WIRE_LIMIT = 256
"""Frames in flight; a sender waits beyond it, as on a real socket."""


class MemorySocket:
    """One end; `tamper` may change, drop or multiply what this end sends."""

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[bytes | ConnectionClosed] = asyncio.Queue(WIRE_LIMIT)
        self._other: MemorySocket = self
        self.tamper: Callable[[bytes], list[bytes]] = lambda data: [data]
        self.closed: tuple[int, str] | None = None

    async def send(self, data: bytes) -> None:
        """Put the message (or what `tamper` makes of it) into the other end's inbox."""
        if self.closed is not None:
            raise ConnectionClosed(*self.closed)
        for frame in self.tamper(data):
            await self._other._inbox.put(frame)

    async def receive(self) -> bytes:
        """The next message; ConnectionClosed after the last."""
        item = await self._inbox.get()
        if isinstance(item, ConnectionClosed):
            raise item
        return item

    async def close(self, code: int, reason: str) -> None:
        """Close both ends; each reads what was sent before."""
        if self.closed is None:
            self.closed = self._other.closed = (code, reason)
            for end in (self, self._other):
                await end._inbox.put(ConnectionClosed(code, reason))


def socket_pair() -> tuple[MemorySocket, MemorySocket]:
    """Two joined ends."""
    one, other = MemorySocket(), MemorySocket()
    one._other, other._other = other, one
    return one, other
