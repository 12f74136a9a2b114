"""What more nodes bring, and what one account's crowd costs another: echo nodes of a fixed rate."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

from bench import fairness
from bench.load import crowd
from bench.rows import Row, median, spread
from bench.rows_relay import ROOMY
from parhelion.testing.processes import Running, start_echo, start_pool

NODES = (1, 2, 4)
SLOTS = 8
PACE_PER_S = 25.0
WARM_S = 3.0
"""One request's time: from then on all slots are taken and given on."""

WINDOW_S = 6.0
BODY: dict[str, Any] = {"prompt": "hello", "max_tokens": 64, "stream": True}
APART = 0.05
"""How far from 1:2:4 is still 1:2:4."""

CROWD = 500
CROWD_PACE_PER_S = 50.0
SERVICE_S = fairness.BODY["max_tokens"] / CROWD_PACE_PER_S


def measure_throughput(folder: Path, quick: bool) -> list[Row]:
    """Tokens a second with 1, 2 and 4 nodes; twice as many clients as slots ask again and again."""
    windows = 1 if quick else 3
    rates: dict[int, float] = {}
    detail: list[str] = []
    with ExitStack() as stack:
        pool = start_pool(folder / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")
        for count in NODES:
            for number in range(len(rates) and count // 2, count):
                data = folder / f"node{number}"
                node = start_echo(data, where, tokens_per_s=PACE_PER_S, slots=SLOTS)
                stack.callback(node.kill)
            seen = asyncio.run(_tokens_per_s(pool, 2 * SLOTS * count, windows))
            rates[count] = median(seen)
            full = count * SLOTS * PACE_PER_S
            detail.append(f"{count}: {rates[count] / full:.1%} of {full:.0f}")
    apart = max(abs(rates[count] / rates[1] / count - 1) for count in NODES)
    return [
        Row(
            "tokens/s with 1 / 2 / 4 nodes of fixed rate, clients twice the slots",
            " / ".join(f"{rate:.0f}" for rate in rates.values()),
            f"1:2:4 within {APART:.0%} (ours)",
            apart <= APART,
            f"1 : {rates[2] / rates[1]:.2f} : {rates[4] / rates[1]:.2f};"
            f" of what the nodes make at most {', '.join(detail)}",
        )
    ]


async def _tokens_per_s(pool: Running, clients: int, windows: int) -> list[float]:
    """Tokens a second in each window, while so many clients ask again and again."""
    tokens = 0

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal tokens
        async with session.post("/v1/completions", json=BODY) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            async for line in answer.content:
                tokens += line.startswith(b"data: {") and b'"text":""' not in line

    async def watch() -> list[float]:
        await asyncio.sleep(WARM_S)
        rates: list[float] = []
        for _ in range(windows):
            began_s, before = time.perf_counter(), tokens
            await asyncio.sleep(WINDOW_S)
            rates.append((tokens - before) / (time.perf_counter() - began_s))
        return rates

    return await crowd(pool, clients, ask, watch())


def measure_fairness(folder: Path, quick: bool) -> list[Row]:
    """One account's one request behind another's five hundred."""
    rounds = 1 if quick else 3
    with ExitStack() as stack:
        pool = start_pool(folder / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")
        node = start_echo(folder / "node", where, tokens_per_s=CROWD_PACE_PER_S, slots=SLOTS)
        stack.callback(node.kill)
        admin = (folder / "pool" / "admin.key").read_text().strip()
        greedy, modest = (fairness.key_of(pool, admin, name) for name in ("greedy", "modest"))
        seen = [
            asyncio.run(fairness.measure(pool.api, greedy, modest, CROWD)) for _ in range(rounds)
        ]
    behind_s = [one.behind_s for one in seen]
    limit_s = 2 * SERVICE_S + median([one.alone_s for one in seen])
    return [
        Row(
            f"one account's request behind another's {CROWD}",
            f"{median(behind_s):.2f} s",
            f"<= {limit_s:.2f} s (ours)",
            median(behind_s) <= limit_s,
            f"{spread(behind_s)}; alone {median([one.alone_s for one in seen]):.2f} s, the crowd"
            f" {median([one.crowd_s for one in seen]):.1f} s, refused"
            f" {sum(one.refused for one in seen)}; one node of {SLOTS} slots, {SERVICE_S:g} s each",
        )
    ]
