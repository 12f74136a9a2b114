"""A coordinator's door on a real uvicorn, as the API opens it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from litestar import Litestar, WebSocket, get, websocket

from parhelion.identity import NodeKey
from parhelion.link import (
    FRAME_LIMIT_BYTES,
    SUBPROTOCOL,
    Bye,
    Carrier,
    ConnectionClosed,
    FromNode,
    LinkBroken,
    Register,
    Welcome,
    accept,
)
from parhelion.words import ProblemCode

COORDINATOR = NodeKey(b"c" * 32)

DIGEST = "ab" * 32

Script = Callable[[Carrier[FromNode]], Awaitable[None]]


class LitestarSocket:
    """Litestar's WebSocket as ByteSocket, as api/node_socket.py does it."""

    def __init__(self, ws: WebSocket[Any, Any, Any]) -> None:
        self._ws = ws

    async def send(self, data: bytes) -> None:
        try:
            await self._ws.send_bytes(data)
        except Exception as error:
            raise ConnectionClosed(None, str(error)) from error

    async def receive(self) -> bytes:
        event = await self._ws.receive()
        if event["type"] == "websocket.disconnect":
            raise ConnectionClosed(event.get("code"), event.get("reason") or "")
        data = event.get("bytes")
        if data is None:
            raise ConnectionClosed(None, "text came where only bytes are spoken")
        return data

    async def close(self, code: int, reason: str) -> None:
        with contextlib.suppress(Exception):
            await self._ws.close(code, reason)


class Door:
    """One running server; every accepted node is handed to `script`, every refusal kept."""

    def __init__(self, key: NodeKey = COORDINATOR) -> None:
        self.key = key
        self.port = 0
        self.script: Script = hold
        self.handshake_s = 5.0
        self.refused: list[str] = []
        self.ended: list[str] = []
        self.carriers: list[Carrier[FromNode]] = []
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; on the same port again after a stop."""

        @websocket("/v1/node")
        async def node(socket: WebSocket[Any, Any, Any]) -> None:
            await socket.accept(subprotocols=SUBPROTOCOL)
            await self._attend(LitestarSocket(socket))

        @get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": "echo", "digest": DIGEST}]}

        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            Litestar([node, models], openapi_config=None),
            ws="websockets-sansio",
            ws_max_size=FRAME_LIMIT_BYTES,
            ws_per_message_deflate=False,
            lifespan="off",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stop listening and drop every session."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait_for(self._task, 10)

    async def _attend(self, socket: LitestarSocket) -> None:
        try:
            carrier = await accept(socket, self.key, self.handshake_s)
        except LinkBroken as cause:
            self.refused.append(cause.message)
            return
        self.carriers.append(carrier)
        try:
            await self.script(carrier)
        except LinkBroken as cause:
            self.ended.append(cause.message)
        finally:
            await carrier.abort()


async def welcome(carrier: Carrier[FromNode], heartbeat_s: float = 2.0) -> Register:
    """Take a registration and accept everything it offers."""
    register = await carrier.receive()
    assert isinstance(register, Register)
    accepted = tuple(model.digest for model in register.card.models)
    await carrier.send(
        Welcome(coordinator=COORDINATOR.peer, heartbeat_s=heartbeat_s, accepted=accepted)
    )
    return register


async def hold(carrier: Carrier[FromNode]) -> None:
    """Listen until the link ends."""
    while True:
        heard = await carrier.receive()
        if isinstance(heard, Bye):
            raise LinkBroken(ProblemCode.LINK_BROKEN, f"bye: {heard.message}")


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A listening door that is closed afterwards."""
    made = Door()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def take_in() -> Callable[..., Awaitable[Register]]:
    """`welcome`, for tests that write a coordinator's script."""
    return welcome


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
