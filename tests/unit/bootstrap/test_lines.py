"""Money that moves never waits behind what strangers have us ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from parhelion.bootstrap import payment_networks
from parhelion.bootstrap.payment_networks import Lines
from parhelion.chain.rpc import JsonRpc, RpcUnavailable

SLOW_S = 0.5
CONNECTIONS = 4
ASKED = 20 * CONNECTIONS


@pytest_asyncio.fixture
async def slow_node() -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.Response:
        asked = await request.json()
        await asyncio.sleep(SLOW_S if asked["method"] == "simulateTransaction" else 0)
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": "ok"})

    app = web.Application()
    app.router.add_post("/", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_a_payment_leaves_at_once_while_strangers_wait_in_line(
    slow_node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_networks, "CONNECTIONS_LIMIT", CONNECTIONS)
    lines = Lines()
    money = JsonRpc(lines.to(slow_node), slow_node)
    strangers = JsonRpc(lines.for_strangers(slow_node), slow_node)
    hasty = JsonRpc(lines.for_strangers(slow_node), slow_node, wait_s=SLOW_S)
    flood = [asyncio.create_task(strangers("simulateTransaction", [n])) for n in range(ASKED)]
    await asyncio.sleep(0.1)
    assert await money("sendTransaction", ["signed"]) == "ok"
    assert not all(task.done() for task in flood), "they still wait"
    # In the strangers' own line the same would not even have been sent.
    with pytest.raises(RpcUnavailable) as caught:
        await hasty("sendTransaction", ["signed"])
    assert not caught.value.left_us
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    await lines.close()


async def test_this_machine_is_asked_without_a_proxy() -> None:
    lines = Lines()
    for session_of in (lines.to, lines.for_strangers):
        assert not session_of("http://127.0.0.1:1").trust_env
        assert session_of("https://node.example").trust_env
    assert lines.to("https://node.example") is not lines.for_strangers("https://node.example")
    await lines.close()
