"""A disk that is full or fails: nothing by halves, and it goes on when there is room again."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from parhelion.store import Statement, Store
from parhelion.store.writer import Writer
from parhelion.words import Problem, ProblemCode


def pages(limit: int) -> list[Statement]:
    # The pragma belongs to the connection, and units run on the writer's.
    return [Statement("limit", f"PRAGMA max_page_count = {limit}")]


def big(id: int) -> Statement:
    return Statement("big", "INSERT INTO blobs VALUES (?, ?)", (id, b"x" * 100_000), rows=1)


async def test_a_full_disk_fails_the_group_whole_and_the_store_works_again(store: Store) -> None:
    await store.commit([Statement("table", "CREATE TABLE blobs(id INTEGER, b BLOB)")])
    await store.commit(pages(60))
    results = await asyncio.gather(
        *(store.commit([big(number), big(number)]) for number in range(4)),
        return_exceptions=True,
    )
    codes = [r.code for r in results if isinstance(r, Problem)]
    assert codes == [ProblemCode.STORE_UNAVAILABLE] * 4
    assert await store.read("SELECT count(*) FROM blobs") == [(0,)]
    await store.commit(pages(1_000_000))
    await store.commit([big(1), big(2)])
    assert await store.read("SELECT count(*) FROM blobs") == [(2,)]
    assert await store.verify_chain() == ()


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
async def test_a_write_that_the_system_refuses_is_unavailable_and_passes(store: Store) -> None:
    import resource

    await store.commit([Statement("table", "CREATE TABLE blobs(id INTEGER, b BLOB)")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = store.path.with_name(store.path.name + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 5000, hard))
    try:
        with pytest.raises(Problem) as caught:
            await store.commit([big(1), big(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == ProblemCode.STORE_UNAVAILABLE
    assert await store.read("SELECT count(*) FROM blobs") == [(0,)]
    await store.commit([big(3)])
    assert await store.read("SELECT id FROM blobs") == [(3,)]
    assert await store.verify_chain() == ()


def test_after_a_failed_fsync_nothing_more_is_promised(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x", isolation_level=None)
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    writer = Writer.__new__(Writer)
    vars(writer).update(_connection=connection, _broken=None)
    assert writer._cause_of(failed)
    job = SimpleNamespace(unit=[], future=object())
    [(future, outcome)] = writer._commit_group([job])  # type: ignore[list-item]
    assert future is job.future
    assert isinstance(outcome, Problem)
    assert outcome.code == ProblemCode.STORE_UNAVAILABLE
    connection.close()
