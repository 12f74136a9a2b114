"""Many streams over many nodes, while nodes are killed and started again; nothing may show.

Of echo nodes the ids are checked one by one against the hash chain that they must be, from the
evidence of each receipt; of real nodes the text is compared with an undisturbed run's.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from parhelion.testing.echo import Trail
from parhelion.testing.processes import Running

RETRY_S = 0.5


@dataclass
class Told:
    """One stream as its client saw it."""

    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    longest_gap_s: float = 0.0


class Reaper:
    """Kills a random node every `every_s` and starts it again at once."""

    def __init__(
        self, start: Callable[[int], Running], count: int, every_s: float, dice: random.Random
    ) -> None:
        self._start, self._every_s, self._dice = start, every_s, dice
        self.nodes = [start(number) for number in range(count)]
        self.kills = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            number = self._dice.randrange(len(self.nodes))
            self.nodes[number].kill()
            self.kills += 1
            starting = asyncio.create_task(asyncio.to_thread(self._start, number))
            try:
                self.nodes[number] = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # The thread goes on: a process that nobody knew would outlive the bench.
                self.nodes[number] = await starting
                raise

    def close(self) -> None:
        for node in self.nodes:
            node.kill()


async def stream(session: aiohttp.ClientSession, pool: Running, body: dict[str, Any]) -> Told:
    """One stream to its end."""
    told = Told()
    headers = {"authorization": f"Bearer {pool.key}"}
    url = f"{pool.api}/v1/completions"
    last_s = time.perf_counter()
    async with session.post(url, json={**body, "stream": True}, headers=headers) as answer:
        if answer.status != 200:
            told.error = f"{answer.status}: {await answer.text()}"
            return told
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            now_s = time.perf_counter()
            told.longest_gap_s = max(told.longest_gap_s, now_s - last_s)
            last_s = now_s
            event = json.loads(line[6:])
            if "error" in event:
                told.error = str(event["error"])
                return told
            told.text += "".join(choice["text"] for choice in event["choices"])
            told.usage = event.get("usage") or told.usage
    return told


async def drive(
    pool: Running, bodies: list[dict[str, Any]], concurrent: int, reaper: Reaper | None
) -> list[Told]:
    """All bodies, `concurrent` at a time, in order; under the reaper if there is one."""
    told: list[Told] = [Told()] * len(bodies)
    left = iter(enumerate(bodies))

    async def worker(session: aiohttp.ClientSession) -> None:
        for number, body in left:
            told[number] = await stream(session, pool, body)

    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    reaping = asyncio.create_task(reaper.run()) if reaper else None
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(worker(session) for _ in range(concurrent)))
    finally:
        if reaping is not None:
            reaping.cancel()
            await asyncio.wait([reaping])
    return told


def wrong_ids(pool: Running, told: Told, body: dict[str, Any], n_vocab: int, first_id: int) -> int:
    """How many of a stream's ids are not what the echo of all before them must be."""
    path = f"/v1/receipts/{told.usage['receipt']}?evidence=1"
    status, _headers, found = pool.call("GET", path)
    if status != 200:
        raise RuntimeError(f"no evidence: {found}")
    evidence = found["evidence"]
    trail = Trail(tuple(evidence["prompt_ids"]), body["seed"], n_vocab, frozenset(range(first_id)))
    wrong = 0
    for id in evidence["output_ids"]:
        wrong += id != trail.next()
        trail.add(id)
    return (
        wrong
        + abs(len(evidence["output_ids"]) - body["max_tokens"])
        + (evidence["text"] != told.text)
    )
