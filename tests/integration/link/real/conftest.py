"""A paid coordinator's process, a bystander that must notice nothing, and those who do harm."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from parhelion.identity import NodeKey
from parhelion.link import SUBPROTOCOL, Register
from parhelion.link.handshake import NodeHandshake
from parhelion.link.seal import Seal
from parhelion.testing.echo import Trail
from parhelion.testing.processes import UNTIMED, Running, start, start_pool
from parhelion.words import NodeCard, ServedModel

TWIN = "tests/twin"
"""The second model, which only nodes that come to harm serve: no other prompt goes to them."""

ECHO_NODE = "parhelion.testing.echo_node"
SILENT = frozenset(range(17))
"""Ids that an echo node never says, unless told otherwise."""

PACE_PER_S = 25
STREAM_TOKENS = 8000
"""Over five minutes of the bystander's stream: longer than these tests take."""

GAP_LIMIT_S = 1.0
"""Between two pieces of a stream at 25 a second, on a machine with other things to do."""

PROMPT_LIMIT_S = 3.0
SEED = 11


class Log:
    """The JSON lines of a process's log, from this byte on."""

    def __init__(self, path: Path, first_byte: int = 0) -> None:
        self._path = path
        self._from = first_byte

    def lines(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self._from)
            return [json.loads(line) for line in file if line.startswith(b"{")]

    def until(self, deadline_s: float = 10.0, **wanted: str) -> dict[str, Any]:
        """The first line whose fields hold these texts; AssertionError when none comes."""
        end_s = time.monotonic() + deadline_s
        while time.monotonic() < end_s:
            for line in self.lines():
                if all(text in str(line.get(name)) for name, text in wanted.items()):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line with {wanted} in {self.lines()}")


def until(condition: Callable[[], Any], what: str, deadline_s: float = 10.0) -> None:
    """Wait for something that other processes do."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.02)


class Paid:
    """The coordinator's process and what tests ask it for."""

    def __init__(self, pool: Running, data: Path) -> None:
        self.pool = pool
        self.data = data
        self.address = pool.api.removeprefix("http://")
        self.port = int(self.address.rpartition(":")[2])
        self.nodes: list[Running] = []
        self.bystander = ""
        self.digests = {m["id"]: m["digest"] for m in pool.call("GET", "/v1/models")[2]["data"]}

    @property
    def admin_key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    def log(self) -> Log:
        """What the coordinator says from now on."""
        return Log(self.pool.log, self.pool.log.stat().st_size)

    def log_of(self, node: Running) -> Log:
        """All that a node's process said."""
        return Log(node.log)

    def add_twin(self, smollm2: Path) -> None:
        """The same model with another digest: a byte behind its end."""
        path = self.data / "twin.gguf"
        shutil.copy(smollm2, path)
        with path.open("ab") as file:
            file.write(b"\0")
        body = {"id": TWIN, "path": str(path)}
        status, _headers, made = self.pool.call("POST", "/v1/models", body, key=self.admin_key)
        assert status == 201, made
        self.digests[TWIN] = made["digest"]

    def arguments(self, data: Path, *more: str, address: str = "", model: str = "") -> list[str]:
        """An echo node's command line; without a model it serves the pool's first."""
        data.mkdir(parents=True, exist_ok=True)
        digest = self.digests[model] if model else next(iter(self.digests.values()))
        named = ["-s", address or self.address, "--digest", digest, "--data", str(data)]
        return [*named, "--tokens-per-s", str(PACE_PER_S), *more]

    def node(self, data: Path, *more: str, address: str = "", model: str = "") -> Running:
        """A joined echo node's process."""
        arguments = self.arguments(data, *more, address=address, model=model)
        self.nodes.append(start(arguments, data / "test.log", module=ECHO_NODE, deadline_s=20))
        return self.nodes[-1]

    def refused_node(self, data: Path, *more: str, address: str = "", model: str = "") -> str:
        """A node's process that must be refused: what it says on standard error."""
        arguments = self.arguments(data, *more, address=address, model=model)
        command = [sys.executable, "-m", ECHO_NODE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and done.stdout == "", done.stderr
        return done.stderr

    def nodes_now(self) -> dict[str, int]:
        """When each connected node's session began, by peer id."""
        return {node["peer"]: node["connected_at_ms"] for node in self._connected()}

    def states(self) -> dict[str, str]:
        """Each connected node's state, by peer id."""
        return {node["peer"]: node["state"] for node in self._connected()}

    def _connected(self) -> list[dict[str, Any]]:
        """Without those that are only remembered: gone or refused a while ago."""
        nodes = self.pool.call("GET", "/v1/nodes")[2]["data"]
        return [node for node in nodes if node["left_at_ms"] is None]

    def until_ready(self, peer: str, deadline_s: float = 30.0) -> None:
        """Wait until this node takes work."""
        until(lambda: self.states().get(peer) == "ready", f"{peer} does not come", deadline_s)

    def answers(self, model: str | None = None) -> None:
        """A normal prompt is answered as if nothing were the matter."""
        began_s = time.monotonic()
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        status, _headers, answer = self.pool.call(
            "POST", "/v1/chat/completions", {**body, **({"model": model} if model else {})}
        )
        assert status == 200, answer
        assert answer["usage"]["completion_tokens"] == 4
        assert time.monotonic() - began_s < PROMPT_LIMIT_S

    def say(self, max_tokens: int, model: str | None = None) -> Stream:
        """A streamed prompt, read in a thread of its own."""
        return Stream(self.pool, max_tokens, model)

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        was_dead = self.pool.process.poll() is not None
        assert self.pool.stop() == 0 or was_dead


class Stream:
    """One streamed answer: its text, when its pieces came, and how it ended."""

    def __init__(self, pool: Running, max_tokens: int, model: str | None) -> None:
        self.text = ""
        self.times: list[float] = []
        self.finish: str | None = None
        self.error: dict[str, Any] | None = None
        self.usage: dict[str, Any] = {}
        self.is_whole = False
        self._leave = False
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "Tell me a secret."}],
            "max_tokens": max_tokens,
            "seed": SEED,
        }
        if model is not None:
            body["model"] = model
        self._events = pool.stream("/v1/chat/completions", body)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: self.times, "the stream did not begin")

    def _read(self) -> None:
        for event in self._events:
            if self._leave:
                self._events.close()
                return
            if event == "[DONE]":
                self.is_whole = True
                continue
            self.error = event.get("error", self.error)
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices", ()):
                self.text += choice["delta"].get("content") or ""
                self.finish = choice.get("finish_reason") or self.finish
            self.times.append(time.monotonic())

    def ended(self, deadline_s: float = 20.0) -> None:
        """Wait for the end, whichever."""
        self._thread.join(deadline_s)
        assert not self._thread.is_alive(), "the stream goes on"

    def leave(self) -> None:
        """Hang up."""
        self._leave = True
        self.ended()

    def gaps_since(self, since_s: float) -> float:
        """The longest silence since then, the one that lasts included."""
        times = [since_s, *(t for t in self.times if t > since_s), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.fixture(scope="module")
def echoed(tongue: Any) -> Callable[[int], str]:
    """What so many tokens of a `Stream` must say: one that is lost, doubled or changed alters all
    that follow."""

    def text(tokens: int) -> str:
        trail, shown = Trail(tongue.prompt_ids, SEED, len(tongue.pieces), SILENT), b""
        for _ in range(tokens):
            id = trail.next()
            trail.add(id)
            shown += tongue.pieces[id]
        return shown.decode("utf-8", "replace")

    return text


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Paid]:
    """One pool for all tests of a module; it knows a second model."""
    data = tmp_path_factory.mktemp("paid") / "data"
    made = Paid(start_pool(data, env=UNTIMED), data)
    made.add_twin(smollm2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def bystander(
    paid: Paid, echoed: Callable[[int], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stream]:
    """A node of its own and its one long stream; at the end it was the right text all along."""
    node = paid.node(tmp_path_factory.mktemp("bystander") / "data")
    paid.bystander = node.ready["peer"]
    stream = paid.say(STREAM_TOKENS)
    yield stream
    stream.leave()
    assert stream.error is None and len(stream.times) < STREAM_TOKENS
    assert stream.text and echoed(STREAM_TOKENS).startswith(stream.text)
    assert node.stop() == 0


@pytest.fixture
def unnoticed(paid: Paid, bystander: Stream) -> Iterator[None]:
    """Whatever the test does: the bystander's stream flows on, and a prompt is answered."""
    began_s, before = time.monotonic(), len(bystander.times)
    yield
    paid.answers()
    assert bystander.error is None and not bystander.is_whole
    assert bystander.gaps_since(began_s) < GAP_LIMIT_S
    assert len(bystander.times) - before > 2


class Stranger:
    """A WebSocket to /v1/node that says what it likes."""

    def __init__(self, paid: Paid, key: NodeKey | None = None) -> None:
        self.key = key or NodeKey(os.urandom(32))
        self._digest = paid.digests[TWIN]
        self.ws = connect(
            f"ws://{paid.address}/v1/node",
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            compression=None,
            proxy=None,
            max_size=None,
            ping_interval=None,
            close_timeout=2,
        )
        self.seal: Seal | None = None

    def hand(self) -> NodeHandshake:
        """A fresh handshake with this key."""
        return NodeHandshake(self.key)

    def shake_hands(self) -> Stranger:
        """Prove the key, as a node does."""
        hand = self.hand()
        self.ws.send(hand.opening())
        self.ws.send(hand.feed(bytes(self.ws.recv(5))))
        self.seal = hand.seal
        return self

    def register(self) -> Stranger:
        """Join with the twin; from now on it is a node of the pool."""
        self.shake_hands().say(Register(card=self.card))
        assert b"welcome" in self.hear()
        return self

    @property
    def card(self) -> NodeCard:
        """A sane one."""
        return NodeCard(
            peer=self.key.peer,
            name="stranger",
            version="0",
            device="none",
            backend="none",
            slots=1,
            kv_tokens=8192,
            models=(ServedModel(digest=self._digest, context=8192),),
        )

    def say(self, message: Any) -> None:
        """One sealed frame with one message."""
        assert self.seal is not None
        self.ws.send(self.seal.seal(msgspec.msgpack.encode([message])))

    def hear(self) -> bytes:
        """The body of the next sealed frame."""
        assert self.seal is not None
        return self.seal.unseal(bytes(self.ws.recv(10)))[0]

    def hear_after_alive(self) -> bytes:
        """The next frame that is not only the answer to a heartbeat."""
        while True:
            heard = self.hear()
            if heard != msgspec.msgpack.encode([{"t": "alive"}]):
                return heard

    def closing(self, deadline_s: float = 10.0) -> tuple[int, str]:
        """Read on until the coordinator closes: its code and its reason."""
        end_s = time.monotonic() + deadline_s
        try:
            while True:
                self.ws.recv(max(0.01, end_s - time.monotonic()))
        except ConnectionClosed as closed:
            received = closed.rcvd
            return (received.code, received.reason) if received else (0, "")


@pytest.fixture
def stranger(paid: Paid) -> Iterator[Callable[..., Stranger]]:
    """Makes strangers, and hangs up on them at the end."""
    made: list[Stranger] = []

    def make(key: NodeKey | None = None) -> Stranger:
        made.append(Stranger(paid, key))
        return made[-1]

    yield make
    for one in made:
        one.ws.socket.close()


class Relay:
    """A man in the middle on a port of his own: he passes on every byte between a node and the
    coordinator, keeps the node's frames, and alters one byte of one frame when he is told to."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.alter: str | None = None
        self.altered: list[int] = []
        self.frames: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def address(self, peer: str) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{peer}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._meet, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _meet(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, on = await asyncio.open_connection("127.0.0.1", self._to)
        ways = [
            asyncio.create_task(self._pass(near, on, "node")),
            asyncio.create_task(self._pass(far, back, "coordinator")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            # What one side said last may still be on its way to the other.
            await asyncio.wait(ways, timeout=1)
        finally:
            for way in ways:
                way.cancel()
            on.close()
            back.close()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, side: str
    ) -> None:
        try:
            sink.write(await source.readuntil(b"\r\n\r\n"))
            while True:
                sink.write(await self._frame(source, side))
                await sink.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            sink.close()

    async def _frame(self, source: asyncio.StreamReader, side: str) -> bytes:
        """One WebSocket frame as it came, but for the byte that is altered."""
        head = await source.readexactly(2)
        size = head[1] & 0x7F
        if size >= 126:
            more = await source.readexactly(2 if size == 126 else 8)
            head, size = head + more, int.from_bytes(more, "big")
        mask = await source.readexactly(4) if head[1] & 0x80 else b""
        body = bytearray(await source.readexactly(size))
        if head[0] & 0x0F == 2:
            if side == "node":
                self.frames.append(bytes(b ^ mask[n % 4] for n, b in enumerate(body)))
            if self.alter == side:
                self.alter = None
                self.altered.append(size)
                body[size // 2] ^= 1
        return head + mask + bytes(body)


@pytest.fixture
def relay(paid: Paid) -> Iterator[Relay]:
    made = Relay(paid.port)
    yield made
    made.close()
