"""One JSON-RPC call over real HTTP: what comes back, and whether what failed had left us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from parhelion.chain.rpc import JsonRpc, RpcRefused, RpcUnavailable

WAIT_S = 0.3
Serve = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


class Node:
    """A node's HTTP server; `serve` is what it does."""

    def __init__(self) -> None:
        self.serve: Serve = _answer
        self.url = ""
        self.paths: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        return await self.serve(request, json.loads(await request.read() or b"null"))


async def _answer(_: web.Request, asked: Any) -> web.StreamResponse:
    result = {"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]}
    return web.json_response(result)


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def rpc(node: Node) -> AsyncIterator[JsonRpc]:
    async with aiohttp.ClientSession() as session:
        yield JsonRpc(session, node.url)


@pytest_asyncio.fixture
async def hasty(node: Node) -> AsyncIterator[JsonRpc]:
    async with aiohttp.ClientSession() as session:
        yield JsonRpc(session, node.url, wait_s=WAIT_S)


async def test_a_call_brings_its_result(rpc: JsonRpc) -> None:
    assert await rpc("any", [1, {"a": "b"}]) == [1, {"a": "b"}]
    assert await rpc("any", []) == []


async def test_a_result_of_null_is_a_result(node: Node, rpc: JsonRpc) -> None:
    node.serve = _says({"result": None})
    assert await rpc("any", []) is None


async def test_an_error_is_the_nodes_refusal(node: Node, rpc: JsonRpc) -> None:
    node.serve = _says({"error": {"code": -32002, "message": "no", "data": {"err": "X"}}}, 500)
    with pytest.raises(RpcRefused) as caught:
        await rpc("any", [])
    assert (caught.value.code, caught.value.data) == (-32002, {"err": "X"})


def _says(members: Any, status: int = 200) -> Serve:
    async def serve(_: web.Request, asked: Any) -> web.StreamResponse:
        whole = {"jsonrpc": "2.0", "id": asked["id"], **members}
        return web.json_response(whole, status=status)

    return serve


def _writes(text: str, status: int = 200) -> Serve:
    async def serve(_: web.Request, __: Any) -> web.StreamResponse:
        return web.Response(text=text, status=status)

    return serve


async def _hang(_: web.Request, __: Any) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _flood(request: web.Request, _: Any) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(16):
        await response.write(b" " * 2**20)
    return response


async def _break(request: web.Request, _: Any) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def _redirect(_: web.Request, __: Any) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/elsewhere")


async def _pads(_: web.Request, asked: Any) -> web.StreamResponse:
    text = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": 1})
    return web.Response(text=text + " " * 2**20)


PERHAPS: dict[str, Serve] = {
    "hangs": _hang,
    "floods": _flood,
    "breaks": _break,
    "redirects": _redirect,
    "garbage": _writes("<html>"),
    "empty": _writes(""),
    "a list": _writes("[]"),
    "no result": _says({}),
    "another id": _says({"id": 99, "result": 1}),
    "another id's error": _says({"id": 99, "error": {"code": 1, "message": "no"}}),
    "error of no shape": _says({"error": "no"}),
    "result and 500": _says({"result": 1}, 500),
    "a good answer that is too long": _pads,
    "502": _writes("bad gateway", 502),
}


@pytest.mark.parametrize("name", PERHAPS)
async def test_what_cannot_be_relied_on_may_have_arrived(
    node: Node, hasty: JsonRpc, name: str
) -> None:
    node.serve = PERHAPS[name]
    with pytest.raises(RpcUnavailable) as caught:
        await hasty("sendTransaction", ["signed"])
    assert caught.value.left_us
    assert node.paths == ["/"]


@pytest.mark.parametrize("status", [401, 403, 404, 413, 429])
async def test_a_provider_that_turns_a_call_away_did_not_pass_it_on(
    node: Node, rpc: JsonRpc, status: int
) -> None:
    node.serve = _writes("no", status)
    with pytest.raises(RpcUnavailable) as caught:
        await rpc("sendTransaction", ["signed"])
    assert not caught.value.left_us


async def test_where_nobody_listens_nothing_arrives() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(RpcUnavailable) as caught:
            await JsonRpc(session, "http://127.0.0.1:1")("any", [])
        assert not caught.value.left_us


async def test_a_call_that_waits_for_a_connection_has_not_left(node: Node) -> None:
    """What is behind others in our own line was never sent, however long it waited there."""
    node.serve = _hang
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        first = asyncio.create_task(JsonRpc(session, node.url, wait_s=3 * WAIT_S)("any", []))
        while not node.paths:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        with pytest.raises(RpcUnavailable) as caught:
            await JsonRpc(session, node.url, wait_s=WAIT_S)("sendTransaction", ["signed"])
        assert not caught.value.left_us
        assert len(node.paths) == 1
        with pytest.raises(RpcUnavailable) as arrived:
            await first
        assert arrived.value.left_us


async def test_a_call_is_json_with_its_length(node: Node, rpc: JsonRpc) -> None:
    seen: list[tuple[str | None, str | None]] = []

    async def serve(request: web.Request, asked: Any) -> web.StreamResponse:
        seen.append((request.headers.get("content-type"), request.headers.get("content-length")))
        return await _answer(request, asked)

    node.serve = serve
    assert await rpc("any", ["é"]) == ["é"]
    assert seen == [("application/json", "55")]
