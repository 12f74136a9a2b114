"""The chain's one file: what is answered was committed to the disk before."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parhelion.chain.local.minievm import sql
from parhelion.chain.local.minievm.records import Block, Log, LogFilter, Mined
from parhelion.store import FileLock
from parhelion.words import Problem, ProblemCode

FILE_NAME = "minievm.sqlite"
TOPICS = 4


class ChainFile:
    """Blocks, receipts, logs and state in SQLite, written by this process alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / FILE_NAME
        self._lock = FileLock(path)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
            self._prepare()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        self._lock.release()

    def fact(self, name: str) -> str | None:
        """What the file says of itself under `name`."""
        row = self._db.execute(sql.FACT, (name,)).fetchone()
        return None if row is None else str(row[0])

    def node(self, key: bytes) -> bytes | None:
        """A trie node or a contract's code by its hash."""
        row = self._db.execute(sql.NODE, (key,)).fetchone()
        return None if row is None else row[0]

    def head(self) -> bytes | None:
        """The last block's header."""
        return self._one(sql.HEAD)

    def header(self, number: int) -> bytes | None:
        """The header of block `number`."""
        return self._one(sql.BLOCK_BY_NUMBER, number)

    def header_of(self, block_hash: bytes) -> bytes | None:
        """The header of the block with this hash."""
        return self._one(sql.BLOCK_BY_HASH, block_hash)

    def hashes_before(self, number: int) -> Iterator[bytes]:
        """The hashes of the up to 256 blocks before `number`, the nearest first."""
        for row in self._db.execute(sql.HASHES_BEFORE, (number,)):
            yield row[0]

    def transaction(self, tx_hash: bytes) -> Mined | None:
        """A mined transaction."""
        row = self._db.execute(sql.TRANSACTION, (tx_hash,)).fetchone()
        return None if row is None else _mined(row)

    def transactions(self, number: int) -> list[Mined]:
        """The transactions of a block in their order."""
        return [_mined(row) for row in self._db.execute(sql.TRANSACTIONS_OF, (number,))]

    def logs_of(self, mined: Mined) -> list[Log]:
        """The logs of one transaction."""
        rows = self._db.execute(sql.LOGS_OF, (mined.block, mined.position))
        return [_log(row) for row in rows]

    def logs(self, wanted: LogFilter, limit: int) -> list[tuple[Log, bytes, bytes]]:
        """Up to `limit` logs of a filter, each with its transaction's and its block's hash."""
        text = sql.LOGS
        values: list[int | bytes] = [wanted.first_block, wanted.last_block]
        columns = ["address", *(f"topic{place}" for place in range(TOPICS))]
        for column, choices in zip(columns, (wanted.addresses, *wanted.topics), strict=False):
            if choices:
                text += f" AND {column} IN ({','.join('?' * len(choices))})"
                values.extend(choices)
        if wanted.topics:
            # A filter of n places wants logs of at least n topics, also where it says "any".
            text += f" AND topic{len(wanted.topics) - 1} IS NOT NULL"
        rows = self._db.execute(text + sql.LOGS_ORDER, (*values, limit))
        return [(_log(row[:9]), row[9], row[10]) for row in rows]

    def pending(self) -> list[bytes]:
        """The signed transactions that wait for a block, the oldest first."""
        return [row[0] for row in self._db.execute(sql.PENDING)]

    def begin_chain(self, genesis: Block, facts: dict[str, str]) -> None:
        """The first block and what the file says of itself."""
        with self._commit():
            for name, value in facts.items():
                self._db.execute(sql.KEEP_FACT, (name, value))
            self._keep(genesis)

    def append(self, block: Block) -> None:
        """A block, its receipts and its state: durable when this returns."""
        with self._commit():
            self._keep(block)
            self._db.executemany(sql.DROP_PENDING, [(mined.hash,) for mined in block.transactions])

    def keep_pending(self, tx_hash: bytes, raw: bytes, instead_of: bytes | None) -> None:
        """A transaction that waits: durable when this returns."""
        with self._commit():
            if instead_of is not None:
                self._db.execute(sql.DROP_PENDING, (instead_of,))
            self._db.execute(sql.KEEP_PENDING, (tx_hash, raw))

    def _keep(self, block: Block) -> None:
        header = block.header
        self._db.executemany(sql.KEEP_NODE, block.nodes.items())
        self._db.execute(sql.KEEP_BLOCK, (header.number, header.hash, header.encoded))
        self._db.executemany(
            sql.KEEP_TRANSACTION, [_mined_row(mined) for mined in block.transactions]
        )
        self._db.executemany(sql.KEEP_LOG, [_log_row(log) for log in block.logs])

    def _prepare(self) -> None:
        for pragma in sql.PRAGMAS:
            self._db.execute(pragma)
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > sql.SCHEMA_VERSION:
            raise Problem(
                ProblemCode.STORE_UNAVAILABLE,
                f"{FILE_NAME} was written by a newer Parhelion",
                hint="use that one, or another --data",
            )
        with self._commit():
            for statement in sql.TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {sql.SCHEMA_VERSION}")

    def _one(self, text: str, *values: int | bytes) -> bytes | None:
        row = self._db.execute(text, values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _commit(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _mined(row: Sequence[Any]) -> Mined:
    names = [name.strip() for name in sql.TRANSACTION_COLUMNS.split(",")]
    return Mined(**dict(zip(names, row, strict=True)))


def _mined_row(mined: Mined) -> tuple[int | bytes | None, ...]:
    names = [name.strip() for name in sql.TRANSACTION_COLUMNS.split(",")]
    return tuple(getattr(mined, name) for name in names)


def _log(row: Sequence[Any]) -> Log:
    topics = tuple(topic for topic in row[4:8] if topic is not None)
    return Log(
        block=row[0],
        position=row[1],
        tx_position=row[2],
        address=row[3],
        topics=topics,
        data=row[8],
    )


def _log_row(log: Log) -> tuple[int | bytes | None, ...]:
    topics = (*log.topics, *(None for _ in range(TOPICS - len(log.topics))))
    return (log.block, log.position, log.tx_position, log.address, *topics, log.data)
