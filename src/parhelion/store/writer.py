"""The one writer: a thread that turns whatever waits into one durable commit.

GIL note: SQLite runs outside the GIL, and every statement hands it over twice. Rooms keep units
short in statements (triggers do the bookkeeping inside one step) for that reason.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from parhelion.store import chain, sql
from parhelion.store.opening import head_of
from parhelion.store.statements import RefusalKind, Refused, Row, Statement
from parhelion.words import Clock, Problem, ProblemCode

log = logging.getLogger("parhelion.store")

GROUP_LIMIT_UNITS = 1024
"""A group this long takes some 50 ms; more would only make its first callers wait longer."""

_UNIQUE = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}

_DISK = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_MISUSE,
}
"""Primary codes that concern the file, not one unit: the whole group fails."""

_FSYNC = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
"""After a failed fsync the system may have dropped the pages and call the next one a success."""

Rows = list[list[Row]]


class Job(NamedTuple):
    """A unit and who waits for it."""

    unit: Sequence[Statement]
    future: asyncio.Future[Rows]


Outcome = tuple[asyncio.Future[Rows], Rows | BaseException]


class Writer:
    """Owns the writing connection; batches of jobs come in, resolved futures go out."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        deliver: Callable[[list[Outcome]], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._deliver = deliver
        self._head = head_of(connection)
        self._broken: str | None = None
        # Bounded by the store, which counts the jobs that it has not seen come back.
        self._inbox: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="parhelion-store-writer", daemon=True)
        self._thread.start()

    def put(self, jobs: list[Job]) -> None:
        """Hand over jobs; their outcomes are delivered in the order of the commits."""
        self._inbox.put(jobs)

    def stop(self) -> None:
        """Finish what was put before, move the log into the file, close; blocks."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            jobs, going = self._take()
            for start in range(0, len(jobs), GROUP_LIMIT_UNITS):
                self._deliver(self._commit_group(jobs[start : start + GROUP_LIMIT_UNITS]))
        try:
            self._connection.execute(sql.TRUNCATE_LOG)
        except sqlite3.Error:
            # Nothing is lost: the next opening reads the log.
            log.warning("the log was not moved into the file at close", exc_info=True)
        self._connection.close()

    def _take(self) -> tuple[list[Job], bool]:
        """Wait for jobs, then take all there are, so that they share one fsync."""
        first = self._inbox.get()
        if first is None:
            return [], False
        jobs = list(first)
        while not self._inbox.empty() and len(jobs) < GROUP_LIMIT_UNITS:
            more = self._inbox.get()
            if more is None:
                return jobs, False
            jobs += more
        return jobs, True

    def _commit_group(self, jobs: list[Job]) -> list[Outcome]:
        if self._broken is not None:
            return self._fail(jobs, self._broken)
        try:
            return self._try_group(jobs)
        except sqlite3.Error as error:
            self._roll_back()
            return self._fail(jobs, self._cause_of(error))
        except Exception as error:
            # Ours, not the disk's (a clock, an encoding): nobody may wait for ever on it.
            self._roll_back()
            log.exception("a group commit failed")
            return [(job.future, error) for job in jobs]

    def _try_group(self, jobs: list[Job]) -> list[Outcome]:
        execute = self._connection.execute
        execute(sql.BEGIN)
        # A savepoint a unit is two statements more and copies of pages, and hardly ever is one
        # of any use: only a group in which a unit is refused runs a second time, with them.
        outcomes: list[Outcome] = [(future, self._run_unit(unit)) for unit, future in jobs]
        if any(isinstance(result, BaseException) for _, result in outcomes):
            execute(sql.ROLLBACK)
            execute(sql.BEGIN)
            outcomes = [(future, self._try_unit(unit)) for unit, future in jobs]
        kept = [
            job.unit
            for job, (_, result) in zip(jobs, outcomes, strict=True)
            if isinstance(result, list)
        ]
        if not kept:
            execute(sql.ROLLBACK)
            return outcomes
        head = chain.follow(self._head, self._clock.now_ms(), chain.content_of(kept))
        execute(sql.ADD_COMMIT, head)
        execute(sql.COMMIT)
        self._head = head
        return outcomes

    def _try_unit(self, unit: Sequence[Statement]) -> Rows | Exception:
        """`_run_unit` that leaves nothing of a refused unit behind."""
        execute = self._connection.execute
        execute(sql.UNIT)
        result = self._run_unit(unit)
        if isinstance(result, Exception):
            execute(sql.DROP_UNIT)
        execute(sql.KEEP_UNIT)
        return result

    def _run_unit(self, unit: Sequence[Statement]) -> Rows | Exception:
        """The rows of each statement, or what refused the unit; raises what fails the group."""
        execute = self._connection.execute
        results: Rows = []
        name = ""
        try:
            for statement in unit:
                name = statement.name
                cursor = execute(statement.sql, statement.params)
                rows: list[Row] = [] if cursor.description is None else cursor.fetchall()
                expected = statement.rows
                if expected is not None:
                    found = cursor.rowcount if cursor.description is None else len(rows)
                    if found != expected:
                        raise Refused(name, "rows", f"{found} rows, not {expected}")
                results.append(rows)
        except (sqlite3.Error, sqlite3.Warning, Refused, OverflowError, TypeError) as error:
            if _concerns_the_file(error):
                raise
            return _refusal(name, error)
        return results

    def _roll_back(self) -> None:
        # A full disk may have rolled back already; then there is nothing left to do.
        try:
            if self._connection.in_transaction:
                self._connection.execute(sql.ROLLBACK)
        except sqlite3.Error as error:
            self._broken = f"the store cannot roll back: {error}"
            log.critical("the store cannot roll back", exc_info=True)

    def _cause_of(self, error: sqlite3.Error) -> str:
        cause = f"the store could not write: {error}"
        if getattr(error, "sqlite_errorcode", None) in _FSYNC:
            # Only a new start, which reads back what is really there, can be trusted again.
            self._broken = cause
        log.error("a group commit failed", extra={"cause": str(error)})
        return cause

    def _fail(self, jobs: list[Job], cause: str) -> list[Outcome]:
        # One Problem each: an exception raised in many tasks would collect all their traces.
        return [(job.future, _unavailable(cause)) for job in jobs]


def _concerns_the_file(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DISK


def _refusal(name: str, error: Exception) -> Exception:
    """A constraint becomes Refused; a mistake in the statement stays what it is."""
    if not isinstance(error, sqlite3.IntegrityError):
        return error
    kind: RefusalKind = "check"
    if error.sqlite_errorcode in _UNIQUE:
        kind = "unique"
    elif error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        kind = "foreign"
    return Refused(name, kind, str(error))


def _unavailable(message: str) -> Problem:
    return Problem(
        ProblemCode.STORE_UNAVAILABLE,
        message,
        hint="look at the disk under the data folder (full? read-only?), then try again",
        retry_after_s=5,
    )
