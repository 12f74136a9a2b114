"""The planner: 400 random pools against two plain ways to split, and how long planning takes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.rows import Row, spread
from parhelion.coordinator.planner import (
    Joined,
    Left,
    Pool,
    figures,
    plan,
    repair,
    wanted_ms,
)
from parhelion.coordinator.planner.baselines import baselines
from parhelion.coordinator.planner.terms import terms_of
from parhelion.testing.random_pools import random_pool

POOLS = 400

ROUNDS = 5

SIZES = ((32, 50), (256, 1_000), (2_000, 10_000))
"""Nodes, and the milliseconds of one core that planning for them may take."""

REPAIR_SIZES = ((256, 2_000), (2_000, 2_000))
"""The same for one node that joins, or one that leaves."""


def measure(folder: Path, quick: bool) -> list[Row]:
    """The table of pools, for one stream and for eight, then the times."""
    del folder
    count = POOLS // 10 if quick else POOLS
    return [
        *(_pools(streams, count) for streams in (1, 8)),
        *(_time(*size, alike=alike) for size in SIZES for alike in (True, False)),
        *(_repair(*size) for size in REPAIR_SIZES),
    ]


def _pools(streams: int, count: int) -> Row:
    ratios: dict[str, list[float]] = {}
    best: list[float] = []
    feasible = 0
    for seed in range(count):
        pool = random_pool(seed, streams=streams)
        mine_ms, others = _compared(pool)
        feasible += mine_ms is not None
        if mine_ms is None or not others:
            continue
        for name, other_ms in others.items():
            ratios.setdefault(name, []).append(mine_ms / other_ms)
        best.append(mine_ms / min(others.values()))
    beside = "; ".join(f"{name} {statistics.mean(seen):.2f}" for name, seen in ratios.items())
    return Row(
        f"{count} random pools, a token's time at {streams} stream{'s' * (streams > 1)}, of the "
        "better baseline's",
        f"{statistics.mean(best):.3f} mean, {max(best):.3f} worst",
        "<= 1 each",
        max(best) <= 1 + 1e-9,
        f"{feasible} of {count} can hold the model and have a plan; of each alone: {beside}",
    )


def _compared(pool: Pool) -> tuple[float | None, dict[str, float]]:
    """What a stream waits by the plan, and by each baseline that has room."""
    (model,) = pool.models
    found = plan(pool)
    others = {
        name: cut.cost_ms for name, cut in baselines(terms_of(model, pool)) if cut is not None
    }
    if not found.pipelines:
        return None, others
    return wanted_ms(found, pool, model.digest), others


def _time(nodes: int, limit_ms: int, *, alike: bool) -> Row:
    pool = random_pool(7, nodes=(nodes, nodes), alike=alike)
    found = plan(pool)
    took_ms, detail = _took(partial(plan, pool))
    stages = [len(one.stages) for one in figures(found, pool)]
    return Row(
        f"planning for {nodes} nodes, layers {'alike' if alike else 'of unlike sizes'}",
        f"{took_ms:.0f} ms",
        f"< {limit_ms} ms",
        took_ms < limit_ms,
        f"{detail}; {len(stages)} pipelines of {min(stages)} to {max(stages)} nodes, "
        f"{len(found.standby)} standby",
    )


def _repair(nodes: int, limit_ms: int) -> Row:
    """One node comes to a pool that is planned, then the first stage of a pipeline goes."""
    pool = random_pool(7, nodes=(nodes, nodes), alike=False)
    new = pool.members[-1].peer
    less = replace(pool, members=pool.members[:-1])
    before = plan(less)
    join_ms, join = _took(partial(repair, before, Joined(new), pool))
    found = repair(before, Joined(new), pool)
    long = [one for one in found.pipelines if len(one.stages) > 1]
    gone = long[len(long) // 2].peers[0]
    rest = replace(pool, members=tuple(one for one in pool.members if one.peer != gone))
    leave_ms, leave = _took(partial(repair, found, Left(gone), rest))
    return Row(
        f"repair of a plan for {nodes} nodes, layers of unlike sizes",
        f"{join_ms:.0f} ms a join, {leave_ms:.0f} ms a leave",
        f"< {limit_ms} ms each",
        max(join_ms, leave_ms) < limit_ms,
        f"join: {join}; leave: {leave}; {len(found.pipelines)} pipelines",
    )


def _took(work: Callable[[], object]) -> tuple[float, str]:
    """The least time of one core, and the time on the clock beside what else was running."""
    cores_ms: list[float] = []
    clock_ms: list[float] = []
    for _ in range(ROUNDS):
        core_s, clock_s = time.process_time(), time.perf_counter()
        work()
        cores_ms.append((time.process_time() - core_s) * 1000)
        clock_ms.append((time.perf_counter() - clock_s) * 1000)
    said = f"best of {ROUNDS} in time of one core; on the clock {spread(clock_ms)} ms"
    return min(cores_ms), f"{said}, load {os.getloadavg()[0]:.1f}"
