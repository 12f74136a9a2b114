"""What `parhelion doctor` reads of a data folder: its secrets, its database; nothing is changed."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from parhelion.cli.archive import DATABASE, SECRETS, damage
from parhelion.words import Problem

AUDIT_LIMIT_BYTES = 1024 * 1024 * 1024
"""A check reads every page: beyond a gigabyte that is no quick look any more."""

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
    found = {*known, *data.glob("*.key"), *data.glob("first-key*"), *data.glob("node/*.key")}
    return sorted(path for path in found if path.is_file())


def database_faults(data: Path) -> list[str]:
    """What is wrong with the database: its mode, its pages, its books; read only."""
    path = data / DATABASE
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [f"{DATABASE} can be read by others: chmod 600 {path}"]
    if path.stat().st_size > AUDIT_LIMIT_BYTES:
        return []
    if fault := damage(path):
        return [fault]
    return list(_imbalances(path))[:FAULTS_SHOWN]


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
