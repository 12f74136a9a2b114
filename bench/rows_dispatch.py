"""What a decision of the router takes, and what its decisions are worth (simulated)."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.dispatch import DIGEST, Kind, Outcome, Seated, sim_node, simulate
from bench.rows import Row
from parhelion.config import NodesConfig
from parhelion.coordinator.place import Places
from parhelion.coordinator.provider import Choice
from parhelion.coordinator.queue import Queue
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.route import Need

POOLS = (10, 1000, 5000)
SLOTS = 8
WAITING = 256
TARGET_MS = {10: 0.2, 1000: 1.0, 5000: 1.0}
"""Ours: at 100 requests a second a tenth of the coordinator's time."""

KINDS = tuple(Kind(rate) for rate in (10.0, 20.0, 40.0))
OURS = "estimated finish"
BALANCERS = ("least-connections", "round-robin")
ONE_LINE = "least-connections, one line for all"
SEEDS = 5
TARGET_GAIN = 0.15
TARGET_SPLIT = 0.10


def measure(folder: Path, quick: bool) -> list[Row]:
    """The rows; nothing is written to the folder."""
    rows = [_decision(count, 20 if quick else 100) for count in POOLS]
    return [*rows, *_worth(400 if quick else 1500)]


class HandClock:
    """Time that stands still."""

    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0


def pool(count: int, seed: int = 0) -> tuple[Registry, Places, list[Node]]:
    """So many measured nodes of one model, some of their slots busy."""
    dice = random.Random(seed)
    registry = Registry(NodesConfig(), 1, lambda: None)
    places = Places(registry, Queue(10_000, 10_000), HandClock(), lambda _node, _digest: None)
    nodes = [sim_node(f"n{number:05}", Kind(20.0, slots=SLOTS)) for number in range(count)]
    for node in nodes:
        registry.enter(Seated(node))
        for streams in (1, SLOTS // 2, SLOTS):
            node.rooms[DIGEST].speed.decoded(100, dice.uniform(2, 20), streams)
        node.rooms[DIGEST].speed.prefilled(1000, dice.uniform(0.2, 2))
        for _ in range(dice.randrange(SLOTS)):
            node.reserve(Need(DIGEST, 50, 100), 0.0)
    return registry, places, nodes


async def decisions_ms(count: int, rounds: int) -> dict[str, float]:
    """Median ms of one decision: a slot is found at once; likewise with wishes of its client; a
    request joins a queue of WAITING behind full nodes; a slot comes free and goes to who waits."""
    _registry, places, nodes = pool(count)
    need = Need(DIGEST, 50, 100, expected_tokens=80)
    found: list[float] = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        places.capacity(DIGEST)
        ticket = places.place(need, "a", 1e6)
        found.append(time.perf_counter() - began_s)
        places.free(await ticket.got, need)
    chosen: list[float] = []
    for wish in (Choice(ignore=frozenset({"n00000"})), Choice(sort="throughput")):
        for _ in range(rounds):
            began_s = time.perf_counter()
            ticket = places.place(replace(need, choice=wish), "a", 1e6)
            chosen.append(time.perf_counter() - began_s)
            places.free(await ticket.got, need)
    for node in nodes:
        while node.slots_busy < SLOTS:
            node.reserve(need, 0.0)
    for number in range(WAITING):
        places.place(need, f"account {number % 16}", 1e6)
    joined: list[float] = []
    freed: list[float] = []
    for number in range(rounds):
        began_s = time.perf_counter()
        places.capacity(DIGEST)
        places.place(need, "a", 1e6)
        joined.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        node = nodes[number * 7 % count]
        places.free(node, need)
        freed.append(time.perf_counter() - began_s)
        if node.slots_busy < SLOTS:
            # A slow node's slot that all who wait left for a faster one.
            node.reserve(need, 0.0)
    return {
        "found": statistics.median(found) * 1e3,
        "chosen": statistics.median(chosen) * 1e3,
        "joined": statistics.median(joined) * 1e3,
        "freed": statistics.median(freed) * 1e3,
    }


def _decision(count: int, rounds: int) -> Row:
    seen = asyncio.run(decisions_ms(count, rounds))
    worst_ms = max(seen.values())
    return Row(
        f"a decision among {count:,} nodes",
        f"{seen['found']:.3f} ms",
        f"<= {TARGET_MS[count]:g} ms (ours)",
        worst_ms <= TARGET_MS[count],
        f"with a `provider` object {seen['chosen']:.3f} ms,"
        f" joining a queue of {WAITING} {seen['joined']:.3f} ms,"
        f" a slot that comes free {seen['freed']:.3f} ms; {SLOTS} slots a node",
    )


def _worth(requests: int) -> list[Row]:
    slots = sum(kind.slots for kind in KINDS)
    runs = [
        {
            policy: simulate(policy, KINDS, clients=3 * slots, requests=requests, seed=seed)
            for policy in (OURS, *BALANCERS, ONE_LINE)
        }
        for seed in range(SEEDS)
    ]
    one_line = [gain(run, ONE_LINE) for run in runs]
    behind = (
        f"against least-connections behind one line for all {min(one_line):.0%} to"
        f" {max(one_line):.0%}"
    )
    return worth_rows(runs, "simulated", behind)


def gain(run: Mapping[str, Outcome], policy: str) -> float:
    """By how much of its p95 finish our dispatch is sooner than a balancer, same requests."""
    return 1 - run[OURS].percentile_s(0.95) / run[policy].percentile_s(0.95)


def worth_rows(runs: Sequence[Mapping[str, Outcome]], how: str, detail: str) -> list[Row]:
    """The rows of runs, each of one seed under OURS and all BALANCERS over nodes of 1:2:4."""
    worst = {policy: min(gain(run, policy) for run in runs) for policy in BALANCERS}
    off = [_off(run[OURS]) for run in runs]
    return [
        Row(
            f"p95 finish at 3 x the slots, nodes of speed 1:2:4, against balancers ({how})",
            ", ".join(f"{least:.0%} under {policy}" for policy, least in worst.items()),
            f">= {TARGET_GAIN:.0%}",
            min(worst.values()) >= TARGET_GAIN,
            f"the worst of {len(runs)} seeds; {detail}",
        ),
        Row(
            f"work of nodes of speed 1:2:4 at 3 x the slots ({how})",
            f"within {max(off):.1%} of 1:2:4",
            f"<= {TARGET_SPLIT:.0%}",
            max(off) <= TARGET_SPLIT,
            f"ids by node, the worst of three nodes and {len(runs)} seeds",
        ),
    ]


def _off(seen: Outcome) -> float:
    """How far the node farthest from its share of 1:2:4 is from it."""
    return max(
        abs(share / (weight / 7) - 1)
        for share, weight in zip(seen.shares(), (1, 2, 4), strict=True)
    )
