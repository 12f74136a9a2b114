"""What the coordinator costs: CPU a request and a token, added latency, memory; echo nodes."""

from __future__ import annotations

import asyncio
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.load import Load, cpu_s, drive, resident_mb
from bench.rows import Row, median, spread
from bench.signing import signing_s
from parhelion.testing.processes import Running, start, start_echo, start_pool

PROMPT_BYTES = 1000
CONCURRENT = 32
SLOTS = 256
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": ("lorem ipsum dolor sit amet " * 40)[:PROMPT_BYTES]}],
    "temperature": 0,
}


ROOMY = {
    "PARHELION_MONEY_FIRST_GRANT_MICRO": str(10**14),
    # One address and one key carry the whole load here.
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_KEY": str(10**7),
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_ADDRESS": str(10**7),
    "PARHELION_LIMITS_BURST": str(10**6),
}
"""What a bench sets that a user does not."""


@contextmanager
def baseline(folder: Path, tokens_per_s: float) -> Iterator[Running]:
    """The bare pass-through proxy before an upstream of that pace."""
    with ExitStack() as stack:
        upstream = start([str(tokens_per_s)], folder / "upstream.log", module="bench.upstream")
        stack.callback(upstream.kill)
        proxy = start([upstream.api], folder / "proxy.log", module="bench.passthrough")
        stack.callback(proxy.kill)
        yield proxy


@contextmanager
def pool(folder: Path, tokens_per_s: float) -> Iterator[Running]:
    """A coordinator with one echo node of that pace."""
    with ExitStack() as stack:
        coordinator = start_pool(folder / "pool", env=ROOMY)
        stack.callback(coordinator.stop)
        where = coordinator.api.removeprefix("http://")
        node = start_echo(folder / "echo", where, tokens_per_s=tokens_per_s, slots=SLOTS)
        stack.callback(node.stop)
        yield coordinator


def load(server: Running, body: dict[str, Any], *, requests: int, concurrent: int) -> Load:
    """One run of load; every request must succeed."""
    seen = asyncio.run(
        drive(server.api, server.key, body, requests=requests, concurrent=concurrent)
    )
    if seen.failed:
        raise RuntimeError(f"{seen.failed} of {requests} requests failed")
    return seen


def spent_s(
    server: Running, body: dict[str, Any], *, requests: int, concurrent: int
) -> tuple[float, float, Load]:
    """CPU seconds of the server's own process, and with its tokeniser host, for one run."""
    own = [server.process.pid]
    children = [child.pid for child in psutil.Process(server.process.pid).children(recursive=True)]
    before, before_all = cpu_s(own), cpu_s(own + children)
    seen = load(server, body, requests=requests, concurrent=concurrent)
    return cpu_s(own) - before, cpu_s(own + children) - before_all, seen


def measure(folder: Path, quick: bool) -> list[Row]:
    """All rows that need no model."""
    rounds = 2 if quick else 5
    rows = _cpu_per_request(folder / "a", rounds)
    rows += _cpu_per_token(folder / "b", rounds)
    rows += _latency(folder / "c", rounds)
    rows += _slow_streams(folder / "d")
    rows += _dead_node(folder / "e")
    return rows


def _cpu_per_request(folder: Path, rounds: int) -> list[Row]:
    folder.mkdir()
    body = {**ASK, "max_tokens": 1}
    requests = 1500
    own: list[float] = []
    whole: list[float] = []
    bare_rate: list[float] = []
    detail = ""
    with baseline(folder, 10_000) as proxy, pool(folder, 10_000) as ours:
        load(ours, body, requests=300, concurrent=CONCURRENT)
        load(proxy, body, requests=300, concurrent=CONCURRENT)
        for _ in range(rounds):
            base_s, _all, seen = spent_s(proxy, body, requests=requests, concurrent=CONCURRENT)
            bare_rate.append(seen.requests_per_s)
            own_s, all_s, mine = spent_s(ours, body, requests=requests, concurrent=CONCURRENT)
            signing = signing_s() * requests
            own.append((own_s - signing) / base_s)
            whole.append(all_s / base_s)
            detail = (
                f"ours {own_s / requests * 1e6:.0f} us (signatures {signing / requests * 1e6:.0f}),"
                f" tokeniser host {(all_s - own_s) / requests * 1e6:.0f} us,"
                f" bare {base_s / requests * 1e6:.0f} us; {mine.requests_per_s:.0f} requests/s"
            )
        memory_mb = resident_mb(ours.process.pid)
    return [
        Row(
            "baseline pass-through, requests/s",
            f"{median(bare_rate):.0f}",
            ">= 1500",
            median(bare_rate) >= 1500,
            spread(bare_rate),
        ),
        Row(
            "coordinator CPU a request, without tokenising and signatures",
            f"{median(own):.2f} x",
            "<= 1.5 x",
            median(own) <= 1.5,
            f"{spread(own)}; {detail}",
        ),
        Row(
            "coordinator CPU a request, with them",
            f"{median(whole):.2f} x",
            "<= 3 x",
            median(whole) <= 3,
            spread(whole),
        ),
        Row(
            "resident memory of the coordinator after that load",
            f"{memory_mb:.0f} MB",
            "<= 120 MB",
            memory_mb <= 120,
        ),
    ]


def _cpu_per_token(folder: Path, rounds: int) -> list[Row]:
    folder.mkdir()
    long = {**ASK, "stream": True, "max_tokens": 201}
    short = {**ASK, "stream": True, "max_tokens": 1}
    requests = 64
    ratios: list[float] = []
    detail = ""
    with baseline(folder, 50) as proxy, pool(folder, 50) as ours:
        load(ours, short, requests=64, concurrent=CONCURRENT)
        for _ in range(rounds):
            cost: list[float] = []
            for server in (proxy, ours):
                one_s, _all, _seen = spent_s(server, short, requests=requests, concurrent=32)
                many_s, _all, seen = spent_s(server, long, requests=requests, concurrent=32)
                cost.append((many_s - one_s) / (seen.tokens - requests))
            ratios.append(cost[1] / cost[0])
            detail = f"ours {cost[1] * 1e6:.0f} us, bare {cost[0] * 1e6:.0f} us a token"
    return [
        Row(
            "coordinator CPU a streamed token",
            f"{median(ratios):.2f} x",
            "<= 1.3 x",
            median(ratios) <= 1.3,
            f"{spread(ratios)}; {detail}",
        )
    ]


def _latency(folder: Path, rounds: int) -> list[Row]:
    folder.mkdir()
    body = {**ASK, "stream": True, "max_tokens": 4}
    rows: list[Row] = []
    with pool(folder, 10_000) as ours:
        load(ours, body, requests=64, concurrent=CONCURRENT)
        for concurrent, target_ms in ((1, 8), (32, 60)):
            waits: list[float] = []
            for _ in range(rounds):
                seen = load(ours, body, requests=concurrent * 10, concurrent=concurrent)
                waits += seen.first_token_s
            middle_ms = median(waits) * 1000
            high_ms = statistics.quantiles(waits, n=20)[-1] * 1000
            rows.append(
                Row(
                    f"added time to first token, {concurrent} concurrent",
                    f"{middle_ms:.1f} ms",
                    f"<= {target_ms} ms",
                    middle_ms <= target_ms,
                    f"median of {len(waits)}; p95 {high_ms:.1f} ms; an echo node's own included",
                )
            )
    return rows


def _slow_streams(folder: Path) -> list[Row]:
    folder.mkdir()
    # From the first token to the end: five more, one a second.
    body = {**ASK, "stream": True, "max_tokens": 6}
    with pool(folder, 1) as ours:
        seen = load(ours, body, requests=100, concurrent=100)
    slowest_s = max(seen.stream_s)
    return [
        Row(
            "100 streams of one token a second for 5 s",
            f"{slowest_s:.2f} s",
            "<= 5.1 s",
            slowest_s <= 5.1,
            f"the slowest; {seen.tokens} tokens",
        )
    ]


def _dead_node(folder: Path) -> list[Row]:
    folder.mkdir()
    rows: list[Row] = []
    with ExitStack() as stack:
        coordinator = start_pool(folder / "pool", env=ROOMY)
        stack.callback(coordinator.stop)
        where = coordinator.api.removeprefix("http://")
        for name, deadline_s in (("closed socket", 0.1), ("silent", 6.0)):
            node = start_echo(folder / name[0], where, tokens_per_s=10, slots=2)
            stack.callback(node.kill)
            _until(coordinator, 200, 5.0)
            psutil.Process(node.process.pid).suspend() if name == "silent" else node.kill()
            gone_s = _until(coordinator, 503, 30.0)
            rows.append(
                Row(
                    f"dead node out of dispatch, {name}",
                    f"{gone_s:.2f} s",
                    f"<= {deadline_s} s",
                    gone_s <= deadline_s,
                )
            )
    return rows


def _until(server: Running, status: int, deadline_s: float) -> float:
    began_s = time.monotonic()
    while time.monotonic() - began_s < deadline_s:
        try:
            with urllib.request.urlopen(f"{server.api}/health", timeout=5) as answer:
                seen = answer.status
        except urllib.error.HTTPError as error:
            seen = error.code
        if seen == status:
            return time.monotonic() - began_s
        time.sleep(0.005)
    raise RuntimeError(f"/health was not {status} within {deadline_s} s")
