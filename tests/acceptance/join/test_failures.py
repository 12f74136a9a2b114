"""Every way in which joining fails, over real listeners: its cause, and what to do about it.

What a person reads of the causes that most meet is in test_causes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from aiohttp import web

import parhelion
from parhelion.bootstrap import SystemClock
from parhelion.identity import NodeKey
from parhelion.link import SUBPROTOCOL, Welcome, connect, parse_address
from parhelion.link.dial import NO_WAY, _dial_problem
from parhelion.link.messages import CoordinatorHello
from parhelion.node import Agent
from parhelion.node.session import register
from parhelion.testing import EchoEngine
from parhelion.testing.certificates import Authority
from parhelion.testing.processes import Running
from parhelion.words import Problem, ProblemCode

OTHER = NodeKey(b"o" * 32)

PASSES, STAYS = "link_broken", "link_refused"


async def dialled(address: str, deadline_s: float = 5.0) -> Problem:
    """What a dial and its handshake end with."""
    with pytest.raises(Problem) as caught:
        carrier = await connect(
            parse_address(address), NodeKey(os.urandom(32)), deadline_s=deadline_s
        )
        await carrier.abort()
    return caught.value


async def registered(address: str, digest: str) -> Problem:
    """What a node's first visit ends with, as its operator reads it."""
    agent = Agent(
        NodeKey(os.urandom(32)),
        parse_address(address),
        {digest: EchoEngine(slots=2, n_vocab=100, digest=digest)},
        name="echo",
        clock=SystemClock(),
        on_state=lambda _state: None,
    )
    with pytest.raises(Problem) as caught:
        async with asyncio.timeout(10):
            await agent.run()
    return caught.value


def check(problem: Problem, code: str, message: str, hint: str) -> None:
    assert problem.code == code, problem
    assert message in problem.message
    assert hint in problem.hint


async def test_nobody_listens(free_port: int) -> None:
    problem = await dialled(f"127.0.0.1:{free_port}")
    check(problem, PASSES, "nobody listens at", "is the coordinator running")


async def test_a_name_that_nobody_knows() -> None:
    check(await dialled("pool.invalid:3001"), PASSES, "name in", "spelling")


async def test_silence(free_port: int) -> None:
    listener = socket.create_server(("127.0.0.1", free_port))
    with listener:
        problem = await dialled(f"127.0.0.1:{free_port}", deadline_s=0.3)
    check(problem, PASSES, "no answer from", "firewall")


async def test_another_program(free_port: int) -> None:
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", free_port), http.server.BaseHTTPRequestHandler
    )
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        # It answers 501 to every method: a server that may be starting.
        problem = await dialled(f"127.0.0.1:{free_port}")
        check(problem, PASSES, "answers 501", "tried again")
    finally:
        server.shutdown()
        server.server_close()


@contextlib.asynccontextmanager
async def serving(port: int, handler: Callable[[web.Request], Any]) -> Any:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "is not a Parhelion coordinator"), (400, "another version"), (426, "another version")],
)
async def test_a_web_server(status: int, message: str, free_port: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(free_port, answer):
        problem = await dialled(f"127.0.0.1:{free_port}")
    check(problem, STAYS, message, "API's address")


async def newer(request: web.Request) -> web.WebSocketResponse:
    """A coordinator of the link's next version."""
    ws = web.WebSocketResponse(protocols=[SUBPROTOCOL])
    await ws.prepare(request)
    await ws.receive()
    hello = CoordinatorHello(
        version=2, peer=OTHER.peer, nonce=bytes(32), ephemeral=bytes(32), signature=bytes(64)
    )
    await ws.send_bytes(msgspec.msgpack.encode(hello))
    await ws.receive()
    return ws


async def test_a_coordinator_of_another_version(free_port: int) -> None:
    async with serving(free_port, newer):
        problem = await dialled(f"127.0.0.1:{free_port}")
    check(problem, STAYS, "speaks version 2 of the link, this side 1", "same Parhelion")


async def test_a_wrong_key_at_the_right_address(plain_pool: Running) -> None:
    port = urlsplit(plain_pool.api).port
    problem = await dialled(f"/ip4/127.0.0.1/tcp/{port}/p2p/{OTHER.peer}")
    check(
        problem, STAYS, f"another coordinator answered: {plain_pool.ready['coordinator']}", "join"
    )


async def test_certificates(tls_pool: Running, authority: Authority, free_port: int) -> None:
    problem = await dialled(f"https://localhost:{urlsplit(tls_pool.api).port}")
    check(problem, STAYS, "no certificate that this machine trusts", "SSL_CERT_FILE")
    expired = authority.sign("expired", ["DNS:localhost"], days=-1)
    with tls_listener(free_port, *map(str, expired)):
        problem = await dialled(f"https://localhost:{free_port}")
    # The authority is unknown in this process, which is found first or last by version of OpenSSL.
    assert problem.code == STAYS and "certificate" in problem.message


@contextlib.contextmanager
def tls_listener(port: int, cert: str, key: str) -> Iterator[None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", port))

    def answer() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                pass

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    yield
    listener.close()
    answering.join(5)


async def test_https_to_a_plain_port_and_plain_to_an_https_port(
    plain_pool: Running, tls_pool: Running
) -> None:
    problem = await dialled(plain_pool.api.replace("http:", "https:"))
    check(problem, STAYS, "does not speak https", plain_pool.api)
    problem = await dialled(tls_pool.api.removeprefix("https://"))
    check(problem, PASSES, "hung up without an answer", tls_pool.api)


async def test_invites(plain_pool: Running, digest: str) -> None:
    where = plain_pool.api.removeprefix("http://")
    problem = await registered(where, digest)
    check(problem, STAYS, "admits nodes by invite", "#INVITE included")
    problem = await registered(f"{where}#{'A' * 22}", digest)
    check(problem, STAYS, "unknown, used up or expired", "new join command")
    admin = (plain_pool.log.parent / "admin.key").read_text().strip()
    body = {"uses": 1, "ttl_s": 1}
    short = plain_pool.call("POST", "/v1/invites", body, key=admin)[2]["invite"]
    expires_s = time.monotonic() + 1.1
    await asyncio.sleep(expires_s - time.monotonic())
    problem = await registered(f"{where}#{short}", digest)
    check(problem, STAYS, "unknown, used up or expired", "new join command")


async def test_an_invite_that_is_used_up(plain_pool: Running, digest: str) -> None:
    admin = (plain_pool.log.parent / "admin.key").read_text().strip()
    once = plain_pool.call("POST", "/v1/invites", {"uses": 1, "ttl_s": 60}, key=admin)[2]["invite"]
    where = f"{plain_pool.api.removeprefix('http://')}#{once}"
    assert isinstance(await answered(where, digest), Welcome), "it opens once"
    problem = await registered(where, digest)
    check(problem, STAYS, "unknown, used up or expired", "new join command")


def test_no_way_to_the_network(free_port: int) -> None:
    """In a network of its own without any interface, where the machine lets us make one."""
    below = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*below, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine lets us make no network of our own (unshare --net)")
    package = str(Path(parhelion.__file__).parents[1])
    done = subprocess.run(
        [*below, sys.executable, "-c", DIAL, f"192.0.2.1:{free_port}"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": package, "NO_PROXY": "*"},
    )
    code, message, hint = done.stdout.splitlines()
    assert code == PASSES and message.startswith("there is no way from here to"), done
    assert "one network" in hint


DIAL = """
import asyncio, sys
from parhelion.identity import NodeKey
from parhelion.link import connect, parse_address
from parhelion.words import Problem, ProblemCode
try:
    asyncio.run(connect(parse_address(sys.argv[1]), NodeKey(bytes(32))))
except Problem as problem:
    print(problem.code.value, problem.message, problem.hint, sep=chr(10))
"""


@pytest.mark.parametrize("number", sorted(NO_WAY))
def test_each_way_of_the_system_to_say_that_there_is_no_way(number: int) -> None:
    address = parse_address("192.0.2.1:3001")
    refused = aiohttp.ClientConnectorError(None, OSError(number, os.strerror(number)))  # type: ignore[arg-type]
    check(_dial_problem(address, refused), PASSES, "there is no way from here", "one network")


async def answered(address: str, digest: str) -> Welcome | Problem:
    """What a registration is answered with: the dial's own problem, the Bye, or the Welcome."""
    key = NodeKey(os.urandom(32))
    agent = Agent(
        key,
        parse_address(address),
        {digest: EchoEngine(slots=2, n_vocab=100, digest=digest)},
        name="echo",
        clock=SystemClock(),
        on_state=lambda _state: None,
    )
    try:
        carrier = await connect(parse_address(address), key, deadline_s=2.0)
    except Problem as problem:
        return problem
    now_ms = SystemClock().now_ms()
    answer = await register(carrier, agent._card(), parse_address(address).invite, now_ms)
    await carrier.abort()
    if isinstance(answer, Welcome):
        return answer
    return Problem(ProblemCode(answer.code), answer.message, hint=answer.hint)
