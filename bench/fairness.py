"""One account's many requests against another's one, on a pool of one echo node."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import aiohttp

from parhelion.testing.processes import Running

BODY: dict[str, Any] = {"prompt": "hello", "max_tokens": 10}


class Waits(NamedTuple):
    """Seconds: one request on an idle pool, the same behind the crowd, and the crowd itself."""

    alone_s: float
    behind_s: float
    crowd_s: float
    refused: int


def key_of(pool: Running, admin: str, name: str) -> str:
    """A new account's key with credits."""
    body = {"name": name, "grant": str(10**10)}
    status, _headers, made = pool.call("POST", "/v1/keys", body, key=admin)
    if status != 201:
        raise RuntimeError(f"no key: {made}")
    return str(made["secret"])


async def measure(api: str, greedy: str, modest: str, crowd: int) -> Waits:
    """`crowd` requests at once with one key; a moment later one request with the other."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(api, connector=connector, timeout=timeout) as session:

        async def one(key: str) -> tuple[int, float]:
            began_s = time.perf_counter()
            headers = {"authorization": f"Bearer {key}"}
            async with session.post("/v1/completions", json=BODY, headers=headers) as answer:
                body = await answer.text()
                if answer.status not in (200, 429):
                    raise RuntimeError(f"{answer.status}: {body}")
                return answer.status, time.perf_counter() - began_s

        _status, alone_s = await one(modest)
        began_s = time.perf_counter()
        crowding = [asyncio.create_task(one(greedy)) for _ in range(crowd)]
        # All are in: the slots are taken, and the rest wait in line.
        await asyncio.sleep(1.0)
        status, behind_s = await one(modest)
        if status != 200:
            raise RuntimeError(f"the modest one was refused: {status}")
        answers = await asyncio.gather(*crowding)
        crowd_s = time.perf_counter() - began_s
    refused = sum(status != 200 for status, _took_s in answers)
    return Waits(alone_s, behind_s, crowd_s, refused)
