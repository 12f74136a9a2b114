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

import msgspec

from parhelion.bootstrap.node import run_node
from parhelion.bootstrap.ready import Ready
from parhelion.config import Config
from parhelion.hosts import Child, ChildGone, Pipe, backoff_s
from parhelion.words import ClosedRecord, Problem, ProblemCode

log = logging.getLogger("parhelion.bootstrap")

STEADY_S = 60.0
"""A node that lived so long was not failing at its start: the waits begin anew."""

END_GRACE_S = 10.0
"""What its drain gets after the coordinator has drained: nothing runs any more by then."""


class NodeOrder(ClosedRecord, frozen=True, kw_only=True):
    """What the process is to serve, and to whom; its first and only frame from the parent."""

    config: Config
    address: str
    models: tuple[str, ...]


class NodeWord(ClosedRecord, frozen=True, kw_only=True):
    """What the process says: that it has joined, or why it never will."""

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
        self._child: Child | None = None
        self._gone = asyncio.Event()

    async def keep(self) -> None:
        """Start the process again whenever it ends, with growing waits, until cancelled."""
        failures = 0
        while True:
            started_s = time.monotonic()
            self._gone.clear()
            self._child = await Child.start(
                "node",
                "parhelion.bootstrap",
                [],
                on_frame=self._hear,
                on_exit=self._mourn,
                keep_stderr=False,
            )
            self._child.send(msgspec.json.encode(self._order))
            await self._gone.wait()
            failures = 0 if time.monotonic() - started_s > STEADY_S else failures + 1
            await asyncio.sleep(backoff_s(failures, random.random()))

    async def stop(self) -> None:
        """Let the process drain and end."""
        if self._child is not None and not self._child.ended.is_set():
            await self._child.stop(END_GRACE_S)

    def _hear(self, body: bytes) -> None:
        word = msgspec.json.decode(body, type=NodeWord)
        self.peer = word.joined or self.peer
        if word.code is not None:
            self.refusal = Problem(word.code, word.message, hint=word.hint)

    def _mourn(self, gone: ChildGone) -> None:
        log.warning("the local node ended", extra={"returncode": gone.returncode})
        self._gone.set()


@contextlib.asynccontextmanager
async def local_node_process(order: NodeOrder) -> AsyncIterator[LocalNode]:
    """A node in a process of its own, for as long as the context lasts."""
    node = LocalNode(order)
    keeping = asyncio.create_task(node.keep(), name="local-node")
    try:
        yield node
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        await node.stop()


async def serve_parent(pipe: Pipe) -> int:
    """The process itself: take the order, serve until the pipe closes; the exit status."""
    order = msgspec.json.decode(pipe.read() or b"", type=NodeOrder)
    from parhelion import logs

    logs.set_up(order.config.log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch_parent() -> None:
        while pipe.read() is not None:
            pass
        with contextlib.suppress(RuntimeError):  # The loop has ended before its parent.
            loop.call_soon_threadsafe(stop.set)

    # A daemon thread: it blocks until the parent goes, and must not keep this process alive.
    threading.Thread(target=watch_parent, daemon=True).start()

    def say(word: NodeWord) -> None:
        with contextlib.suppress(BrokenPipeError):  # The parent is gone: `stop` says so.
            pipe.write(msgspec.json.encode(word))

    def joined(ready: Ready) -> None:
        say(NodeWord(joined=ready.node))

    try:
        await run_node(
            order.config, order.address, order.models, name=None, on_ready=joined, stop=stop
        )
    except Problem as problem:
        say(NodeWord(code=problem.code, message=problem.message, hint=problem.hint))
        return 1
    return 0
