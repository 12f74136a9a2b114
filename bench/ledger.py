"""Ledger: hold + post pairs a second, durable, 64 callers, beside a bare sqlite3 loop.

The baseline runs the very statements of the same pairs, in groups of 64 to a transaction with
one fsync each (what our group commit can reach at best), in one thread without an event loop.
`python bench/ledger.py` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from parhelion import ledger as room
from parhelion.ledger import Bill, Ledger, Shares, Worked, price, split
from parhelion.store import Statement, Store
from parhelion.words import AssetClass, Grant, Rate

CALLERS = 64
PAIRS = 6_400
ROUNDS = 7
TARGET_PAIRS_PER_S = 5000
ASSET = "PRLX.local"
RATE = Rate(
    model="bench/model",
    asset=ASSET,
    version=1,
    prompt_micro=4_000_000,
    completion_micro=4_000_000,
)
GRANT = Grant(account="acct_bench", key="key_bench", rate=RATE, amount_micro=8000, seed=1)
SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
LATER_MS = 2**42


class WallClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class Recorded(Store):
    """A store that notes the units it is given, for the baseline to run again."""

    units: list[list[Statement]]

    async def commit(self, unit):  # type: ignore[no-untyped-def]
        self.units.append(list(unit))
        return await super().commit(unit)


def bill() -> Bill:
    cost_micro = price(RATE, 420, 1000)
    legs = split(cost_micro, SHARES, [Worked(operator="node:bench", output_ids=1000)])
    return Bill(
        prompt_tokens=420,
        completion_tokens=1000,
        cost_micro=cost_micro,
        legs=legs,
        reason="stop",
    )


async def callers(ledger: Ledger, first: int, pairs: int) -> float:
    """Seconds for `pairs` hold+post pairs, shared by CALLERS tasks."""
    numbers = iter(range(first, first + pairs))

    async def caller() -> None:
        for number in numbers:
            request = f"req_{number:026d}"
            hold = await ledger.hold(GRANT, request, prompt_tokens=420, expires_at_ms=LATER_MS)
            await ledger.post(hold, bill())

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - started


async def prepared(kind: type[Store], folder: Path) -> tuple[Store, Ledger]:
    store = await kind.open(folder / "ledger.db", room.MIGRATIONS, AssetClass.LOCAL, WallClock())
    ledger = Ledger(store, WallClock(), SHARES)
    if kind is Recorded:
        store.units = []  # type: ignore[attr-defined]
    await ledger.open_account("acct_bench", "user")
    await ledger.grant("acct_bench", ASSET, 10**12, id="grant_bench", reason="bench")
    return store, ledger


async def record(folder: Path, pairs: int) -> list[list[Statement]]:
    """The units of `pairs` pairs, in the order in which 64 callers commit them."""
    store, ledger = await prepared(Recorded, folder)
    store.units.clear()  # type: ignore[attr-defined]
    await callers(ledger, 0, pairs)
    await store.close()
    return store.units  # type: ignore[attr-defined]


def bare(path: Path, units: list[list[Statement]]) -> float:
    """Seconds for the same statements in a plain loop, CALLERS units to a transaction."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "wal_autocheckpoint = 4096",
        "temp_store = MEMORY",
        "cache_size = -32768",
    ):
        connection.execute(f"PRAGMA {pragma}")
    started = time.perf_counter()
    for start in range(0, len(units), CALLERS):
        connection.execute("BEGIN IMMEDIATE")
        for unit in units[start : start + CALLERS]:
            for statement in unit:
                connection.execute(statement.sql, statement.params)
        connection.execute("COMMIT")
    took_s = time.perf_counter() - started
    connection.close()
    return took_s


def fsync_ms(folder: Path, times: int = 50) -> float:
    """The median fsync of a 64 kB append here: the floor of every commit."""
    taken: list[float] = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(bytes(65536))
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


async def round_of(units: list[list[Statement]]) -> tuple[float, float]:
    """Ours and the baseline one right after the other: pairs a second each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, ledger = await prepared(Store, folder / "ours")
        ours_s = await callers(ledger, 0, PAIRS)
        faults = await ledger.audit()
        await store.close()
        store, _ = await prepared(Store, folder / "bare")
        await store.close()
        bare_s = bare(folder / "bare" / "ledger.db", units)
        if faults:
            sys.exit(f"the books are wrong: {faults}")
    return PAIRS / ours_s, PAIRS / bare_s


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        floor_ms = fsync_ms(Path(name))
        units = await record(Path(name), PAIRS)
    rounds = [await round_of(units) for _ in range(ROUNDS)]
    ours = statistics.median(ours for ours, _ in rounds)
    line = {
        "bench": "ledger hold + post, durable, 64 callers",
        "pairs_per_s": round(ours),
        "pairs_per_s_best": round(max(ours for ours, _ in rounds)),
        "target_pairs_per_s": TARGET_PAIRS_PER_S,
        "bare_sqlite_pairs_per_s": round(statistics.median(plain for _, plain in rounds)),
        "ratio": round(statistics.median(ours / plain for ours, plain in rounds), 2),
        "fsync_ms": round(floor_ms, 2),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    asyncio.run(main())
