"""What `parhelion doctor` reads of a data folder: its secrets, its database; nothing is changed."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parhelion.cli.archive import DATABASE, SECRETS, damage
from parhelion.words import Problem

QUICK_LIMIT_BYTES = 1024 * 1024 * 1024
"""A check reads every page: beyond a gigabyte that takes minutes, so it must be asked for."""

FAULTS_SHOWN = 3


def secret_faults(data: Path) -> list[str]:
    """Each secret file of the folder that is readable by others, or holds no secret."""
    from parhelion.identity import read_secret

    faults: list[str] = []
    for path in secrets_in(data):
        try:
            read_secret(path)
        except Problem as problem:
            faults.append(problem.message)
    return faults


def secrets_in(data: Path) -> list[Path]:
    """The secret files that the folder has: those we write, and any other key."""
    known = {data / name for name in SECRETS}
    places = ("*.key", "first-key*", "node/*.key", "x402/*.key", "chains/*/*.key")
    found = known.union(*(data.glob(place) for place in places))
    return sorted(path for path in found if path.is_file())


@dataclass(frozen=True, slots=True)
class Database:
    """What was found of a database; where it was not `read`, nothing is known of its inside."""

    size_bytes: int
    faults: tuple[str, ...] = ()
    read: bool = True


def database_in(data: Path, limit_bytes: int | None) -> Database | None:
    """The database's mode, pages and books, read only; None where there is none.

    A file larger than `limit_bytes` is not read.
    """
    path = data / DATABASE
    if not path.exists():
        return None
    status, log = path.stat(), path.with_name(f"{DATABASE}-wal")
    # What was written last lies in the log beside it until it is moved into the file.
    size_bytes = status.st_size + (log.stat().st_size if log.exists() else 0)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        faults = (f"{DATABASE} can be read by others: chmod 600 {path}",)
        return Database(size_bytes, faults, read=False)
    if limit_bytes is not None and size_bytes > limit_bytes:
        return Database(size_bytes, read=False)
    if fault := damage(path):
        return Database(size_bytes, (fault,))
    return Database(size_bytes, tuple(_imbalances(path))[:FAULTS_SHOWN])


def _imbalances(path: Path) -> Iterator[str]:
    from parhelion.ledger.sql import AUDIT

    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            yield from (str(row[0]) for row in connection.execute(AUDIT).fetchall())
        finally:
            connection.close()
    except sqlite3.Error as error:
        yield f"its books cannot be read: {error}"
