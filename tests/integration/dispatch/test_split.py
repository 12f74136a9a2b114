"""Real nodes of speed 1:2:4, never told to anyone, get their share of the work by measurement."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

from parhelion.testing.processes import Running, start_echo, start_pool

SLOTS = 4
SPEEDS = (20.0, 40.0, 80.0)
CLIENTS = 3 * SLOTS * len(SPEEDS)
MAX_TOKENS = 10
WARM_UP_S, RUN_S = 1.0, 4.0
ROOMY = {
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_KEY": "1000000",
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_ADDRESS": "1000000",
    "PARHELION_LIMITS_BURST": "100000",
}


async def load(pool: Running) -> Counter[str]:
    """Ids by the peer that made them, after the warm-up, of clients that ask again and again."""
    ids: Counter[str] = Counter()
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": MAX_TOKENS}
    began_s = time.monotonic()

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < began_s + WARM_UP_S + RUN_S:
            is_counted = time.monotonic() > began_s + WARM_UP_S
            async with session.post("/v1/chat/completions", json=body) as answer:
                told = await answer.json()
                assert answer.status == 200, told
            if is_counted:
                (peer,) = told["usage"]["nodes"]
                ids[peer] += told["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(
        pool.api,
        connector=aiohttp.TCPConnector(limit=0),
        headers={"authorization": f"Bearer {pool.key}"},
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    return ids


def nodes_of(pool: Running) -> dict[str, Any]:
    status, _headers, body = pool.call("GET", "/v1/nodes")
    assert status == 200
    return {node["peer"]: node for node in body["data"]}


def test_nodes_of_speed_1_2_4_get_work_1_2_4_and_are_shown_as_fast_as_they_are(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        pool = start_pool(tmp_path / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")

        def join(speed: float) -> Running:
            node = start_echo(tmp_path / f"n{speed:g}", where, tokens_per_s=speed, slots=SLOTS)
            stack.callback(node.kill)
            return node

        with ThreadPoolExecutor() as starting:
            peers = [node.ready["peer"] for node in starting.map(join, SPEEDS)]
        ids = asyncio.run(load(pool))
        shown = nodes_of(pool)
    total = sum(ids.values())
    for peer, speed in zip(peers, SPEEDS, strict=True):
        share = ids[peer] / total / (speed / sum(SPEEDS))
        assert 0.9 <= share <= 1.1, (ids, speed, share)
        assert 0.8 <= shown[peer]["tokens_per_s"] / (SLOTS * speed) <= 1.1
        assert shown[peer]["success_rate"] == 1.0 and shown[peer]["samples"]
