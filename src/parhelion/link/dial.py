"""Dialling a coordinator: an aiohttp WebSocket as ByteSocket, and `connect` with named failures."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from parhelion.identity import NodeKey, pinned
from parhelion.link.address import NODE_PATH, Address
from parhelion.link.broken import (
    CLOSE_REFUSED,
    ConnectionClosed,
    LinkBroken,
    clipped,
    close_reason,
    closing_cause,
)
from parhelion.link.carrier import Carrier, carry_from_coordinator
from parhelion.link.handshake import NodeHandshake
from parhelion.link.messages import FRAME_LIMIT_BYTES, SUBPROTOCOL, FromCoordinator
from parhelion.link.proxy import Proxy, ProxyFailed, Tunnel, proxy_for
from parhelion.words import Problem, ProblemCode

CONNECT_DEADLINE_S = 10.0
"""Name, TCP, TLS, upgrade and handshake together, across the world."""

CLOSE_WAIT_S = 1.0
"""How long our close frame waits for its answer."""

NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
"""What the system says when no packet gets there."""

# attrs declares these fields in a way that pyright cannot read.
_CLOSE_WAIT = aiohttp.ClientWSTimeout(ws_close=CLOSE_WAIT_S)  # pyright: ignore[reportCallIssue]


class AiohttpSocket:
    """The client's WebSocket and the session that holds it, closed together."""

    def __init__(self, session: aiohttp.ClientSession, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._ws = ws

    async def send(self, data: bytes) -> None:
        """Send one binary message."""
        try:
            await self._ws.send_bytes(data)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._closed() from error

    async def receive(self) -> bytes:
        """The next binary message."""
        message = await self._ws.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return message.data
        if message.type is aiohttp.WSMsgType.CLOSE:
            raise ConnectionClosed(message.data, message.extra or "")
        if message.type is aiohttp.WSMsgType.TEXT:
            # Not ConnectionClosed: its cause would read as if the other side had closed.
            raise LinkBroken(ProblemCode.LINK_BROKEN, "a text message came, only bytes are spoken")
        raise self._closed()

    async def close(self, code: int, reason: str) -> None:
        """Close the WebSocket and its session."""
        try:
            await self._ws.close(code=code, message=reason.encode())
        finally:
            await self._session.close()

    @property
    def here(self) -> str | None:
        """The address of this machine on the way to the other side."""
        name = self._ws.get_extra_info("sockname")
        return name[0] if isinstance(name, tuple) else None

    def _closed(self) -> ConnectionClosed:
        error = self._ws.exception()
        return ConnectionClosed(self._ws.close_code, str(error) if error else "")


async def connect(
    address: Address,
    key: NodeKey,
    *,
    deadline_s: float = CONNECT_DEADLINE_S,
    source: str | None = None,
) -> Carrier[FromCoordinator]:
    """A carrier to the coordinator at `address`, which has proven its key.

    `source` is the address of this machine to dial from; None: the system chooses.

    Problem LINK_BROKEN for what may pass (nobody listens, time-out), LINK_REFUSED for what does
    not (another key, another version, no coordinator there).
    """
    try:
        async with asyncio.timeout(deadline_s):
            socket = await dial(address, source)
            try:
                return await _shake_hands(socket, address, key)
            except BaseException as error:
                said = error.message if isinstance(error, LinkBroken) else "given up"
                with contextlib.suppress(TimeoutError, ConnectionClosed):
                    async with asyncio.timeout(CLOSE_WAIT_S):
                        await socket.close(CLOSE_REFUSED, close_reason(said))
                raise
    except TimeoutError as error:
        raise _unreachable(
            f"no answer from {address.url} within {deadline_s:g} s",
            "check the address and any firewall between",
        ) from error
    except ConnectionClosed as closed:
        raise closing_cause(closed).problem() from closed
    except LinkBroken as cause:
        raise cause.problem() from cause


async def _shake_hands(
    socket: AiohttpSocket, address: Address, key: NodeKey
) -> Carrier[FromCoordinator]:
    handshake = NodeHandshake(key, address.peer)
    await socket.send(handshake.opening())
    proof = handshake.feed(await socket.receive())
    assert handshake.seal is not None and handshake.peer is not None
    await socket.send(proof)
    carrier = carry_from_coordinator(socket, handshake.seal, handshake.peer)
    carrier.here = socket.here
    return carrier


async def dial(address: Address, source: str | None = None, path: str = NODE_PATH) -> AiohttpSocket:
    """An open WebSocket to a path of the coordinator; Problem as `connect` has it."""
    try:
        proxy = proxy_for(address.url)
    except ProxyFailed as error:
        raise _dial_problem(address, error) from error
    session, more = _route(address, proxy, source)
    try:
        ws = await session.ws_connect(
            address.url_of(path),
            **more,
            protocols=[SUBPROTOCOL],
            max_msg_size=FRAME_LIMIT_BYTES,
            heartbeat=None,
            compress=0,
            timeout=_CLOSE_WAIT,
        )
        if ws.protocol != SUBPROTOCOL:
            await ws.close()
            raise _not_a_coordinator(address, f"it does not speak {SUBPROTOCOL}")
        return AiohttpSocket(session, ws)
    except BaseException as error:
        await session.close()
        if isinstance(error, aiohttp.ClientError | OSError | ssl.SSLError | ProxyFailed):
            raise _dial_problem(address, error) from error
        raise


def _route(
    address: Address, proxy: Proxy | None, source: str | None
) -> tuple[aiohttp.ClientSession, dict[str, Any]]:
    """A session that takes the proxy where there is one, and what `ws_connect` must know of it."""
    way: aiohttp.BaseConnector | None = None
    if source is not None:
        way = aiohttp.TCPConnector(local_addr=(source, 0))
    more: dict[str, Any] = {}
    if address.certificate is not None:
        more["ssl"] = pinned(address.certificate)
    if proxy is not None and address.url.startswith("https:"):
        more |= {"proxy": proxy.url, "proxy_headers": proxy.headers}
    elif proxy is not None:
        way = Tunnel(proxy)
    # No trust_env: it would also send what ~/.netrc says of the host.
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(connector=way, timeout=timeout), more


def _dial_problem(address: Address, error: Exception) -> Problem:
    if isinstance(error, TimeoutError):
        return _unreachable(f"no answer from {address.url}", "check the address and any firewall")
    if isinstance(error, aiohttp.WSServerHandshakeError):
        if error.status >= 500 or error.status == 429:
            return _unreachable(
                f"{address.url} answers {error.status}", "it may be starting: this is tried again"
            )
        if error.status in {400, 426}:
            why = f"it refuses {SUBPROTOCOL} ({error.status}): another version, or something else"
            return _not_a_coordinator(address, why)
        return _not_a_coordinator(address, f"it answers {error.status} to {address.dial_url}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        plain = address.url.replace("https://", "http://", 1)
        return Problem(
            ProblemCode.LINK_REFUSED,
            f"{address.url} does not speak https: {clipped(str(error))}",
            hint=f"try plain http, the link is sealed either way: {plain}",
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return _certificate_problem(address, error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _unreachable(f"the name in {address.url} is unknown", "check the host's spelling")
    if isinstance(
        error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError | ProxyFailed
    ):
        variable = "HTTPS_PROXY" if address.url.startswith("https:") else "HTTP_PROXY"
        return _unreachable(
            f"the proxy on the way to {address.url} fails: {clipped(str(error))}",
            f"check {variable}, or except the host: NO_PROXY={urlsplit(address.url).hostname}",
        )
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno in NO_WAY:
        return _unreachable(
            f"there is no way from here to {address.url}: {clipped(error.strerror or '')}",
            "are both machines on one network? Check cable, Wi-Fi and VPN",
        )
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionError):
        return _unreachable(
            f"nobody listens at {address.url}", "is the coordinator running, and the port right?"
        )
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        sealed = address.url.replace("http://", "https://", 1)
        return _unreachable(
            f"{address.url} hung up without an answer: {clipped(str(error))}",
            "this is tried again"
            if sealed == address.url
            else f"this is tried again; a coordinator with a certificate is at {sealed}",
        )
    return _not_a_coordinator(address, clipped(str(error)))


def _certificate_problem(address: Address, error: Exception) -> Problem:
    cause = getattr(error, "certificate_error", error)
    why = getattr(cause, "verify_message", "") or str(cause)
    if "expired" in why or "not yet valid" in why:
        hint = "look at this machine's clock; if it is right, the coordinator's owner must renew it"
    elif "self-signed" in why or "issuer" in why or "self signed" in why:
        hint = "trust its authority: SSL_CERT_FILE=FILE.pem, the owner's certificate of authority"
    else:
        hint = "use the name that the certificate carries"
    return Problem(
        ProblemCode.LINK_REFUSED,
        f"{address.url} has no certificate that this machine trusts: {clipped(why)}",
        hint=hint,
    )


def _unreachable(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.LINK_BROKEN, message, hint=hint)


def _not_a_coordinator(address: Address, why: str) -> Problem:
    return Problem(
        ProblemCode.LINK_REFUSED,
        f"{address.url} is not a Parhelion coordinator: {why}",
        hint="give the API's address (port 3001 unless changed), as the coordinator printed it",
    )
