"""A load of identical requests, and what the server's processes spent on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import aiohttp
import psutil

from parhelion.testing.processes import Running

T = TypeVar("T")


class Load(NamedTuple):
    """What a run of requests saw: seconds, counts, times to the first token and after it."""

    wall_s: float
    requests: int
    tokens: int
    first_token_s: tuple[float, ...]
    finish_s: tuple[float, ...]
    stream_s: tuple[float, ...]
    failed: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.wall_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s


async def drive(
    api: str, key: str | None, body: dict[str, Any], *, requests: int, concurrent: int
) -> Load:
    """Send `requests` times `body`, `concurrent` at a time; every answer is read to its end."""
    left = iter(range(requests))
    first: list[float] = []
    finish: list[float] = []
    streamed: list[float] = []
    counts = {"tokens": 0, "failed": 0}
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def one(session: aiohttp.ClientSession) -> None:
        started_s = time.perf_counter()
        async with session.post(f"{api}/v1/chat/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                counts["failed"] += 1
                await answer.read()
                return
            if not body.get("stream"):
                await answer.read()
                counts["tokens"] += 1
            else:
                streamed.append(await _read_stream(answer, started_s, first, counts))
        finish.append(time.perf_counter() - started_s)

    async def worker(session: aiohttp.ClientSession) -> None:
        for _ in left:
            await one(session)

    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout
    ) as session:
        began_s = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(concurrent)))
        wall_s = time.perf_counter() - began_s
    return Load(
        wall_s,
        len(finish),
        counts["tokens"],
        tuple(first),
        tuple(finish),
        tuple(streamed),
        counts["failed"],
    )


async def crowd(
    server: Running,
    clients: int,
    ask: Callable[[aiohttp.ClientSession], Awaitable[None]],
    until: Coroutine[Any, Any, T],
) -> T:
    """So many clients that `ask` again and again, each when its answer is there, `until` that is
    over: its result. What a client raises ends it."""
    headers = {"authorization": f"Bearer {server.key}"}
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        server.api, connector=connector, timeout=timeout, headers=headers
    ) as session:

        async def client() -> None:
            while True:
                await ask(session)

        watching = asyncio.create_task(until)
        running = [asyncio.create_task(client()) for _ in range(clients)]
        try:
            await asyncio.wait([watching, *running], return_when=asyncio.FIRST_COMPLETED)
            for one in running:
                if one.done():
                    one.result()
            return watching.result()
        finally:
            for task in (watching, *running):
                task.cancel()
            await asyncio.wait([watching, *running])


async def _read_stream(
    answer: aiohttp.ClientResponse, started_s: float, first: list[float], counts: dict[str, int]
) -> float:
    """Read one stream to its end; the seconds from its first token on."""
    is_first, first_s = True, 0.0
    tail = b""
    async for part in answer.content.iter_any():
        data = tail + part
        # Content deltas are counted, not lines: role, finish and usage chunks carry no token.
        found = data.count(b'"content":"') + data.count(b'"content": "')
        empty = data.count(b'"content":""')
        if found - empty > 0 and is_first:
            first_s = time.perf_counter() - started_s
            first.append(first_s)
            is_first = False
        counts["tokens"] += found - empty
        cut = data.rfind(b"\n\n")
        # Only whole events were counted twice if kept: keep what follows the last one.
        rest = data[cut + 2 :] if cut >= 0 else data
        counts["tokens"] -= rest.count(b'"content":"') + rest.count(b'"content": "')
        tail = rest
    return time.perf_counter() - started_s - first_s


def cpu_s(pids: Sequence[int]) -> float:
    """User and system seconds that these processes have spent so far."""
    spent = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        spent += times.user + times.system
    return spent


def resident_mb(pid: int) -> float:
    """Resident memory of one process in MB (10**6 bytes)."""
    return psutil.Process(pid).memory_info().rss / 1e6
