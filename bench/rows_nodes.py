"""A thousand and five thousand nodes on one coordinator: what they cost it, and what it still does.

The coordinator is the real process; each node is a real agent with a key, a sealed session and the
usual heartbeats, many of them in each of a few processes (`bench/nodes.py`).
"""

from __future__ import annotations

import asyncio
import resource
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from bench.load import cpu_s, resident_mb
from bench.nodes import NODES_A_SITE
from bench.rows import Row, median
from bench.rows_relay import ASK, ROOMY
from parhelion.testing.processes import Running, start, start_pool

QUICK_SHARE = 5
"""A quick look takes a fifth of the nodes."""

LOAD_PROCESSES = 4
SLOTS = 4
ONE_SLOTS = 64
"""The one node of the comparison holds what the load needs: some 20."""

PACE_PER_S = 50.0
TOKENS = 16
JOIN_DEADLINE_S = 120.0
SETTLE_S = 4.0
"""Two heartbeats: what joining left to do is done."""

WINDOW_S = 6.0
LOAD_S = 10.0
REQUESTS_PER_S = 50
SPARE_FILES = 256
"""Of the coordinator's open files, for its clients and its own."""

QUIET = {**ROOMY, "PARHELION_LOG_LEVEL": "error"}
BODY: dict[str, Any] = {**ASK, "stream": True, "max_tokens": TOKENS}


class Beside(NamedTuple):
    """Under load: the coordinator's share of a core, and seconds to each first token."""

    share: float
    first_s: list[float]


def measure_1000(folder: Path, quick: bool) -> list[Row]:
    """The rows of a thousand nodes."""
    return _measure(folder, 1000, quick)


def measure_5000(folder: Path, quick: bool) -> list[Row]:
    """The rows of five thousand."""
    return _measure(folder, 5000, quick)


def _measure(folder: Path, count: int, quick: bool) -> list[Row]:
    """A pool of one node under the same load stands beside them."""
    with ExitStack() as stack:
        pool, _nodes, _joined_s = _pool(stack, folder / "one", 1, ONE_SLOTS)
        alone = _loaded(pool)
    if quick:
        return _rows(folder / "many", count // QUICK_SHARE, 1, alone)
    return _rows(folder / "many", count, 3, alone)


def affordable(count: int) -> int:
    """How many of them may have a socket each: the coordinator raises its limit to the hard one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return count if hard == resource.RLIM_INFINITY else min(count, hard - SPARE_FILES)


def _rows(folder: Path, wanted: int, windows: int, alone: Beside) -> list[Row]:
    count = affordable(wanted)
    less = "" if count == wanted else f"; of {wanted:,}: more open files are not allowed here"
    with ExitStack() as stack:
        folder.mkdir()
        pool, loads, joined_s = _pool(stack, folder, count, SLOTS)
        pid = pool.process.pid
        spent_s = cpu_s([pid]) - pool.ready["began_cpu_s"]
        time.sleep(SETTLE_S)
        idle = [_share(pid, WINDOW_S) for _ in range(windows)]
        memory_mb = resident_mb(pid)
        each_kb = (memory_mb - pool.ready["began_mb"]) / count * 1000
        listed_s, kept_s, size_mb = _listing(pool)
        busy = _loaded(pool)
        gone_s = _lose(pool, loads[0], count // LOAD_PROCESSES)
        back_s = _restart(stack, folder, pool, count - count // LOAD_PROCESSES)
    named = f"{count:,} nodes{less}"
    beats_per_s = count / 2
    return [
        Row(
            f"{named}: coordinator idle, heartbeats only",
            f"{median(idle):.0%} of a core",
            f"<= {count * 1e-4:.0%} (ours)",
            median(idle) <= count * 1e-4,
            f"{min(idle):.1%} to {max(idle):.1%} over {windows} x {WINDOW_S:g} s;"
            f" {median(idle) / beats_per_s * 1e6:.0f} us a heartbeat, sweeps included",
        ),
        Row(
            f"{named}: coordinator under {REQUESTS_PER_S} requests/s",
            f"{busy.share:.0%} of a core",
            "-",
            None,
            f"with one node {alone.share:.0%}; {TOKENS} streamed tokens a request",
        ),
        Row(
            f"{named}: time to first token under that load",
            f"{median(busy.first_s) * 1000:.1f} ms",
            "-",
            None,
            f"p95 {_p95(busy.first_s) * 1000:.1f} ms; with one node"
            f" {median(alone.first_s) * 1000:.1f}, p95 {_p95(alone.first_s) * 1000:.1f} ms;"
            f" an echo node's step of up to {1000 / PACE_PER_S:.0f} ms included",
        ),
        Row(
            f"{named}: memory a node",
            f"{each_kb:.0f} kB",
            "<= 60 kB (ours)",
            each_kb <= 60,
            f"{pool.ready['began_mb']:.0f} MB without nodes, {memory_mb:.0f} MB with them",
        ),
        Row(
            f"{named}: all ready",
            f"{joined_s:.1f} s",
            "-",
            None,
            f"{count / joined_s:.0f} a second, all at once, {NODES_A_SITE} of an address;"
            f" coordinator CPU {spent_s / count * 1000:.2f} ms a node",
        ),
        Row(
            f"{named}: GET /v1/nodes",
            f"{listed_s * 1000:.0f} ms",
            "-",
            None,
            f"{size_mb:.1f} MB; {kept_s * 1000:.0f} ms where it is half a second old at most",
        ),
        Row(
            f"{named}: a quarter of them killed at once, out of dispatch",
            f"{gone_s:.2f} s",
            "-",
            None,
            "until /health says so; their sockets close",
        ),
        Row(
            f"{named}: the rest back after kill -9 of the coordinator",
            f"{back_s:.1f} s",
            "-",
            None,
            "from the moment at which it takes nodes again, all at once,"
            f" {NODES_A_SITE} of an address",
        ),
    ]


def _pool(
    stack: ExitStack, folder: Path, count: int, slots: int
) -> tuple[Running, list[Running], float]:
    """A coordinator and so many nodes; the seconds until the last one was ready."""
    folder.mkdir(exist_ok=True)
    pool = start_pool(folder / "pool", env=QUIET)
    stack.callback(pool.kill)
    pid = pool.process.pid
    pool.ready["began_mb"], pool.ready["began_cpu_s"] = resident_mb(pid), cpu_s([pid])
    digest = pool.call("GET", "/v1/models")[2]["data"][0]["digest"]
    where = pool.api.removeprefix("http://")
    shares = [count // LOAD_PROCESSES] * LOAD_PROCESSES
    shares[-1] += count - sum(shares)

    def load(number: int) -> Running:
        pace = ["--slots", str(slots), "--tokens-per-s", str(PACE_PER_S)]
        first_site = number * (-(-max(shares) // NODES_A_SITE))
        site = ["--sites", str(first_site)]
        arguments = [where, "--nodes", str(shares[number]), "--digest", digest, *pace, *site]
        log = folder / f"load{number}.log"
        process = start(arguments, log, module="bench.nodes", deadline_s=JOIN_DEADLINE_S)
        stack.callback(process.kill)
        return process

    numbers = [number for number, share in enumerate(shares) if share]
    with ThreadPoolExecutor(LOAD_PROCESSES) as threads:
        loads = list(threads.map(load, numbers))
    return pool, loads, max(one.ready["joined_s"] for one in loads)


def _share(pid: int, window_s: float) -> float:
    began_s, before_s = time.monotonic(), cpu_s([pid])
    time.sleep(window_s)
    return (cpu_s([pid]) - before_s) / (time.monotonic() - began_s)


def _loaded(pool: Running) -> Beside:
    """The coordinator (without its tokeniser host) under so many requests a second."""
    asyncio.run(_ask(pool, REQUESTS_PER_S))
    pid = pool.process.pid
    began_s, before_s = time.monotonic(), cpu_s([pid])
    first_s = asyncio.run(_ask(pool, int(LOAD_S * REQUESTS_PER_S)))
    return Beside((cpu_s([pid]) - before_s) / (time.monotonic() - began_s), first_s)


async def _ask(pool: Running, requests: int) -> list[float]:
    """Requests at fixed moments, however long the answers take; seconds to each first token."""
    headers = {"authorization": f"Bearer {pool.key}"}
    first_s: list[float] = []

    async def one(session: aiohttp.ClientSession) -> None:
        began_s = time.perf_counter()
        url = f"{pool.api}/v1/chat/completions"
        async with session.post(url, json=BODY, headers=headers) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            seen = b""
            async for part in answer.content.iter_any():
                seen += part
                if len(first_s) < requests and b'"content":"' in seen:
                    first_s.append(time.perf_counter() - began_s)
                    break
            await answer.read()

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        running: list[asyncio.Task[None]] = []
        for _ in range(requests):
            running.append(asyncio.create_task(one(session)))
            due_s += 1 / REQUESTS_PER_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        await asyncio.gather(*running)
    return first_s


def _listing(pool: Running) -> tuple[float, float, float]:
    """Seconds for the list of all nodes, made for this request and kept; its size in MB."""
    made: list[float] = []
    kept: list[float] = []
    size = 0
    for _ in range(5):
        time.sleep(0.6)
        for seen in (made, kept):
            began_s = time.perf_counter()
            with urllib.request.urlopen(f"{pool.api}/v1/nodes", timeout=30) as answer:
                size = len(answer.read())
            seen.append(time.perf_counter() - began_s)
    return median(made), median(kept), size / 1e6


def _lose(pool: Running, load: Running, nodes: int) -> float:
    """Kill one load process; the seconds until none of its nodes counts as ready."""
    ready = _ready(pool)
    began_s = time.monotonic()
    load.kill()
    _until(pool, lambda now: now <= ready - nodes)
    return time.monotonic() - began_s


def _restart(stack: ExitStack, folder: Path, pool: Running, nodes: int) -> float:
    """Kill the coordinator and start it again on its port; the seconds until so many are back."""
    pool.kill()
    time.sleep(1.0)
    again = start_pool(folder / "pool", "--api-port", pool.api.rpartition(":")[2], env=QUIET)
    stack.callback(again.kill)
    began_s = time.monotonic()
    _until(again, lambda now: now >= nodes)
    return time.monotonic() - began_s


def _ready(pool: Running) -> int:
    return int(pool.call("GET", "/health")[2]["nodes"])


def _until(pool: Running, enough: Any, deadline_s: float = 60.0) -> None:
    began_s = time.monotonic()
    while not enough(_ready(pool)):
        if time.monotonic() - began_s > deadline_s:
            raise RuntimeError(f"{_ready(pool)} nodes are ready after {deadline_s:g} s")
        time.sleep(0.02)


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]
