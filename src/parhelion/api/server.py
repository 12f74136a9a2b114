"""uvicorn as a part of our process: bounded, quiet, no signal handlers, any free port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from asyncio import Transport
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from parhelion.api import errors
from parhelion.identity import Certificate
from parhelion.link import FRAME_LIMIT_BYTES
from parhelion.words import Problem, ProblemCode

T = TypeVar("T")

log = logging.getLogger("parhelion.api")

CONNECTIONS_LIMIT = 8192
"""Open connections, idle ones too; past it new ones get a bare 503."""

BACKLOG = 2048
IDLE_S = 75.0
"""Longer than the pools of common clients and proxies keep a connection, so that they close it."""

HEAD_WAIT_S = 10.0
HEAD_LIMIT_BYTES = 64 * 1024
"""A request's line and headers: how long they may take and how large they may be."""

PING_S = 20.0
"""Below the minute after which home routers forget a quiet connection."""

STOP_DEADLINE_S = 5.0
"""What is left to do after a drain: close idle connections."""


class OneWrite:
    """A transport that keeps a response's head until its body comes, or the loop's turn ends.

    uvicorn writes the two one by one, and each is a system call that hands the GIL over.
    """

    __slots__ = ("_head", "_loop", "bare")

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.bare = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send, together with the head that waits; a head alone waits for what follows it."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self.bare.write(data)

    def close(self) -> None:
        """Close, after what waits."""
        self._flush()
        self.bare.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self.bare.is_closing():
                self.bare.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with what it lacks: a deadline and a size for the headers.

    Without them a client that sends a header's first half holds a connection for ever.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self.transport = OneWrite(transport, self.loop)  # type: ignore[assignment]
        self._head_timer = self.loop.call_later(HEAD_WAIT_S, self._head_late)

    def handle_websocket_upgrade(self) -> None:
        """A WebSocket's frames have no head: it gets the transport itself."""
        if isinstance(self.transport, OneWrite):
            self.transport = self.transport.bare
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """The timer must not outlive the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head; the parser says where it ends."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_WAIT_S, self._head_late)
        super().data_received(data)
        # A body may share the packet with its head, so the size only counts while it goes on.
        if self._in_head and self._head_bytes > HEAD_LIMIT_BYTES and self.transport is not None:
            self.send_400_response("The headers are too large.")

    def on_headers_complete(self) -> None:
        """The head is here: body and answer have their own limits."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Whatever comes next is the next request's head."""
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses, in our one shape."""
        if self.transport.is_closing():
            return
        problem = Problem(ProblemCode.INVALID_REQUEST, msg, hint="send an HTTP/1.1 request")
        body = errors.body(problem)
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()

    def _head_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    """Signals are the command's business: it drains before it stops us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


class Serving:
    """A running server: its `port`, and a way to stop it."""

    def __init__(self, server: _Server, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.started = asyncio.Event()
        self._server = server
        self._task = asyncio.create_task(self._run(listener), name=f"http-{self.port}")

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Take nothing new, give running answers `deadline_s`, then end them."""
        self._server.config.timeout_graceful_shutdown = max(1, round(deadline_s))
        self._server.should_exit = True
        await asyncio.wait([self._task])

    async def until_started(self) -> None:
        """Return when requests are answered; Problem when the server did not come up."""
        waiting = asyncio.create_task(self.started.wait())
        await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self.started.is_set():
            raise Problem(ProblemCode.INTERNAL, "the HTTP server did not start", hint="see the log")

    async def _run(self, listener: socket.socket) -> None:
        try:
            await self._server.serve(sockets=[listener])
        except SystemExit:
            # uvicorn's word for a failed start; ours is a Problem, raised where it is awaited.
            log.error("the HTTP server did not start")
        finally:
            listener.close()


async def serve(
    app: Any,
    listener: socket.socket,
    *,
    lifespan: bool = False,
    certificate: Certificate | None = None,
) -> Serving:
    """Serve `app` on a listening socket, which is ours from now on; by https with a certificate.

    Returns when requests are answered.
    """
    server = _Server(settings(app, lifespan=lifespan, certificate=certificate))
    serving = Serving(server, listener)
    watch = asyncio.create_task(_announce(server, serving), name="http-start")
    try:
        await serving.until_started()
    finally:
        watch.cancel()
    return serving


def settings(
    app: Any, *, lifespan: bool = False, certificate: Certificate | None = None
) -> uvicorn.Config:
    """uvicorn's settings: every limit said, nothing logged twice, no header that tells on us."""
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="websockets-sansio",
        loop="none",
        lifespan="on" if lifespan else "off",
        access_log=False,
        log_config=None,
        server_header=False,
        # Who asks is the connection's address: a forwarded one could be made up.
        proxy_headers=False,
        ws_max_size=FRAME_LIMIT_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        # Sealed frames do not compress, and decompression is a way to exhaust memory.
        ws_per_message_deflate=False,
        backlog=BACKLOG,
        limit_concurrency=CONNECTIONS_LIMIT,
        timeout_keep_alive=round(IDLE_S),
        timeout_graceful_shutdown=round(STOP_DEADLINE_S),
        ssl_certfile=None if certificate is None else certificate.cert,
        ssl_keyfile=None if certificate is None else certificate.key,
    )


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program's main coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _announce(server: _Server, serving: Serving) -> None:
    # uvicorn has no event for it; it takes a millisecond.
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    serving.started.set()
