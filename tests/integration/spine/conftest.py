"""A paid pool's real process on one data folder, and its books read beside it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from parhelion.bootstrap import SystemClock
from parhelion.ledger import Ledger, Shares
from parhelion.store import Row, SqlValue, Store
from parhelion.testing.processes import Running, start, start_pool


class Pools:
    """Starts pools on one data folder, as often as a test kills them."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.running: list[Running] = []

    def start(self, env: dict[str, str] | None = None) -> Running:
        """The pool as shipped."""
        self.running.append(start_pool(self.data, env=env))
        return self.running[-1]

    def start_mortal(self, point: str, number: int) -> Running:
        """The pool that dies before or after its commit `number`, counted once it is armed."""
        self.data.mkdir(parents=True, exist_ok=True)
        arguments = [point, str(number), "--data", str(self.data)]
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {"PYTHONPATH": os.pathsep.join(path)}
        log = self.data / "test.log"
        self.running.append(start(arguments, log, module="mortal_pool", env=env))
        return self.running[-1]

    def arm(self, armed: bool) -> None:
        """Let a mortal pool count its commits from now on, or no longer."""
        mark = self.data / "armed"
        if armed:
            (self.data / "units").unlink(missing_ok=True)
            mark.touch()
        else:
            mark.unlink()

    def units(self) -> list[str]:
        """The statements of each commit that was counted."""
        units = self.data / "units"
        return units.read_text().splitlines() if units.exists() else []

    def books(self) -> Books:
        """The ledger of the pool that runs (or was killed), read beside it."""
        return Books(self.data / "parhelion.db")

    @property
    def admin_key(self) -> str:
        return (self.data / "admin.key").read_text().strip()


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Pools]:
    """Pools on a fresh data folder; whoever still runs at the end is stopped."""
    made = Pools(tmp_path / "data")
    yield made
    for pool in made.running:
        was_dead = pool.process.poll() is not None
        assert pool.stop() == 0 or was_dead


class Books:
    """A second reader of a pool's database file: the ledger's own questions, and SQL."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=5)
        self._connection.execute("PRAGMA query_only = 1")
        shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
        self.ledger = Ledger(cast(Store, self), SystemClock(), shares)

    async def read(self, sql: str, params: tuple[SqlValue, ...] = ()) -> list[Row]:
        """As Store.read, which is all that the ledger's questions need."""
        return self._connection.execute(sql, params).fetchall()

    def rows(self, sql: str, *params: SqlValue) -> Sequence[Any]:
        """Plain SQL."""
        return self._connection.execute(sql, params).fetchall()

    def close(self) -> None:
        self._connection.close()
