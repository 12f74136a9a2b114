"""Streams that survive their nodes: 1,000 over 8 echo nodes, and 200 over two real ones."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.rows import Row
from bench.rows_relay import ROOMY
from bench.survival import Reaper, Told, drive, wrong_ids
from parhelion.testing.echo_node import DEFAULT_FIRST_ID, DEFAULT_N_VOCAB
from parhelion.testing.processes import Running, start_echo, start_join, start_pool

NODES = 8
SLOTS = 40
CONCURRENT = 200
PACE_PER_S = 20.0
TOKENS = 100
KILL_EVERY_S = 2.0

REAL_STREAMS = 200
"""For each of two temperatures."""

REAL_CONCURRENT = 6
REAL_TOKENS = 32
REAL_KILL_EVERY_S = 6.0


def measure(folder: Path, quick: bool) -> list[Row]:
    """Echo nodes first; real ones unless it is to be quick."""
    rows = _echo(folder / "echo", 200 if quick else 1000)
    return rows if quick else rows + _real(folder / "real")


def _echo(folder: Path, streams: int) -> list[Row]:
    folder.mkdir()
    bodies = [
        {"prompt": f"story number {number}", "max_tokens": TOKENS, "seed": number}
        for number in range(streams)
    ]
    with ExitStack() as stack:
        pool = start_pool(folder / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")

        def start(number: int) -> Running:
            data = folder / f"node{number}"
            return start_echo(data, where, tokens_per_s=PACE_PER_S, slots=SLOTS)

        reaper = Reaper(start, NODES, KILL_EVERY_S, random.Random(1))
        stack.callback(reaper.close)
        before = _available(pool)
        told = asyncio.run(drive(pool, bodies, CONCURRENT, reaper))
        failed = [one for one in told if one.error]
        for one in failed[:3]:
            print(f"  failed: {one.error[:300]}")
        done = [(one, body) for one, body in zip(told, bodies, strict=True) if not one.error]
        wrong = sum(
            wrong_ids(pool, one, body, DEFAULT_N_VOCAB, DEFAULT_FIRST_ID) for one, body in done
        )
        paid = before - _available(pool)
        cost = sum(int(one.usage["cost"]) for one, _body in done)
        exact = not failed and paid == cost and _open_holds(folder / "pool") == 0
        moved = [one for one in told if one.usage and one.usage["migrations"]]
        detail = (
            f"{streams} streams of {TOKENS} ids over {NODES} node processes, {reaper.kills} kills;"
            f" {len(moved)} streams moved,"
            f" {sum(one.usage['migrations'] for one in moved)} times; {_stalls(moved)}"
        )
    return [
        Row(
            "kill -9 of serving nodes under load: streams that finish",
            f"{len(done)} of {streams}",
            "all",
            not failed,
            detail,
        ),
        Row("ids lost, doubled or changed", str(wrong), "0", wrong == 0, "each id checked"),
        Row("books exact", "yes" if exact else "no", "yes", exact, f"{cost} base units"),
    ]


def _real(folder: Path) -> list[Row]:
    folder.mkdir()
    rows: list[Row] = []
    with ExitStack() as stack:
        pool = start_pool(folder / "pool", env=ROOMY)
        stack.callback(pool.stop)
        where = pool.api.removeprefix("http://")

        def start(number: int) -> Running:
            return start_join(folder / f"node{number}", where)

        reaper = Reaper(start, 2, REAL_KILL_EVERY_S, random.Random(2))
        stack.callback(reaper.close)
        for temperature in (0.0, 0.8):
            bodies: list[dict[str, Any]] = [
                {
                    "prompt": f"Chapter {number}. On that day the sea",
                    "max_tokens": REAL_TOKENS,
                    "temperature": temperature,
                    "seed": number,
                }
                for number in range(REAL_STREAMS)
            ]
            calm = asyncio.run(drive(pool, bodies, 1, None))
            told = asyncio.run(drive(pool, bodies, REAL_CONCURRENT, reaper))
            rows.append(_compare(temperature, calm, told))
    return rows


def _compare(temperature: float, calm: list[Told], told: list[Told]) -> Row:
    finished = sum(not one.error for one in told)
    moved = [n for n, one in enumerate(told) if one.usage and one.usage["migrations"]]
    same = sum(calm[n].text == one.text for n, one in enumerate(told))
    same_moved = sum(calm[n].text == told[n].text for n in moved)
    return Row(
        f"real engine at temperature {temperature:g}: text equal to the undisturbed",
        f"{same} of {len(told)}",
        "reported",
        None,
        f"{finished} finished; of the {len(moved)} that moved {same_moved} are equal;"
        f" {_stalls([told[n] for n in moved])}",
    )


def _stalls(moved: list[Told]) -> str:
    if len(moved) < 2:
        return "too few moved for a p95 of the stall"
    gaps = [one.longest_gap_s for one in moved]
    high_s = statistics.quantiles(gaps, n=20)[-1]
    return (
        f"longest gap of a moved stream: median {statistics.median(gaps):.2f} s, p95 {high_s:.2f} s"
    )


def _available(pool: Running) -> int:
    return int(pool.call("GET", "/v1/credits/balance")[2]["available"])


def _open_holds(data: Path) -> int:
    with sqlite3.connect(data / "parhelion.db", timeout=5) as books:
        return int(books.execute("SELECT COUNT(*) FROM holds WHERE state = 'held'").fetchone()[0])
