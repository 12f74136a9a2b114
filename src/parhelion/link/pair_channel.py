"""A sealed channel between two proven nodes over one path, before and below a `Pipe`.

It has no tasks of its own: who holds it sends and receives, one at a time in each direction.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator
from typing import Literal

from parhelion.identity import NodeKey
from parhelion.link.broken import (
    CLOSE_NORMAL,
    CLOSE_REFUSED,
    ByteSocket,
    ConnectionClosed,
    LinkBroken,
    broken,
    close_reason,
    closing_cause,
    shut,
)
from parhelion.link.messages import PairTicket
from parhelion.link.pair_frames import (
    SEALED_LIMIT_BYTES,
    TOKEN_BYTES,
    Kind,
    Piece,
    pack,
    pong,
    read_pong,
    read_use,
    unpack,
)
from parhelion.link.pair_handshake import AcceptHandshake, DialHandshake
from parhelion.link.pair_proof import knock
from parhelion.link.seal import Seal

Path = Literal["direct", "relay"]

PROBES = 5
"""Pings before a path is chosen; the shortest counts, so that one hiccup decides nothing."""


class Channel:
    """Pieces in order, both ways; LinkBroken with the cause when it ends."""

    def __init__(self, socket: ByteSocket, seal: Seal, peer: str, path: Path) -> None:
        self.peer = peer
        self.path: Path = path
        self.sent_bytes = 0
        self.received_bytes = 0
        self._socket = socket
        self._seal = seal
        self._sent = 0
        self._received = 0

    async def send(self, kind: Kind, body: bytes, whole_bytes: int | None = None) -> None:
        """Send one piece, waiting until the socket takes it."""
        await self._push(self._seal.seal(self._packed(kind, body, whole_bytes)))

    async def send_bye(self, reason: str) -> None:
        """Send the last piece of this direction."""
        body = close_reason(reason).encode()
        await self._push(self._seal.seal_final(self._packed(Kind.BYE, body, None)))

    async def receive(self) -> Piece:
        """The next piece; a BYE is the last one."""
        try:
            frame = await self._socket.receive()
        except ConnectionClosed as closed:
            raise closing_cause(closed) from closed
        if len(frame) > SEALED_LIMIT_BYTES:
            raise broken(f"a frame of {len(frame)} bytes, over {SEALED_LIMIT_BYTES}")
        self.received_bytes += len(frame)
        body, is_last = self._seal.unseal(frame)
        piece = unpack(body, self._received)
        self._received += 1
        if is_last is not (piece.kind is Kind.BYE):
            raise broken("the stream ended without a goodbye, or a goodbye did not end it")
        return piece

    async def close(self, cause: LinkBroken | None = None) -> None:
        """Close the path under it; who waits in `receive` hears of it."""
        if cause is None:
            await shut(self._socket, CLOSE_NORMAL, "")
        else:
            await shut(self._socket, CLOSE_REFUSED, cause.message)

    def _packed(self, kind: Kind, body: bytes, whole_bytes: int | None) -> bytes:
        sequence, self._sent = self._sent, self._sent + 1
        return pack(kind, sequence, len(body) if whole_bytes is None else whole_bytes, body)

    async def _push(self, frame: bytes) -> None:
        try:
            await self._socket.send(frame)
        except ConnectionClosed as closed:
            raise closing_cause(closed) from closed
        self.sent_bytes += len(frame)


async def dial_channel(
    socket: ByteSocket, key: NodeKey, ticket: PairTicket, path: Path
) -> tuple[Channel, float]:
    """The dialling side's channel over an open socket, and its round trip in seconds.

    The socket is closed when this fails or is cancelled.
    """
    async with _closed_if_not_made(socket):
        handshake = DialHandshake(key, ticket)
        hello = handshake.opening()
        await socket.send(knock(ticket, hello) if path == "direct" else hello)
        await socket.send(handshake.feed(await socket.receive()))
        assert handshake.seal is not None and handshake.peer is not None
        channel = Channel(socket, handshake.seal, handshake.peer, path)
        return channel, await _probe(channel)


async def accept_channel(
    socket: ByteSocket, key: NodeKey, ticket: PairTicket, path: Path, hello: bytes | None = None
) -> tuple[Channel, float]:
    """The accepting side's channel, once the other has chosen it, and its round trip in seconds.

    `hello` is the handshake's first message if it was read already. The socket is closed when
    this fails or is cancelled.
    """
    async with _closed_if_not_made(socket):
        handshake = AcceptHandshake(key, ticket)
        await socket.send(handshake.feed(await socket.receive() if hello is None else hello))
        handshake.feed(await socket.receive())
        assert handshake.seal is not None and handshake.peer is not None
        channel = Channel(socket, handshake.seal, handshake.peer, path)
        while (piece := await channel.receive()).kind is Kind.PING:
            await channel.send(Kind.PONG, pong(piece.body, None))
        if piece.kind is not Kind.USE:
            raise broken(f"a {piece.kind.name} came before the path was chosen")
        return channel, read_use(piece.body)


async def _probe(channel: Channel) -> float:
    """The shortest of a few round trips, in seconds."""
    shortest_s = float("inf")
    for _ in range(PROBES):
        # Not the loop's time: uvloop counts whole milliseconds, and on a LAN that is nothing.
        token, began_s = os.urandom(TOKEN_BYTES), time.perf_counter()
        await channel.send(Kind.PING, token)
        answer = await channel.receive()
        if answer.kind is not Kind.PONG or read_pong(answer.body)[0] != token:
            raise broken(f"a {answer.kind.name} came where a ping's answer was due")
        shortest_s = min(shortest_s, time.perf_counter() - began_s)
    return shortest_s


@contextlib.asynccontextmanager
async def _closed_if_not_made(socket: ByteSocket) -> AsyncGenerator[None, None]:
    try:
        yield
    except ConnectionClosed as closed:
        cause = closing_cause(closed)
        await shut(socket, CLOSE_REFUSED, cause.message)
        raise cause from closed
    except BaseException as error:
        said = error.message if isinstance(error, LinkBroken) else "not needed any more"
        await shut(socket, CLOSE_REFUSED, said)
        raise
