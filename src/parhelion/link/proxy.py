"""The way out through an HTTP proxy, as the environment names it.

aiohttp tunnels (CONNECT) for https only, and asks a proxy to fetch a plain address itself, which
proxies do not do for a WebSocket: RFC 6455 has a client tunnel for both.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from parhelion.config import LOOPBACK
from parhelion.link.broken import clipped

HEAD_LIMIT_BYTES = 16 * 1024
"""A proxy answers CONNECT with a few lines."""


class ProxyFailed(Exception):
    """The proxy could not be reached or did not let us through; its message says which."""


class Proxy:
    """Where the proxy is, and who we are to it."""

    def __init__(self, url: SplitResult) -> None:
        self.tls = url.scheme == "https"
        self.host = url.hostname or ""
        self.port = url.port or (443 if self.tls else 80)
        secret = f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()
        self.headers: dict[str, str] = {}
        if url.username:
            self.headers["Proxy-Authorization"] = f"Basic {base64.b64encode(secret).decode()}"

    @property
    def url(self) -> str:
        """The proxy's address, without user and password."""
        return f"{'https' if self.tls else 'http'}://{authority(self.host, self.port)}"

    def request(self, target: str) -> bytes:
        """The head that asks for a tunnel to `target` (host:port)."""
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()


def proxy_for(url: str) -> Proxy | None:
    """The proxy that HTTPS_PROXY or HTTP_PROXY names for this address, unless NO_PROXY excepts it.

    This machine itself is always excepted: no proxy reaches it. ProxyFailed when it is no URL.
    """
    where = urlsplit(url)
    if not where.hostname or where.hostname in LOOPBACK:
        return None
    said = getproxies().get(where.scheme)
    if not said or proxy_bypass(where.netloc):
        return None
    try:
        named = urlsplit(said if "://" in said else f"http://{said}")
        proxy = Proxy(named)
    except ValueError as error:
        raise ProxyFailed(f"{where.scheme.upper()}_PROXY is no URL: {error}") from error
    if named.scheme not in {"http", "https"} or not proxy.host:
        raise ProxyFailed(f"{where.scheme.upper()}_PROXY is no http:// address of a proxy")
    return proxy


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Tunnel(aiohttp.BaseConnector):
    """Connects through a proxy's CONNECT and speaks plain inside."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(force_close=True)
        self._proxy = proxy

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        """What aiohttp's own connectors (UnixConnector, say) implement; the version is pinned."""
        proxy, loop = self._proxy, asyncio.get_running_loop()
        try:
            transport, answer = await loop.create_connection(
                _Answer, proxy.host, proxy.port, ssl=proxy.tls or None
            )
        except OSError as error:
            raise ProxyFailed(f"{proxy.url} is not reached: {clipped(str(error))}") from error
        try:
            transport.write(proxy.request(authority(req.url.host, req.url.port)))
            await answer.granted
        except BaseException:
            transport.close()
            raise
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return protocol


class _Answer(asyncio.Protocol):
    """Hears the proxy's answer; `granted` ends when the tunnel is open, or with ProxyFailed."""

    def __init__(self) -> None:
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the head; nobody in the tunnel speaks before we do."""
        self._head += data
        if self.granted.done():
            return
        if b"\r\n\r\n" not in self._head:
            if len(self._head) > HEAD_LIMIT_BYTES:
                self.granted.set_exception(ProxyFailed("it answers at no end"))
            return
        line = self._head.split(b"\r\n", 1)[0].decode("latin-1")
        words = line.split(" ", 2)
        if len(words) > 1 and words[0].startswith("HTTP/1.") and words[1][:1] == "2":
            self.granted.set_result(None)
        else:
            self.granted.set_exception(ProxyFailed(f"it answers {clipped(line)!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It hung up instead of answering."""
        if not self.granted.done():
            self.granted.set_exception(ProxyFailed("it hung up"))
