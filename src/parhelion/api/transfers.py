"""Bytes of a slice on their way to one reader: bounded in number, in memory and in patience."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from litestar.types import Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.ranges import Span
from parhelion.api.stream import SLOW_READER_S
from parhelion.api.watch import Watch
from parhelion.api.wire import HEAD, NO_STORE, ClientLeft, Header, visit_of
from parhelion.models import OffLoop, Slice, SliceCard
from parhelion.words import Problem, ProblemCode

log = logging.getLogger("parhelion.api")

TRANSFERS_LIMIT = 8
"""At once in all: more do not finish sooner over one uplink, and each holds a chunk and a thread's
turn at the disk."""

TRANSFERS_A_TOKEN = 2
"""A node that resumes may come before we know that its first connection is dead."""

CHUNK_BYTES = 256 * 1024
"""What a transfer holds in memory; its reader must take so much in SLOW_READER_S."""

DISK_THREADS = 4
"""Apart from the threads that everything else shares: a slow disk holds up transfers only."""

RETRY_AFTER_S = 5


class Transfers:
    """Counts the transfers that run, and reads the disk for them."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.threads = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="transfer")

    @contextlib.contextmanager
    def one_more(self, reader: str) -> Iterator[None]:
        """While entered one more runs for `reader`; Problem RATE_LIMITED or OVERLOADED."""
        if self.running[reader] >= TRANSFERS_A_TOKEN:
            raise Problem(
                ProblemCode.RATE_LIMITED,
                f"{TRANSFERS_A_TOKEN} transfers run with this token already.",
                hint="end one of them, or wait for it",
                retry_after_s=RETRY_AFTER_S,
            )
        if self.running.total() >= TRANSFERS_LIMIT:
            raise Problem(
                ProblemCode.OVERLOADED,
                f"{TRANSFERS_LIMIT} transfers run already.",
                hint="try again after Retry-After",
                retry_after_s=RETRY_AFTER_S,
            )
        self.running[reader] += 1
        try:
            yield
        finally:
            self.running[reader] -= 1
            if not self.running[reader]:
                del self.running[reader]


class Transfer:
    """An ASGI app: the bytes of `span`, or all, until its reader has them or leaves."""

    def __init__(self, transfers: Transfers, reader: str, slice: Slice, span: Span | None) -> None:
        self._transfers = transfers
        self._reader = reader
        self._slice = slice
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and bytes; one that cannot go on is cut, so that its length tells."""
        span = self._span or Span(0, self._slice.card.size_bytes)
        started = False
        chunks = _Chunks(self._slice, span, self._transfers.threads)
        try:
            if scope.get(HEAD):
                await send(self._start(span))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            with self._transfers.one_more(self._reader):
                # Before the head: what the disk says at once is an ordinary error.
                chunk = await chunks.next()
                started = True
                async with Watch(receive) as watch:
                    async with asyncio.timeout(SLOW_READER_S):
                        await send(self._start(span))
                    await _send_all(chunk, chunks, span, send, watch)
        except (ClientLeft, TimeoutError):
            return
        except Exception as error:  # noqa: BLE001 - problem_of logs what it does not know
            problem = errors.problem_of(error, visit_of(scope).request)
            if started:
                log.warning("a transfer was cut", extra={"why": problem.message})
                return
            await errors.reply(problem).write(send, ())
        finally:
            chunks.close()

    def _start(self, span: Span) -> Any:
        headers: list[Header] = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % (span.end - span.start)),
            (b"accept-ranges", b"bytes"),
            (b"etag", etag_of(self._slice.card)),
            NO_STORE,
        ]
        if self._span is not None:
            size_bytes = self._slice.card.size_bytes
            said = b"bytes %d-%d/%d" % (span.start, span.end - 1, size_bytes)
            headers.append((b"content-range", said))
        status = 200 if self._span is None else 206
        return {"type": "http.response.start", "status": status, "headers": headers}


def etag_of(card: SliceCard) -> bytes:
    """A strong one: the same text is the same bytes, whoever serves them."""
    return b'"%s"' % card.sha256.encode("ascii")


async def _send_all(chunk: bytes, chunks: _Chunks, span: Span, send: Send, watch: Watch) -> None:
    left_bytes = span.end - span.start
    while True:
        left_bytes -= len(chunk)
        if not chunk or left_bytes < 0:
            raise RuntimeError("a layout gives fewer or more bytes than it has")
        body: Any = {"type": "http.response.body", "body": chunk, "more_body": left_bytes > 0}
        async with asyncio.timeout(SLOW_READER_S):
            await send(body)
        if not left_bytes:
            return
        watch.check()
        chunk = await chunks.next()


class _Chunks:
    """One chunk after another, each read in a thread."""

    def __init__(self, slice: Slice, span: Span, threads: ThreadPoolExecutor) -> None:
        self._slice = slice
        self._span = span
        self._thread = OffLoop(threads)
        self._bytes: Iterator[bytes] | None = None

    async def next(self) -> bytes:
        """The next chunk; empty at the end."""
        return await self._thread.do(self._read)

    def close(self) -> None:
        """Let go of the file, once no thread reads it."""
        self._thread.end(self._end)

    def _read(self) -> bytes:
        if self._bytes is None:
            self._bytes = self._slice.read(self._span.start, self._span.end, CHUNK_BYTES)
        return next(self._bytes, b"")

    def _end(self) -> None:
        if isinstance(self._bytes, Generator):
            self._bytes.close()
        self._bytes = None
