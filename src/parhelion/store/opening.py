"""Opening the file: connections, the class of money, and migrations; runs in a thread."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from parhelion.store import chain, sql
from parhelion.store.statements import Migration, Statement
from parhelion.words import AssetClass, Problem, ProblemCode

CACHED_STATEMENTS = 512
"""More than all rooms name together, so that no statement is ever compiled twice."""

BUSY_WAIT_S = 5.0
"""A checkpoint or a backup may hold the file for a moment; longer means something is wrong."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions are said, never implied."""
    return sqlite3.connect(
        path,
        timeout=BUSY_WAIT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )


def open_writer(
    path: Path, migrations: Sequence[Migration], asset_class: AssetClass, now_ms: int
) -> sqlite3.Connection:
    """The one writing connection of a file that is ours, of our class and up to date."""
    # Made by us first, because SQLite would make it readable by others; the log inherits this.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = connect(path)
    try:
        for pragma in sql.PRAGMAS:
            connection.execute(pragma)
        migrate(connection, migrations, now_ms)
        _be_of_class(connection, asset_class, path.name)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can read and nothing else."""
    connection = connect(path)
    for pragma in sql.READER_PRAGMAS:
        connection.execute(pragma)
    return connection


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration], now_ms: int) -> None:
    """Bring the file up to date, each migration whole or not at all; refuse a newer file."""
    for statement in statements_of(sql.FACTS_TABLES):
        connection.execute(statement)
    steps = {*sql.MIGRATIONS, *migrations}
    wanted = {step.number: step for step in steps}
    if len(wanted) != len(steps):
        raise ValueError("two migrations have one number")
    applied = {int(number): str(digest) for number, _, digest in connection.execute(sql.APPLIED)}
    _refuse_what_we_do_not_know(applied, wanted)
    for number in sorted(wanted.keys() - applied.keys()):
        _apply(connection, wanted[number], now_ms)


def statements_of(script: str) -> Iterator[str]:
    """The single statements of a script; a trigger's body counts as part of it."""
    # executescript would commit in between, and half a migration could stay.
    *pieces, rest = script.split(";")
    text = ""
    for piece in pieces:
        text += piece + ";"
        if sqlite3.complete_statement(text):
            yield text.strip()
            text = ""
    if (text + rest).strip():
        raise ValueError(f"a migration ends inside a statement: {(text + rest).strip()[:80]!r}")


def _refuse_what_we_do_not_know(applied: dict[int, str], wanted: dict[int, Migration]) -> None:
    unknown = sorted(applied.keys() - wanted.keys())
    if unknown:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"this data was written by a newer Parhelion (migration {unknown[-1]} is unknown)",
            hint="update Parhelion, or restore a backup made by this version",
        )
    for number, digest in applied.items():
        if digest != _digest(wanted[number]):
            raise Problem(
                ProblemCode.CONFIG_INVALID,
                f"migration {number} of this data differs from the program's",
                hint="run the version of Parhelion that wrote this data",
            )


def _apply(connection: sqlite3.Connection, step: Migration, now_ms: int) -> None:
    connection.execute(sql.BEGIN)
    try:
        texts = list(statements_of(step.sql))
        for text in texts:
            connection.execute(text)
        row = (step.number, step.room, _digest(step), now_ms)
        connection.execute(sql.ADD_MIGRATION, row)
        unit = [*(Statement("migration", text) for text in texts)]
        unit.append(Statement("migration", sql.ADD_MIGRATION, row))
        commit = chain.follow(head_of(connection), now_ms, chain.content_of([unit]))
        connection.execute(sql.ADD_COMMIT, commit)
        connection.execute(sql.COMMIT)
    except BaseException:
        if connection.in_transaction:
            connection.execute(sql.ROLLBACK)
        raise


def head_of(connection: sqlite3.Connection) -> chain.Commit:
    """The last commit of the file."""
    row = connection.execute(sql.HEAD).fetchone()
    return chain.Commit(*row) if row else chain.FIRST


def _be_of_class(connection: sqlite3.Connection, asset_class: AssetClass, name: str) -> None:
    row = connection.execute(sql.ASSET_CLASS).fetchone()
    if row is None:
        connection.execute(sql.SET_ASSET_CLASS, (asset_class.value,))
    elif row[0] != asset_class.value:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"{name} holds {row[0]} money, and {asset_class.value} was asked for",
            hint="a data folder keeps the class it was made with: use another folder with --data",
        )


def _digest(step: Migration) -> str:
    # Blanks do not count: a re-indented file is the same migration.
    return sha256(" ".join(step.sql.split()).encode()).hexdigest()
