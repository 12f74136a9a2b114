"""The node beside its coordinator: a process of its own, kept running, ended with its parent.

Inside, that process reads its order from the pipe to its parent, serves as any other node would,
and drains when the pipe closes, so that no kill leaves a node behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from parhelion.bootstrap.node import run_node
from parhelion.bootstrap.ready import Ready
from parhelion.config import Config
from parhelion.hosts import (
    PING_EVERY_S,
    SILENCE_LIMIT_S,
    Child,
    ChildGone,
    Pipe,
    Pulse,
    backoff_s,
)
from parhelion.words import ClosedRecord, Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.link import Address

log = logging.getLogger("parhelion.bootstrap")

STEADY_S = 60.0
"""A node that lived so long was not failing at its start: the waits begin anew."""

END_GRACE_S = 10.0
"""What its drain gets after the coordinator has drained: nothing runs any more by then."""


JOIN_SILENCE_LIMIT_S = 15 * 60.0
"""Until it has joined it loads and hashes models, and may answer no ping for as long as that takes
on a slow disk; whose event loop answers nothing for so long never will."""

PING = b""
"""What the parent sends after the order; answered by an empty word."""


class NodeOrder(ClosedRecord, frozen=True, kw_only=True):
    """What the process is to serve; its first frame from the parent."""

    config: Config
    models: tuple[str, ...]


class NodeAddress(ClosedRecord, frozen=True, kw_only=True):
    """Whom it is to serve; its second and last frame, as soon as the port is known."""

    address: str
    certificate: str | None = None
    """The coordinator's TLS certificate, where it has one: the node takes exactly that."""


class NodeWord(ClosedRecord, frozen=True, kw_only=True):
    """What the process says: that it has joined, or why it never will; empty: that it lives."""

    joined: str | None = None
    code: ProblemCode | None = None
    message: str = ""
    hint: str = ""


class LocalNode:
    """The node process as its parent sees it: `peer` once it has joined, `refusal` if it cannot."""

    def __init__(self, order: NodeOrder) -> None:
        self.peer: str | None = None
        self.refusal: Problem | None = None
        self._order = order
        self._address: NodeAddress | None = None
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._gone = asyncio.Event()
        self._pulse = Pulse()
        self._has_joined = False
        self._stopping = False

    async def start(self) -> None:
        """Start the process, and keep it running until `stop`; returns when it was first tried."""
        self._keeping = asyncio.create_task(self.keep(), name="local-node")
        await self._tried.wait()

    def send_to(self, address: str, certificate: str | None = None) -> None:
        """Tell the process, and each that follows it, which coordinator to join."""
        self._address = NodeAddress(address=address, certificate=certificate)
        if self._child is not None:
            # One that has just ended is started again, and told then.
            with contextlib.suppress(ChildGone):
                self._child.send(msgspec.json.encode(self._address))

    async def keep(self) -> None:
        """Start the process again whenever it ends, with growing waits, until cancelled."""
        failures = 0
        while True:
            started_s = time.monotonic()
            try:
                await self._run_once()
            except Exception:
                # Whatever it is, the next try may do better, and nobody else would make one.
                log.exception("the local node cannot be started")
                if self._child is not None:
                    self._child.kill()
            self._tried.set()
            failures = 0 if time.monotonic() - started_s > STEADY_S else failures + 1
            await asyncio.sleep(backoff_s(failures, random.random()))

    async def _run_once(self) -> None:
        self._gone.clear()
        self._has_joined, self._pulse = False, Pulse()
        self._child = None
        self._child = await Child.start(
            "node",
            "parhelion.bootstrap",
            [],
            on_frame=self._hear,
            on_exit=self._mourn,
            keep_stderr=False,
        )
        self._child.send(msgspec.json.encode(self._order))
        if self._address is not None:
            self._child.send(msgspec.json.encode(self._address))
        self._tried.set()
        while not self._gone.is_set():
            self._look(self._child, time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_EVERY_S):
                    await self._gone.wait()

    def _look(self, child: Child, now_s: float) -> None:
        """End a process that stands still: the coordinator drops its node, but starts no other."""
        limit_s = SILENCE_LIMIT_S if self._has_joined else JOIN_SILENCE_LIMIT_S
        need = self._pulse.look(now_s, True, limit_s)
        if need == "dead":
            # Once is enough: its end follows.
            self._has_joined, self._pulse = False, Pulse()
            log.warning("the local node stands still, and is started again")
            child.kill()
        elif need == "ask":
            with contextlib.suppress(ChildGone):  # Its exit is on the way here.
                child.send(PING)

    async def stop(self) -> None:
        """Let the process drain and end; idempotent."""
        self._stopping = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        if self._child is not None and not self._child.ended.is_set():
            await self._child.stop(END_GRACE_S)

    def _hear(self, body: bytes) -> None:
        word = msgspec.json.decode(body, type=NodeWord)
        self._pulse.heard()
        self._has_joined = self._has_joined or word.joined is not None
        self.peer = word.joined or self.peer
        if word.code is not None:
            self.refusal = Problem(word.code, word.message, hint=word.hint)

    def _mourn(self, gone: ChildGone) -> None:
        level = logging.INFO if self._stopping else logging.WARNING
        log.log(level, "the local node ended", extra={"returncode": gone.returncode})
        self._gone.set()


@contextlib.asynccontextmanager
async def local_node_process(order: NodeOrder) -> AsyncIterator[LocalNode]:
    """A node in a process of its own, for as long as the context lasts; it was told its order."""
    node = LocalNode(order)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


async def serve_parent(pipe: Pipe) -> int:
    """The process itself: take the order, serve until the pipe closes; the exit status."""
    first = pipe.read()
    if first is None:
        return 0  # The parent has gone before it said anything.
    order = msgspec.json.decode(first, type=NodeOrder)
    from parhelion import logs

    logs.set_up(order.config.log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    address: asyncio.Future[Address] = loop.create_future()

    def told(where: NodeAddress) -> None:
        if not address.done():
            from parhelion.link import parse_address

            parsed = parse_address(where.address)
            address.set_result(msgspec.structs.replace(parsed, certificate=where.certificate))

    def say(word: NodeWord) -> None:
        with contextlib.suppress(BrokenPipeError):  # The parent is gone: `stop` says so.
            pipe.write(msgspec.json.encode(word))

    def watch_parent() -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended before its parent.
            while (body := pipe.read()) is not None:
                if body == PING:
                    # Answered by the loop: that is what must not stand still.
                    loop.call_soon_threadsafe(say, NodeWord())
                    continue
                where = msgspec.json.decode(body, type=NodeAddress)
                loop.call_soon_threadsafe(told, where)
            loop.call_soon_threadsafe(stop.set)

    # A daemon thread: it blocks until the parent goes, and must not keep this process alive.
    threading.Thread(target=watch_parent, daemon=True).start()

    def joined(ready: Ready) -> None:
        say(NodeWord(joined=ready.node))

    try:
        await run_node(order.config, address, order.models, name=None, on_ready=joined, stop=stop)
    except Problem as problem:
        say(NodeWord(code=problem.code, message=problem.message, hint=problem.hint))
        return 1
    return 0
