"""The store's face: open, commit a unit, read, back up, verify, close."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from parhelion.store import chain, sql
from parhelion.store.lock import FileLock
from parhelion.store.opening import connect, open_writer
from parhelion.store.readers import Readers
from parhelion.store.statements import Migration, Row, SqlValue, Statement
from parhelion.store.writer import Job, Outcome, Rows, Writer
from parhelion.words import AssetClass, Clock, Problem, ProblemCode

UNITS_WAITING_LIMIT = 16_384
"""Over a second of work at full speed: who comes later is told so instead of waiting blindly."""

VERIFY_PAGE_ROWS = 4096
"""Commits checked between two looks at the event loop."""


class Store:
    """The one database file of a data folder: many readers, one writer, group commit.

    Made by `open`; used from one event loop. A unit is durable when `commit` returns: fsynced,
    together with whatever other units waited at that moment.
    """

    def __init__(
        self,
        path: Path,
        asset_class: AssetClass,
        clock: Clock,
        *,
        lock: FileLock,
        writer: sqlite3.Connection,
        readers: Readers,
    ) -> None:
        self.path = path
        self.asset_class = asset_class
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._readers = readers
        self._writer = Writer(writer, clock, self._deliver)
        self._batch: list[Job] = []
        self._waiting = 0
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        migrations: Sequence[Migration],
        asset_class: AssetClass,
        clock: Clock,
    ) -> Store:
        """The store in `path`, made or migrated; Problem when it is not ours to write."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        opening = asyncio.ensure_future(
            asyncio.to_thread(_open, path, migrations, asset_class, clock.now_ms())
        )
        try:
            connection, readers = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on; the lock is held until it is done with the file.
            opening.add_done_callback(lambda done: _abandon(done, lock))
            raise
        except BaseException:
            lock.release()
            raise
        return cls(path, asset_class, clock, lock=lock, writer=connection, readers=readers)

    async def commit(self, unit: Sequence[Statement]) -> Rows:
        """Make the unit durable, whole; its rows per statement, or Refused, or a Problem.

        Once called, the unit takes its course: cancelling the awaiter does not undo it. After
        STORE_UNAVAILABLE it did not take effect, save for a crash at that very moment.
        """
        if self._closed:
            raise _closed()
        if self._waiting >= UNITS_WAITING_LIMIT:
            raise Problem(ProblemCode.OVERLOADED, "too many writes are waiting", retry_after_s=1)
        future: asyncio.Future[Rows] = self._loop.create_future()
        self._waiting += 1
        # All tasks that wake in one turn of the loop write in one batch: one wake-up, one fsync.
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch.append(Job(unit, future))
        return await future

    async def read(self, sql: str, params: tuple[SqlValue, ...] = ()) -> list[Row]:
        """The rows of one query, on a snapshot that has every unit acknowledged before."""
        if self._closed:
            raise _closed()

        def work(connection: sqlite3.Connection) -> list[Row]:
            return connection.execute(sql, params).fetchall()

        return await self._readers.run(work)

    async def backup(self, target: Path) -> None:
        """A compact copy of one moment in a new file `target`; writing goes on meanwhile."""
        if self._closed:
            raise _closed()
        await asyncio.to_thread(_copy, self.path, target)

    async def head(self) -> tuple[int, str]:
        """The last commit's number and hash, to be kept elsewhere for `verify_chain`."""
        rows = await self.read(sql.HEAD)
        last = chain.Commit(*rows[0]) if rows else chain.FIRST  # type: ignore[arg-type]
        return last.number, last.hash.hex()

    async def verify_chain(self, known: tuple[int, str] | None = None) -> tuple[str, ...]:
        """Every fault found in the chain of commits (chain.py says what it proves); empty: none.

        `known` is a head kept elsewhere: it must still be part of the chain.
        """
        head, known_seen = chain.FIRST, known is None
        while rows := await self.read(sql.COMMITS_AFTER, (head.number, VERIFY_PAGE_ROWS)):
            for row in rows:
                commit = chain.Commit(*row)  # type: ignore[arg-type]
                if fault := chain.fault(head, commit):
                    return (fault,)
                head = commit
                known_seen = known_seen or (commit.number, commit.hash.hex()) == known
        if await self.read(sql.CUT_OFF):
            return (f"commits after {head.number} were cut off",)
        if not known_seen and known is not None:
            return (f"commit {known[0]} is not the one that was kept",)
        return ()

    async def close(self) -> None:
        """Finish the units and reads that wait, close the file and free the lock."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        await asyncio.shield(asyncio.to_thread(self._stop))

    def _flush(self) -> None:
        if self._batch:
            jobs, self._batch = self._batch, []
            self._writer.put(jobs)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Called in the writer's thread: one wake-up of the loop for the whole group."""
        try:
            self._loop.call_soon_threadsafe(self._resolve, outcomes)
        except RuntimeError:
            # The loop was closed under us (a test, an interpreter's end): nobody waits any more.
            return

    def _resolve(self, outcomes: list[Outcome]) -> None:
        self._waiting -= len(outcomes)
        for future, outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _stop(self) -> None:
        self._writer.stop()
        self._readers.stop()
        self._lock.release()


def _open(
    path: Path, migrations: Sequence[Migration], asset_class: AssetClass, now_ms: int
) -> tuple[sqlite3.Connection, Readers]:
    try:
        writer = open_writer(path, migrations, asset_class, now_ms)
        return writer, Readers(path)
    except sqlite3.DatabaseError as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"{path.name} cannot be opened: {error}",
            hint="is it Parhelion's own file, and may this user write it?",
        ) from error


def _abandon(done: asyncio.Future[tuple[sqlite3.Connection, Readers]], lock: FileLock) -> None:
    if not done.cancelled() and done.exception() is None:
        connection, readers = done.result()
        readers.stop()
        connection.close()
    lock.release()


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        raise Problem(
            ProblemCode.CONFLICT, f"{target.name} exists", hint="name a file that does not"
        )
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    # Made empty by us, because it holds what the file holds: nobody else may read it.
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = connect(source)
    try:
        connection.execute(sql.BACKUP, (str(partial),))
        # VACUUM INTO does not fsync what it writes.
        descriptor = os.open(partial, os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)
        os.replace(partial, target)
    except sqlite3.Error as error:
        raise Problem(
            ProblemCode.STORE_UNAVAILABLE,
            f"the backup failed: {error}",
            hint="is there room for it on that disk?",
        ) from error
    finally:
        connection.close()
        partial.unlink(missing_ok=True)


def _closed() -> Problem:
    return Problem(ProblemCode.STORE_UNAVAILABLE, "the store is closed", retry_after_s=5)
