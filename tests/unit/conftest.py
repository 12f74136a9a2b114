"""What unit tests do without: waiting for the disk, and making the same tables again and again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

import pytest

from parhelion.store import opening, sql
from parhelion.store.opening import migrate
from parhelion.store.statements import Migration

WITHOUT_SYNC = tuple(
    pragma.replace("synchronous = FULL", "synchronous = OFF") for pragma in sql.PRAGMAS
)

_made: dict[tuple[Migration, ...], sqlite3.Connection] = {}
"""Databases in memory that were migrated once, by their migrations."""


def _copy_or_migrate(
    connection: sqlite3.Connection, migrations: Sequence[Migration], now_ms: int
) -> None:
    """A file that is new gets the tables of one that was migrated; then what is left to do."""
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        key = tuple(migrations)
        if key not in _made:
            made = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            migrate(made, key, now_ms)
            _made[key] = made
        _made[key].backup(connection)
    migrate(connection, migrations, now_ms)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No unit test outlives a power cut, so none waits for an fsync; `unit/store` has it as it is.

    Some two thousand of them open a store of their own: that took a third of the whole set's time.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(sql, "PRAGMAS", WITHOUT_SYNC)
    monkeypatch.setattr(opening, "migrate", _copy_or_migrate)
