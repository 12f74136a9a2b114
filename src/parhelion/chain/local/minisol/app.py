"""The ASGI application: JSON-RPC by POST, and by WebSocket with subscriptions, for this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from parhelion.chain.local.minisol import rpc
from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.problems import INVALID_REQUEST, RpcError
from parhelion.chain.local.minisol.subscriptions import Hub
from parhelion.config import LOOPBACK

BODY_LIMIT_BYTES = 256 * 1024
"""A batch of 100 of the longest transactions fits."""

BODY_WAIT_S = 10.0
"""For a whole body: a sender on this machine has it ready."""

CALLS_LIMIT = 256
"""Bodies at once; each may hold BODY_LIMIT_BYTES."""

LINES_LIMIT = 64
"""WebSockets at once."""

SEND_WAIT_S = 10.0
"""For a reader of a WebSocket to take one message."""

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]


class App:
    """One chain's door."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._hub = Hub(chain)
        self._calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket from its beginning to its end."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict[bytes, bytes](scope["headers"])
        refusal = _stranger(headers)
        if refusal is not None:
            await _reply(send, 403, _error(refusal))
        elif scope["method"] == "GET" and scope["path"] == "/health":
            await _reply(send, 200, b"ok", b"text/plain")
        elif scope["method"] != "POST" or scope["path"] != "/":
            await _reply(
                send, 405, _error("Used HTTP Method is not allowed. POST to / is required")
            )
        elif not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
            # A page elsewhere can make a browser send any other type here without asking us first.
            await _reply(
                send, 415, _error("Supplied content type is not allowed: application/json")
            )
        elif self._calls >= CALLS_LIMIT:
            await _reply(send, 503, _error(f"more than {CALLS_LIMIT} calls at once"))
        else:
            self._calls += 1
            try:
                await self._call(receive, send)
            finally:
                self._calls -= 1

    async def _call(self, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                body = await _body(receive)
        except TimeoutError:
            await _reply(send, 408, _error(f"the body took longer than {BODY_WAIT_S:.0f} s"))
            return
        if body is None:
            await _reply(send, 413, _error(f"the body is longer than {BODY_LIMIT_BYTES} bytes"))
            return
        await _reply(send, 200, await rpc.answer(self._chain, body))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        refusal = _stranger(dict[bytes, bytes](scope["headers"]))
        if refusal is not None or self._hub.lines >= LINES_LIMIT:
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        line = self._hub.open(_sender(send))
        try:
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text") or message.get("bytes") or b""
                body = text.encode() if isinstance(text, str) else text
                answered = await rpc.answer(self._chain, body, line.methods())
                if answered:
                    await line.send(answered)
        except TimeoutError:
            await send({"type": "websocket.close", "code": 1008})
        finally:
            await self._hub.close(line)


def _sender(send: Send) -> Callable[[bytes], Awaitable[None]]:
    async def told(message: bytes) -> None:
        async with asyncio.timeout(SEND_WAIT_S):
            await send({"type": "websocket.send", "text": message.decode()})

    return told


def _stranger(headers: Mapping[bytes, bytes]) -> str | None:
    """Why a request may be a web page's: by a rebound name, or by an origin of any kind."""
    host = headers.get(b"host", b"127.0.0.1").decode("latin-1").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.strip("[]") not in LOOPBACK:
        return "this Host is not this machine"
    if b"origin" in headers:
        return "web pages may not use this chain"
    return None


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None once it is too long."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > BODY_LIMIT_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _error(message: str) -> bytes:
    error = RpcError(INVALID_REQUEST, f"Invalid request: {message}")
    return msgspec.json.encode({"jsonrpc": "2.0", "error": error.as_json(), "id": None})


async def _reply(
    send: Send, status: int, body: bytes, content_type: bytes = b"application/json"
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
