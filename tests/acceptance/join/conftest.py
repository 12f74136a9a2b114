"""Two pools (invites; a certificate), a CONNECT proxy, and commands as a person runs them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parhelion.testing.certificates import Authority
from parhelion.testing.processes import Running, start_pool

COMMAND_DEADLINE_S = 60.0

QUIET = {"PARHELION_LOG_LEVEL": "warning"}

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def lan() -> dict[str, str]:
    """Settings that keep announcing and looking on this machine."""
    return {"PARHELION_LAN_ANNOUNCE": "always", "PARHELION_LAN_INTERFACES": "127.0.0.1"}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates, and is not installed")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def pair(authority: Authority) -> tuple[Path, Path]:
    """Good for pool.test, which no resolver knows, and for this machine by name only."""
    return authority.sign("pool", ["DNS:pool.test", "DNS:localhost"])


@pytest.fixture(scope="session")
def plain_pool(
    tmp_path_factory: pytest.TempPathFactory, lan: dict[str, str], smollm2: Path
) -> Iterator[Running]:
    env = {**lan, "PARHELION_NODES_ADMIT": "invite"}
    pool = start_pool(tmp_path_factory.mktemp("plain"), env=env)
    yield pool
    assert pool.stop() == 0


@pytest.fixture(scope="session")
def tls_pool(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path], smollm2: Path
) -> Iterator[Running]:
    files = {"PARHELION_API_TLS_CERT": str(pair[0]), "PARHELION_API_TLS_KEY": str(pair[1])}
    # Who comes through a proxy would need an invite.
    env = {**files, "PARHELION_NODES_ADMIT": "open"}
    pool = start_pool(tmp_path_factory.mktemp("tls"), env=env)
    yield pool
    assert pool.stop() == 0


@pytest.fixture(scope="session")
def invite(plain_pool: Running) -> str:
    """An invite of the plain pool that works a thousand times."""
    return str(plain_pool.ready["join"]).partition("#")[2]


@pytest.fixture(scope="session")
def digest(plain_pool: Running) -> str:
    """The pool's model, so that an echo node need not ask for it."""
    return str(plain_pool.call("GET", "/v1/models")[2]["data"][0]["digest"])


@pytest.fixture
def parhelion() -> Command:
    """Run one command line of ours to its end."""

    def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "parhelion", *words],
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **QUIET, **(env or {})},
        )

    return run


class ConnectProxy:
    """An HTTP proxy that knows CONNECT only, in a thread; every name leads to this machine."""

    def __init__(self, password: str = "") -> None:
        self.asked: list[str] = []
        self.port = 0
        self._password = password
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        user = f"me:{self._password}@" if self._password else ""
        return f"http://{user}127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(5)
        self.port = server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split("\r\n")[0])
        found = re.match(r"CONNECT [^ ]+:(\d+) HTTP/1\.1\r\n", head)
        if found is None or (self._password and "Proxy-Authorization: Basic" not in head):
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    running = ConnectProxy(password="secret")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
