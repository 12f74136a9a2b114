"""The HTTP server as a part of our process: real sockets on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from parhelion.api import Serving, serve, server
from parhelion.api.node_socket import Doorway, whence
from parhelion.api.wire import Visit
from parhelion.bootstrap.ports import bind, listen
from parhelion.coordinator import Relays
from parhelion.identity import NodeKey
from parhelion.link import Address, LinkBroken, Pairs, Register, connect
from parhelion.words import NodeCard, Problem


def listening() -> socket.socket:
    """A socket of any free port."""
    return listen(bind("127.0.0.1", 0, "--api-port"), "--api-port")


@pytest.fixture
async def running(pool: Any) -> AsyncIterator[Serving]:
    serving = await serve(pool.app, listening())
    yield serving
    await serving.stop(0.1)


async def test_port_0_takes_a_free_port_and_no_signal_handler_is_installed(pool: Any) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    serving = await serve(pool.app, listening())
    assert serving.port > 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    url = f"http://127.0.0.1:{serving.port}/health"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        assert "server" not in answer.headers
    await serving.stop(0.1)


async def test_a_stream_arrives_chunk_by_chunk_and_a_dropped_connection_disconnects(
    pool: Any, running: Serving
) -> None:
    pool.coordinator.script.steps = ("Hel", asyncio.Event())
    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        line = await answer.content.readline()
        assert json.loads(line[6:])["choices"][0]["delta"]["role"] == "assistant"
    await pool.until(lambda: pool.coordinator.answers[0].disconnects)
    assert pool.coordinator.answers[0].disconnects == 1


async def test_a_chunked_body_over_the_limit_gets_413(running: Serving) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 30_000

    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    headers = {"content-type": "application/json"}
    asked = {"data": endless(), "headers": headers}
    async with aiohttp.ClientSession() as session, session.post(url, **asked) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"])
async def test_a_client_that_writes_all_of_a_large_body_first_still_reads_its_413(
    running: Serving, close: bytes
) -> None:
    # 64 KiB are allowed here, and 256 are dropped: what urllib and its kin send.
    size = 200 * 1024
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + close
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % size

    def blocking() -> bytes:
        with socket.create_connection(("127.0.0.1", running.port), timeout=5) as wire:
            wire.sendall(head)
            for _ in range(size // 1024):
                wire.sendall(b"x" * 1024)
                time.sleep(0.0005)
            answer = b""
            while more := wire.recv(65536):
                answer += more
            return answer

    answer = await asyncio.to_thread(blocking)
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "body_too_large"


async def _raw(port: int, data: bytes) -> bytes:
    """The whole answer, however many segments it comes in; nothing where the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            (size,) = re.findall(rb"content-length: (\d+)", head)
            return head + await reader.readexactly(int(size))
    except asyncio.IncompleteReadError as end:
        return end.partial
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_400_in_our_shape(running: Serving, data: bytes) -> None:
    answer = await _raw(running.port, data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "invalid_request"


async def test_endless_headers_are_cut_off(running: Serving) -> None:
    data = b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: " + b"a" * 70_000
    answer = await _raw(running.port, data)
    assert answer.startswith(b"HTTP/1.1 400")


async def test_half_a_header_does_not_hold_a_connection_for_ever(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_WAIT_S", 0.1)
    serving = await serve(pool.app, listening())
    assert await _raw(serving.port, b"GET / HTTP/1.1\r\nhost:") == b""
    assert await _raw(serving.port, b"") == b""
    await serving.stop(0.1)


async def test_keep_alive_serves_many_requests_and_a_large_body_on_one_connection(
    running: Serving,
) -> None:
    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "x" * 60_000}]}
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(5):
            async with session.post(url, json=body) as answer:
                assert answer.status == 200
                await answer.read()


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"temperature": 9}])
async def test_what_a_request_was_is_freed_without_the_cycle_collector(
    running: Serving, fields: dict[str, Any]
) -> None:
    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    gc.collect()
    gc.disable()
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                async with session.post(url, json=body) as answer:
                    await answer.read()
        left = [o for o in gc.get_objects() if isinstance(o, Visit)]
    finally:
        gc.enable()
    assert left == []


async def test_stop_ends_what_still_runs_and_tells_the_coordinator(pool: Any) -> None:
    serving = await serve(pool.app, listening())
    pool.coordinator.script.steps = (asyncio.Event(),)
    url = f"http://127.0.0.1:{serving.port}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(url, json=body))
        await pool.until(lambda: pool.coordinator.answers)
        await serving.stop(0.1)
        asking.cancel()
        await asyncio.wait([asking])
    assert pool.coordinator.answers[0].disconnects == 1


def card(peer: str) -> NodeCard:
    return NodeCard(
        peer=peer,
        name="n",
        version="0",
        device="cpu",
        backend="b",
        slots=1,
        kv_tokens=1,
        models=(),
    )


async def test_a_node_is_attended_after_both_proved_their_keys(
    pool: Any, running: Serving, tmp_path: Path
) -> None:
    heard: list[Any] = []

    async def attend(carrier: Any, whence: str, **_origin: Any) -> None:
        heard.append((carrier.peer, whence, await carrier.receive()))

    pool.coordinator.attend = attend
    key = NodeKey.load_or_create(tmp_path / "node.key")
    address = Address(url=f"http://127.0.0.1:{running.port}", peer=None, invite=None)
    carrier = await connect(address, key)
    await carrier.send(Register(card=card(key.peer)))
    await pool.until(lambda: heard)
    assert heard == [(key.peer, "near", Register(card=card(key.peer)))]


@pytest.mark.parametrize(
    ("address", "headers", "expected"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:3001"}, "near"),
        ("127.0.0.9", {"host": "LOCALHOST:3001"}, "near"),
        ("::1", {"host": "[::1]:3001"}, "near"),
        ("::ffff:127.0.0.1", {"host": "localhost"}, "near"),
        ("192.0.2.7", {"host": "localhost:3001"}, "far"),
        ("::ffff:192.0.2.7", {"host": "localhost"}, "far"),
        ("", {"host": "localhost"}, "far"),
        # What proxies and tunnels on this machine do: nginx, Caddy, HAProxy, cloudflared, ...
        ("127.0.0.1", {"host": "pool.example"}, "far"),
        ("127.0.0.1", {}, "far"),
        ("127.0.0.1", {"host": "localhost.pool.example:3001"}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "x-forwarded-for": "192.0.2.7"}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "x-forwarded-for": ""}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "forwarded": "for=192.0.2.7"}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "x-forwarded-proto": "https"}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "x-real-ip": "192.0.2.7"}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "via": "1.1 front"}, "far"),
        ("127.0.0.1", {"host": "127.0.0.1", "cf-connecting-ip": "192.0.2.7"}, "far"),
    ],
)
def test_near_is_only_who_comes_straight_from_this_machine(
    address: str, headers: dict[str, str], expected: str
) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert whence(address, fields) == expected


@pytest.mark.parametrize(
    ("path", "headers", "protocols", "status"),
    [
        ("/v1/node", {"origin": "http://localhost:3002"}, ["parhelion.1"], 403),
        ("/v1/node", {}, [], 400),
        ("/v1/node", {}, ["parhelion.0"], 400),
        ("/v1/link", {"origin": "http://localhost:3002"}, ["parhelion.1"], 403),
        ("/v1/link", {}, [], 400),
        ("/v1/link/", {}, ["parhelion.1"], 404),
        ("/v1/other", {}, ["parhelion.1"], 404),
    ],
)
async def test_a_socket_that_is_no_nodes_is_refused_before_it_opens(
    running: Serving, path: str, headers: dict[str, str], protocols: list[str], status: int
) -> None:
    url = f"http://127.0.0.1:{running.port}{path}"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, headers=headers, protocols=protocols)
    assert refused.value.status == status


async def test_text_and_large_frames_end_the_session(pool: Any, running: Serving) -> None:
    url = f"http://127.0.0.1:{running.port}/v1/node"
    async with aiohttp.ClientSession() as session:
        for sent, code in (("text", 1003), (b"x" * (1024 * 1024 + 1), 1009)):
            async with session.ws_connect(url, protocols=["parhelion.1"]) as socket:
                if isinstance(sent, str):
                    await socket.send_str(sent)
                else:
                    await socket.send_bytes(sent)
                async with asyncio.timeout(5):
                    closed = await socket.receive()
                assert closed.type is aiohttp.WSMsgType.CLOSE, closed
                assert socket.close_code == code
    assert pool.coordinator.attended == []


async def test_a_link_leads_to_the_other_nodes_socket_and_nowhere_else(
    pool: Any, running: Serving
) -> None:
    pool.coordinator.relays = Relays(pool.clock, os.urandom)
    keys = NodeKey(b"d" * 32), NodeKey(b"a" * 32)
    tickets = pool.coordinator.relays.issue(keys[0].peer, keys[1].peer)
    address = Address(url=f"http://127.0.0.1:{running.port}", peer=None, invite=None)
    dial, accept = (Pairs(key, address) for key in keys)
    one, other = await asyncio.gather(dial.open(tickets[0]), accept.open(tickets[1]))
    await one.send(b"hidden states")
    assert await other.receive() == b"hidden states"
    assert pool.coordinator.attended == [] and one.path == "relay"
    await asyncio.gather(one.close("over"), other.close("over"))
    with pytest.raises(LinkBroken, match="no ticket"):
        await Pairs(keys[0], address).open(tickets[0])


async def test_who_shakes_hands_and_never_registers_keeps_its_place_in_the_doorway(
    pool: Any, running: Serving, tmp_path: Path
) -> None:
    from parhelion.api.node_socket import UNPROVEN_PER_ADDRESS_LIMIT

    registered: list[Any] = []
    over = asyncio.Event()

    async def attend(carrier: Any, whence: str, *, site: str, joined: Any) -> None:
        registered.append(joined)
        assert site == "127.0.0.1"
        await over.wait()

    pool.coordinator.attend = attend
    key = NodeKey.load_or_create(tmp_path / "node.key")
    address = Address(url=f"http://127.0.0.1:{running.port}", peer=None, invite=None)
    held = [await connect(address, key) for _ in range(UNPROVEN_PER_ADDRESS_LIMIT)]
    await pool.until(lambda: len(registered) == UNPROVEN_PER_ADDRESS_LIMIT)
    with pytest.raises(Problem):
        await connect(address, key)
    # A member stands there no more, and leaves its place once.
    registered[0]()
    registered[0]()
    held.append(await connect(address, key))
    with pytest.raises(Problem):
        await connect(address, key)
    over.set()
    for carrier in held:
        await carrier.abort()


def test_an_ipv6_household_is_one_address_in_the_doorway() -> None:
    doorway = Doorway(limit=3, address_limit=2)
    leave = doorway.enter("2001:db8::1")
    doorway.enter("2001:db8::2")
    with pytest.raises(Problem):
        doorway.enter("2001:db8::3")
    doorway.enter("2001:db8:0:1::1")
    with pytest.raises(Problem):
        doorway.enter("192.0.2.1")
    leave()
    leave()
    assert doorway.waiting == 2
    doorway.enter("192.0.2.1")


async def test_unproven_sockets_are_bounded(running: Serving) -> None:
    from parhelion.api.node_socket import UNPROVEN_PER_ADDRESS_LIMIT

    url = f"http://127.0.0.1:{running.port}/v1/node"
    async with aiohttp.ClientSession() as session:
        held = [
            await session.ws_connect(url, protocols=["parhelion.1"])
            for _ in range(UNPROVEN_PER_ADDRESS_LIMIT)
        ]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, protocols=["parhelion.1"])
        assert refused.value.status == 503
        for socket in held:
            await socket.close()
        async with asyncio.timeout(5):
            while True:
                try:
                    await (await session.ws_connect(url, protocols=["parhelion.1"])).close()
                    break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.01)
