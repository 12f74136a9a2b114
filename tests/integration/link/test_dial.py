"""Dialling a real server: sessions, refusals, and a relay in the middle that meddles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from parhelion.identity import NodeKey
from parhelion.link import (
    SUBPROTOCOL,
    Bye,
    Carrier,
    Drain,
    Draining,
    FromCoordinator,
    Heartbeat,
    LinkBroken,
    connect,
    parse_address,
)
from parhelion.words import Problem, ProblemCode

NODE = NodeKey(b"n" * 32)
OTHER = NodeKey(b"o" * 32)


dialled: list[Carrier[FromCoordinator]] = []


@pytest.fixture(autouse=True)
async def _hang_up() -> AsyncIterator[None]:
    yield
    while dialled:
        await dialled.pop().abort()


async def dial(where: str, key: NodeKey = NODE, **more: Any) -> Carrier[FromCoordinator]:
    dialled.append(await connect(parse_address(where), key, **more))
    return dialled[-1]


async def until(condition: Any, deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def end_of(carrier: Carrier[FromCoordinator]) -> str:
    async with asyncio.timeout(5):
        while True:
            try:
                heard = await carrier.receive()
            except LinkBroken as cause:
                return cause.message
            if isinstance(heard, Bye):
                return heard.message


async def refusal(where: str, **more: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await dial(where, **more)
    assert caught.value.hint or "closed" in caught.value.message
    return caught.value


async def test_a_session_over_uvicorn_carries_large_and_small_both_ways(door: Any) -> None:
    async def echo(carrier: Any) -> None:
        while True:
            heard = await carrier.receive()
            if isinstance(heard, Draining):
                await carrier.send(Drain(reason=heard.reason))

    door.script = echo
    carrier = await dial(f"/ip4/127.0.0.1/tcp/{door.port}/p2p/{door.key.peer}")
    sizes = [0, 1, 100, 65_536, 900_000, 3]
    for size in sizes:
        await carrier.send(Draining(reason="x" * size))
    for size in sizes:
        assert await carrier.receive() == Drain(reason="x" * size)
    await carrier.close(Bye(code=ProblemCode.DRAINING, message="done"))
    await until(lambda: door.ended)
    assert "done" in door.ended[0]


async def test_a_coordinator_with_another_key_is_refused_and_told_why(door: Any) -> None:
    problem = await refusal(f"/ip4/127.0.0.1/tcp/{door.port}/p2p/{OTHER.peer}")
    assert problem.code is ProblemCode.LINK_REFUSED
    assert door.key.peer in problem.message
    await until(lambda: door.refused)
    assert "another coordinator" in door.refused[0]


async def test_nobody_listening_and_an_unknown_name_may_pass(unused_port: int) -> None:
    problem = await refusal(f"127.0.0.1:{unused_port}")
    assert problem.code is ProblemCode.LINK_BROKEN and "nobody listens" in problem.message
    problem = await refusal("no-such-host.invalid:3001")
    assert problem.code is ProblemCode.LINK_BROKEN and "no-such-host" in problem.message


async def test_a_silent_server_is_a_time_out(unused_port: int) -> None:
    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", unused_port)
    async with server:
        problem = await refusal(f"127.0.0.1:{unused_port}", deadline_s=0.2)
    assert problem.code is ProblemCode.LINK_BROKEN and "no answer" in problem.message


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, ProblemCode.LINK_REFUSED), (200, ProblemCode.LINK_REFUSED), (503, "link_broken")],
)
async def test_a_server_that_is_no_coordinator_is_named_so(
    status: int, code: str, unused_port: int
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with Serving(unused_port, answer):
        problem = await refusal(f"127.0.0.1:{unused_port}")
    assert problem.code == code and f"127.0.0.1:{unused_port}" in problem.message


async def test_a_websocket_of_another_kind_is_no_coordinator(unused_port: int) -> None:
    async def chat(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        return ws

    async with Serving(unused_port, chat):
        problem = await refusal(f"127.0.0.1:{unused_port}")
    assert problem.code is ProblemCode.LINK_REFUSED and SUBPROTOCOL in problem.message


async def test_a_relay_that_alters_one_frame_after_the_handshake_ends_both_sides(
    door: Any, unused_port: int
) -> None:
    relay = Relay(door.port)
    async with Serving(unused_port, relay.serve):
        carrier = await dial(f"/ip4/127.0.0.1/tcp/{unused_port}/p2p/{door.key.peer}")
        await until(lambda: door.carriers)
        for n in range(3):
            await carrier.send(Heartbeat(sent_at_ms=n, slots_busy=0, engine="ready"))
            await carrier.receive()
        relay.alter_next = True
        await carrier.send(Heartbeat(sent_at_ms=9, slots_busy=0, engine="ready"))
        assert "frame 4 cannot be unsealed" in await end_of(carrier)
        await until(lambda: door.ended)
    assert "frame 4 cannot be unsealed" in door.ended[0]


async def test_a_replayed_session_gets_no_session_and_the_real_one_goes_on(
    door: Any, unused_port: int
) -> None:
    relay = Relay(door.port)
    async with Serving(unused_port, relay.serve):
        carrier = await dial(f"127.0.0.1:{unused_port}")
        await carrier.send(Heartbeat(sent_at_ms=0, slots_busy=0, engine="ready"))
        await carrier.receive()
        async with aiohttp.ClientSession() as session:
            url = f"http://{door.address}/v1/node"
            async with session.ws_connect(url, protocols=[SUBPROTOCOL]) as ws:
                for frame in relay.seen:
                    await ws.send_bytes(frame)
                assert (await ws.receive()).type is aiohttp.WSMsgType.BINARY
                closing = await ws.receive()
        assert closing.data == 4400 and "replayed" in closing.extra
        await until(lambda: door.refused)
        assert "replayed" in door.refused[0]
        await carrier.send(Heartbeat(sent_at_ms=1, slots_busy=0, engine="ready"))
        await carrier.receive()
        await carrier.abort()


async def test_a_frame_of_100_mb_is_refused_and_another_session_never_notices(door: Any) -> None:
    neighbour = await dial(door.address, OTHER)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(
        f"GET /v1/node HTTP/1.1\r\nHost: {door.address}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    size = 100_000_000
    writer.write(bytes([0x82, 0xFF]) + size.to_bytes(8, "big") + os.urandom(4))
    sent = 0
    try:
        while sent < size:
            writer.write(bytes(1 << 20))
            sent += 1 << 20
            await asyncio.wait_for(writer.drain(), 5)
            if reader.at_eof() or door.refused:
                break
    except ConnectionError:
        pass
    writer.close()
    await until(lambda: door.refused)
    assert "over the limit" in door.refused[0]
    assert sent < 20_000_000, "the server read on"
    await neighbour.send(Heartbeat(sent_at_ms=1, slots_busy=0, engine="ready"))
    await neighbour.receive()
    await neighbour.abort()


async def test_a_node_refuses_a_frame_over_the_limit_too(door: Any) -> None:
    async def flood(carrier: Any) -> None:
        await carrier._socket.send(bytes(2_000_000))
        await carrier.receive()

    door.script = flood
    carrier = await dial(door.address)
    assert "over the limit" in await end_of(carrier)


async def test_silence_at_the_door_is_closed_with_its_cause(door: Any) -> None:
    door.handshake_s = 0.2
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{door.address}/v1/node", protocols=[SUBPROTOCOL]) as ws,
    ):
        closing = await ws.receive()
    await until(lambda: door.refused)
    assert "silence" in closing.extra and "silence" in door.refused[0]


async def test_text_at_the_door_is_refused(door: Any) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{door.address}/v1/node", protocols=[SUBPROTOCOL]) as ws,
    ):
        await ws.send_str("hello")
        closing = await ws.receive()
    await until(lambda: door.refused)
    assert closing.data == 4400 and "text" in door.refused[0]


async def test_the_proxy_of_the_environment_is_asked_for_the_world_and_not_for_this_machine(
    door: Any, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with await asyncio.start_server(proxy, "127.0.0.1", unused_port):
        problem = await refusal("https://pool.invalid")
        assert asked == [b"CONNECT pool.invalid:443 HTTP/1.1\r\n"]
        assert "proxy" in problem.message and "HTTPS_PROXY" in problem.hint
        await dial(door.address)
        assert len(asked) == 1


class Relay:
    """A man in the middle: passes frames between a node and the real door, and meddles at will."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/node"
        self.alter_next = False
        self.seen: list[bytes] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        near = web.WebSocketResponse(protocols=[SUBPROTOCOL])
        await near.prepare(request)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._url, protocols=[SUBPROTOCOL]) as far,
        ):
            onward = asyncio.create_task(self._pass_on(near, far))
            back = asyncio.create_task(self._pass_back(far, near))
            await asyncio.wait([onward, back], return_when=asyncio.FIRST_COMPLETED)
            onward.cancel()
            back.cancel()
        return near

    async def _pass_on(self, source: Any, sink: Any) -> None:
        async for message in source:
            data = bytearray(message.data)
            self.seen.append(bytes(data))
            if self.alter_next:
                self.alter_next = False
                data[len(data) // 2] ^= 1
            await sink.send_bytes(bytes(data))

    async def _pass_back(self, source: Any, sink: Any) -> None:
        async for message in source:
            await sink.send_bytes(message.data)


class Serving:
    """An aiohttp server with one handler for every path."""

    def __init__(self, port: int, handler: Any) -> None:
        self._port = port
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)

    async def __aenter__(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
