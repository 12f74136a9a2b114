"""GET /v1/node: a node's WebSocket, handed to the link as whole binary messages.

Browsers always send an Origin and our nodes never do, so any Origin is refused here; the Host is
not looked at, because the handshake proves both sides by their keys, whatever the name was.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from typing import Any

from litestar import WebSocket, websocket
from litestar.handlers import WebsocketRouteHandler

from parhelion.api import errors
from parhelion.api.rooms import Rooms
from parhelion.api.wire import FORWARDED
from parhelion.config import LOOPBACK
from parhelion.identity import Whence, site_of
from parhelion.link import SUBPROTOCOL, ConnectionClosed, LinkBroken, accept
from parhelion.words import Problem, ProblemCode

log = logging.getLogger("parhelion.api")

PATH = "/v1/node"

UNPROVEN_LIMIT = 128
"""Sockets of nodes that are not registered, all together: each may take five seconds for its
handshake and five for its registration."""

UNPROVEN_PER_ADDRESS_LIMIT = 16
"""A site's nodes may all come back at once after a restart; one stranger may not fill the rest."""

FORWARDED_PREFIXES = (b"x-forwarded-", b"cf-", b"tailscale-")
"""What other proxies and tunnels add beside the usual headers."""

CLOSE_UNSUPPORTED = 1003
CLOSE_INTERNAL = 1011


class Doorway:
    """Counts the sockets of which no node has come yet: unproven, or proven and not registered."""

    def __init__(
        self, limit: int = UNPROVEN_LIMIT, address_limit: int = UNPROVEN_PER_ADDRESS_LIMIT
    ) -> None:
        self._limit = limit
        self._address_limit = address_limit
        self._by_site: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many stand in the doorway."""
        return sum(self._by_site.values())

    def enter(self, address: str) -> Callable[[], None]:
        """Take a place; returns what gives it back, once. Problem OVERLOADED when there is none."""
        site = site_of(address)
        here = self._by_site.get(site, 0)
        if self.waiting >= self._limit or here >= self._address_limit:
            raise Problem(
                ProblemCode.OVERLOADED,
                "Too many nodes are joining at this moment.",
                hint="try again in a few seconds",
                retry_after_s=5,
            )
        self._by_site[site] = here + 1
        places = [site]

        def leave() -> None:
            if places:
                self._leave(places.pop())

        return leave

    def _leave(self, site: str) -> None:
        left = self._by_site[site] - 1
        if left:
            self._by_site[site] = left
        else:
            del self._by_site[site]


def handlers(rooms: Rooms) -> list[WebsocketRouteHandler]:
    """The one WebSocket route."""
    doorway = Doorway()

    @websocket(PATH, name="node")
    async def node(socket: WebSocket[Any, Any, Any]) -> None:
        client = socket.scope.get("client")
        address = client[0] if client else ""
        try:
            check_upgrade(socket)
            leave = doorway.enter(address)
        except Problem as problem:
            await refuse(socket.send, problem)
            return
        bytes_socket = Bytes(socket)
        fields: Any = socket.scope["headers"]
        try:
            try:
                await socket.accept(subprotocols=SUBPROTOCOL)
                carrier = await accept(bytes_socket, rooms.node_key)
            except LinkBroken:
                return  # The link has logged the cause and closed the socket with it.
            # A proven key is no merit: who only shakes hands stands in the doorway still.
            await rooms.coordinator.attend(
                carrier, whence(address, fields), site=site_of(address), joined=leave
            )
        finally:
            leave()

    return [node]


def whence(address: str, headers: Iterable[tuple[bytes, bytes]]) -> Whence:
    """Near: over loopback, asking for this machine by a loopback name, and through no proxy.

    A proxy on this machine speaks for strangers over loopback too. It gives itself away by what it
    adds, or by the Host that it passes on; one that hides both looks like a node of this machine.
    """
    if not _is_loopback(address):
        return "far"
    host = b""
    for name, value in headers:
        if name in FORWARDED or name.startswith(FORWARDED_PREFIXES):
            return "far"
        if name == b"host":
            host = value
    return "near" if _is_loopback(_without_port(host.decode("latin-1"))) else "far"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0].lower()


def _is_loopback(host: str) -> bool:
    if host in LOOPBACK:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # A socket that takes both families shows IPv4 as ::ffff:127.0.0.1.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Bytes:
    """A Litestar WebSocket as link.ByteSocket; text frames are against the rules."""

    def __init__(self, socket: WebSocket[Any, Any, Any]) -> None:
        self._send: Any = socket.send
        self._receive: Any = socket.receive
        self._closed: ConnectionClosed | None = None

    async def send(self, data: bytes) -> None:
        """Send one message."""
        if self._closed is not None:
            raise self._closed
        try:
            await self._send({"type": "websocket.send", "bytes": data, "text": None})
        except (OSError, RuntimeError) as error:
            # uvicorn raises ClientDisconnected, an OSError; RuntimeError after a close frame.
            raise self._end(None, "") from error

    async def receive(self) -> bytes:
        """The next message."""
        if self._closed is not None:
            raise self._closed
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise self._end(message.get("code"), message.get("reason") or "")
        data = message.get("bytes")
        if data is None:
            await self.close(CLOSE_UNSUPPORTED, "binary messages only")
            # Not ConnectionClosed: its cause would read as if the node had closed.
            raise LinkBroken(ProblemCode.LINK_BROKEN, "a text message came, only bytes are spoken")
        return bytes(data)

    async def close(self, code: int, reason: str) -> None:
        """Close; harmless when it is closed already."""
        if self._closed is not None:
            return
        self._end(code, reason)
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            log.debug("the socket was closed already")

    def _end(self, code: int | None, reason: str) -> ConnectionClosed:
        if self._closed is None:
            self._closed = ConnectionClosed(code, reason)
        return self._closed


async def refuse(send: Any, problem: Problem) -> None:
    """Answer the upgrade with our error as plain HTTP: no socket is ever opened."""
    reply = errors.reply(problem)
    headers = [(b"content-type", reply.content_type), *reply.headers]
    await send(
        {"type": "websocket.http.response.start", "status": reply.status, "headers": headers}
    )
    await send({"type": "websocket.http.response.body", "body": reply.body})


def check_upgrade(socket: WebSocket[Any, Any, Any]) -> None:
    """Problem unless a node of ours asks for the socket, as far as the upgrade tells."""
    if "origin" in socket.headers:
        raise Problem(
            ProblemCode.FORBIDDEN, "Browsers may not join as nodes.", hint="run: parhelion join"
        )
    if SUBPROTOCOL not in socket.scope["subprotocols"]:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"The subprotocol {SUBPROTOCOL} is needed.",
            hint="update parhelion on the node",
        )
