"""What dispatch is worth on real processes: one coordinator, three nodes of speed 1:2:4.

The same requests three times a seed: as our dispatch places them, and as a balancer does that
chooses a node when a request comes and names it in `provider`, so that the request waits in the
coordinator's line for that one node. Coordinator, nodes and run are the same.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from bench.balancers import LeastConnections, RoundRobin
from bench.dispatch import Outcome
from bench.load import crowd
from bench.rows import Row
from bench.rows_dispatch import BALANCERS, OURS, SEEDS, worth_rows
from bench.rows_relay import ROOMY
from parhelion.testing.processes import Running, start_echo, start_pool

RATES_PER_S = (50.0, 100.0, 200.0)
SLOTS = 8
CLIENTS = 3 * SLOTS * len(RATES_PER_S)
ENDING = ["--n-vocab", "300", "--first-id", "0"]
"""Three of 300 ids end a text: an answer has 100 on average, and nobody knows before."""

MAX_TOKENS = 512
WARM = 2 * CLIENTS
COUNTED = 400
RUN_LIMIT_S = 180.0


class Answer(NamedTuple):
    """What one request came to, and when."""

    asked_s: float
    ended_s: float
    node: int
    tokens: int

    def made_within(self, from_s: float, until_s: float) -> float:
        """The tokens that its node made in that time, each at its pace and the last at the end."""
        began_s = self.ended_s - self.tokens / RATES_PER_S[self.node]
        inside_s = min(self.ended_s, until_s) - max(began_s, from_s)
        return max(0.0, inside_s) * RATES_PER_S[self.node]


def measure(folder: Path, quick: bool) -> list[Row]:
    """The rows; seven minutes, with `quick` one seed of half as many requests."""
    counted, seeds = (COUNTED // 2, 1) if quick else (COUNTED, SEEDS)
    with ExitStack() as stack:
        pool = start_pool(folder / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")
        nodes: list[Running] = []
        for number, rate in enumerate(RATES_PER_S):
            data = folder / f"node{number}"
            node = start_echo(data, where, *ENDING, tokens_per_s=rate, slots=SLOTS)
            stack.callback(node.kill)
            nodes.append(node)
        peers = [str(node.ready["peer"]) for node in nodes]
        runs = [_policies(pool, peers, seed, counted) for seed in range(seeds)]
    return worth_rows(runs, "real processes", _detail(runs, counted))


def _detail(runs: Sequence[Mapping[str, Outcome]], counted: int) -> str:
    p95_s, mean_s = (
        " / ".join(
            f"{statistics.median(of(run[policy]) for run in runs):.2f}" for policy in runs[0]
        )
        for of in (lambda seen: seen.percentile_s(0.95), lambda seen: seen.mean_s)
    )
    return (
        f"p95 of {', '.join(runs[0])}: {p95_s} s in the median, means {mean_s} s; {counted} answers"
        f" each, {len(RATES_PER_S)} echo node processes of {SLOTS} slots"
    )


def _policies(pool: Running, peers: Sequence[str], seed: int, counted: int) -> dict[str, Outcome]:
    """One seed's requests under each policy, in an order of its own."""
    slots = [SLOTS] * len(peers)
    balancers = {
        OURS: None,
        "least-connections": LeastConnections(slots),
        "round-robin": RoundRobin(slots),
    }
    order = [OURS, *BALANCERS]
    random.Random(seed).shuffle(order)
    runs: dict[str, Load] = {}
    for policy in order:
        load = runs[policy] = Load(peers, balancers[policy], seed, counted)
        asyncio.run(crowd(pool, CLIENTS, load.ask, load.over()))
        seen = load.outcome()
        print(
            f"  seed {seed}  {policy:18} p95 {seen.percentile_s(0.95):5.2f} s  mean"
            f" {seen.mean_s:5.2f} s  work {' : '.join(f'{7 * one:.2f}' for one in seen.shares())}",
            flush=True,
        )
    told = [{number: one.tokens for number, one in load.answers.items()} for load in runs.values()]
    if any(one != told[0] for one in told):
        raise RuntimeError("the policies did not get the same answers")
    return {policy: runs[policy].outcome() for policy in balancers}


class Load:
    """Requests in one order, asked by a crowd; those after the warm-up are counted."""

    def __init__(
        self, peers: Sequence[str], balancer: RoundRobin | None, seed: int, counted: int
    ) -> None:
        self.answers: dict[int, Answer] = {}
        self._peers = peers
        self._balancer = balancer
        self._seed = seed
        self._numbers = itertools.count()
        self._last = WARM + counted - 1
        self._over = asyncio.Event()

    async def ask(self, session: aiohttp.ClientSession) -> None:
        """The next request, to its end."""
        number = next(self._numbers)
        body = _body(self._seed, number)
        if self._balancer is None:
            answer = await self._answer(session, body)
        else:
            with self._balancer.connection() as node:
                only = {"only": [self._peers[node]], "allow_fallbacks": False}
                answer = await self._answer(session, {**body, "provider": only})
        if number <= self._last:
            self.answers[number] = answer
            if len(self.answers) > self._last:
                self._over.set()

    async def over(self) -> None:
        """Return when all that count are answered; until then the crowd goes on asking."""
        async with asyncio.timeout(RUN_LIMIT_S):
            await self._over.wait()

    def outcome(self) -> Outcome:
        """Seconds of each answer that counts, and by node the ids made while those were asked.

        Whatever was running then has ended since, so no node's ids are cut off.
        """
        counted = [self.answers[number] for number in range(WARM, self._last + 1)]
        from_s, until_s = counted[0].asked_s, counted[-1].asked_s
        made = [0.0] * len(self._peers)
        for answer in self.answers.values():
            made[answer.node] += answer.made_within(from_s, until_s)
        return Outcome([one.ended_s - one.asked_s for one in counted], [round(ids) for ids in made])

    async def _answer(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Answer:
        asked_s = time.perf_counter()
        async with session.post("/v1/completions", json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            usage = (await answer.json())["usage"]
        (peer,) = usage["nodes"]
        node, tokens = self._peers.index(peer), usage["completion_tokens"]
        return Answer(asked_s, time.perf_counter(), node, tokens)


def _body(seed: int, number: int) -> dict[str, Any]:
    """The seed decides where an echo's text ends, at whichever node."""
    prompt = f"{number} times in the year {seed} somebody asked for a story of the sea"
    return {"prompt": prompt, "max_tokens": MAX_TOKENS, "seed": 1_000_000 * seed + number}
