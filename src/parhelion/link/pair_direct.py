"""Direct TCP between two nodes of one network: frames under their length, and who may speak.

A node listens only on a loopback or private address, the one by which it reaches its coordinator:
no port of a pipeline is ever open to the internet. Whoever connects proves a ticket with its first
frame, within KNOCK_DEADLINE_S and KNOCK_LIMIT_BYTES, and is nobody until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import struct
from collections.abc import Callable
from typing import cast

from parhelion.link.broken import (
    CLOSE_REFUSED,
    ConnectionClosed,
    LinkBroken,
    broken,
    shut,
)
from parhelion.link.messages import PairTicket
from parhelion.link.pair_frames import SEALED_LIMIT_BYTES
from parhelion.link.pair_proof import PROOF_LIMIT_BYTES, knock_mac, read_knock, same

KNOCK_DEADLINE_S = 2.0
"""From accepting a connection to its proof; a ticket may reach the dialling node a little sooner
than this one, and its knock then waits for it."""

UNPROVEN_LIMIT = 32
"""Connections without a proof; more are closed unheard, and the relay remains."""

EXPECTED_LIMIT = 256
"""Tickets that a node waits for at once; a coordinator hands out a few."""

CANDIDATES_LIMIT = 4
"""Addresses that are tried, whatever the coordinator names."""

LINGER_S = 1.0
"""From our end of a link to its other end's: as soon as that has read our goodbye it ends too. It
may be in the midst of sending; a connection that is closed under that is reset, and its system
then drops what we said last, goodbye and all, unread."""

_LENGTH = struct.Struct(">I")

log = logging.getLogger("parhelion.link")

Take = Callable[["TcpSocket", bytes], bool]
"""Whether a proven connection is taken, with the handshake's first message that it brought."""


class _Ending(asyncio.Protocol):
    """Takes what still comes and keeps nothing of it, until the other side has ended too."""

    def __init__(self, before: asyncio.BaseProtocol) -> None:
        self.over = asyncio.Event()
        self._before = before

    def eof_received(self) -> None:
        self.over.set()

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()
        self._before.connection_lost(exc)


class TcpSocket:
    """A TCP connection as ByteSocket: each message under its length of four bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.limit_bytes = SEALED_LIMIT_BYTES
        self.lingers = True
        """Whether its end waits for the other side's: not for a stranger's."""
        self._has_ended = False
        bare: socket.socket | None = writer.get_extra_info("socket")
        if bare is not None:
            # A hidden state is one small frame: it must not wait for the last one's receipt.
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, data: bytes) -> None:
        """Send one message, waiting while too much is on its way."""
        if self._has_ended or self._writer.is_closing():
            raise ConnectionClosed
        self._writer.writelines((_LENGTH.pack(len(data)), data))
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectionClosed(None, str(error)) from error

    async def receive(self) -> bytes:
        """The next message; LinkBroken for one over the limit, of which nothing is read."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > self.limit_bytes:
                raise broken(f"a frame of {length} bytes, over {self.limit_bytes}")
            return await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise ConnectionClosed from error
        except OSError as error:
            raise ConnectionClosed(None, str(error)) from error

    async def close(self, code: int, reason: str) -> None:
        """Close; TCP has no word for why, a sealed goodbye came before if there was one."""
        self._has_ended = True
        try:
            if self.lingers and not (self._writer.is_closing() or self._reader.at_eof()):
                await self._linger()
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        finally:
            # A side that reads nothing would keep what waits for it for minutes.
            self._writer.transport.abort()

    async def _linger(self) -> None:
        """End our direction; who waits in `receive` hears of it, the other side ends its own."""
        transport = cast("asyncio.Transport", self._writer.transport)
        ending = _Ending(transport.get_protocol())
        transport.set_protocol(ending)
        self._reader.feed_eof()
        with contextlib.suppress(OSError):
            transport.write_eof()
        transport.resume_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await ending.over.wait()


class PairListener:
    """Accepts direct connections of nodes that hold a ticket which this node expects."""

    def __init__(self, knock_s: float = KNOCK_DEADLINE_S) -> None:
        self._knock_s = knock_s
        self.address: str | None = None
        """Where it listens ("host:port"), for the coordinator to hand to a dialling node."""
        self._expected: dict[str, tuple[PairTicket, Take]] = {}
        self._told = asyncio.Event()
        self._unproven: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str) -> None:
        """Listen on any free port of `host`, which must be loopback or private (`is_near`)."""
        if not is_near(host):
            raise ValueError(f"{host} is neither loopback nor private")
        self._server = await asyncio.start_server(
            self._met, host, 0, limit=SEALED_LIMIT_BYTES, backlog=UNPROVEN_LIMIT
        )
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        """Listen no more; links that carry go on."""
        self.address = None
        if self._server is not None:
            self._server.close()
        unproven = list(self._unproven)
        for task in unproven:
            task.cancel()
        if unproven:
            await asyncio.wait(unproven)

    def expect(self, ticket: PairTicket, take: Take) -> None:
        """Give who proves this ticket to `take`, until it is forgotten."""
        if ticket.link in self._expected or len(self._expected) >= EXPECTED_LIMIT:
            raise broken("this link is expected already, or too many are")
        self._expected[ticket.link] = (ticket, take)
        told, self._told = self._told, asyncio.Event()
        told.set()

    def forget(self, link: str) -> None:
        """Let in nobody more for this link."""
        self._expected.pop(link, None)

    def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._unproven) >= UNPROVEN_LIMIT:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._prove(TcpSocket(reader, writer)), name="pair-knock")
        self._unproven.add(task)
        task.add_done_callback(self._unproven.discard)

    async def _prove(self, socket: TcpSocket) -> None:
        is_in = False
        try:
            async with asyncio.timeout(self._knock_s):
                socket.limit_bytes, socket.lingers = PROOF_LIMIT_BYTES, False
                heard = read_knock(await socket.receive())
                ticket, take = await self._awaited(heard.link)
            if not same(heard.mac, knock_mac(ticket, heard.hello)):
                raise broken("the knock does not prove its ticket")
            socket.limit_bytes, socket.lingers = SEALED_LIMIT_BYTES, True
            is_in = take(socket, heard.hello)
        except TimeoutError:
            log.info("a direct connection proved no ticket in time")
        except ConnectionClosed:
            log.info("a direct connection left without a word")
        except LinkBroken as cause:
            log.info("a direct connection is refused", extra={"cause": cause.message})
        finally:
            if not is_in:
                await shut(socket, CLOSE_REFUSED, "")

    async def _awaited(self, link: str) -> tuple[PairTicket, Take]:
        while (found := self._expected.get(link)) is None:
            await self._told.wait()
        return found


async def dial_direct(candidate: str) -> TcpSocket:
    """A connection to a candidate; LinkBroken where nobody answers. The caller has a deadline."""
    host, port = parse_candidate(candidate)
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=SEALED_LIMIT_BYTES)
    except OSError as error:
        raise broken(f"nobody answers at {candidate}: {error.strerror or error}") from error
    return TcpSocket(reader, writer)


def candidates(named: tuple[str, ...], here: str | None) -> list[str]:
    """Those of a ticket's candidates that are worth a try from address `here` of this machine.

    Only numbers that are private, or loopback where this node itself reaches its coordinator over
    loopback: a coordinator must not be able to make nodes knock anywhere it likes.
    """
    found: list[str] = []
    for candidate in named[:CANDIDATES_LIMIT]:
        with contextlib.suppress(LinkBroken):
            host, _ = parse_candidate(candidate)
            is_loopback = ipaddress.ip_address(host).is_loopback
            if is_near(host) and (not is_loopback or (here is not None and is_loop(here))):
                found.append(candidate)
    return found


def parse_candidate(candidate: str) -> tuple[str, int]:
    """Host (a number) and port; LinkBroken when it is not so."""
    host, _, port = candidate.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        # A zone (fe80::1%eth0) means something on one machine only.
        is_number = "%" not in host and ipaddress.ip_address(host) is not None
    except ValueError:
        is_number = False
    if not is_number:
        raise broken(f"{candidate[:60]!r} is no address")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise broken(f"{candidate[:60]!r} has no port")
    return host, int(port)


def is_near(host: str) -> bool:
    """Whether `host` is a number that only this machine or its own network reaches."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # `is_private` alone takes in 0.0.0.0, broadcast, and where clouds keep their secrets (169.254).
    is_lan = address.is_private and not (
        address.is_unspecified or address.is_reserved or address.is_link_local
    )
    return address.is_loopback or is_lan


def is_loop(host: str) -> bool:
    """Whether `host` is this machine, as a number."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
