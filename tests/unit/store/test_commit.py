"""Units: whole or not at all, each on its own, durable together."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable

import pytest

from parhelion.store import Refused, Statement, Store
from parhelion.store.readers import WAITING_LIMIT
from parhelion.store.store import UNITS_WAITING_LIMIT
from parhelion.words import Problem, ProblemCode

Opened = Callable[..., Awaitable[Store]]


def thing(id: int, size: int = 1) -> Statement:
    return Statement("thing.add", "INSERT INTO things VALUES (?, ?)", (id, size), rows=1)


async def ids(store: Store) -> list[object]:
    return [row[0] for row in await store.read("SELECT id FROM things ORDER BY id")]


async def test_a_unit_returns_the_rows_of_each_statement(store: Store) -> None:
    rows = await store.commit(
        [
            thing(1, 5),
            Statement("grow", "UPDATE things SET size = size + 1 RETURNING id, size", rows=1),
            Statement("look", "SELECT count(*) FROM things"),
        ]
    )
    assert rows == [[], [(1, 6)], [(1,)]]


async def test_an_acknowledged_unit_is_seen_by_every_later_read(store: Store) -> None:
    for number in range(20):
        await store.commit([thing(number)])
        assert (await ids(store))[-1] == number


async def test_a_refused_unit_leaves_nothing_and_does_not_hurt_its_group(store: Store) -> None:
    units = [
        [thing(1), thing(2, size=0)],
        [thing(3)],
        [thing(4), thing(3)],
        [Statement("grow", "UPDATE things SET size = 9 WHERE id = 77", rows=1)],
        [Statement("part", "INSERT INTO parts VALUES (99)")],
        [Statement("wrong", "this is not SQL")],
        [thing(5), Statement("bind", "SELECT ?, ?", (1,))],
        [Statement("huge", "SELECT ?", (2**70,))],
        [thing(6)],
    ]
    before, _ = await store.head()
    results = await asyncio.gather(*map(store.commit, units), return_exceptions=True)
    after, _ = await store.head()
    assert after == before + 1, "all of them were one group commit"
    said = [(r.name, r.kind) if isinstance(r, Refused) else type(r) for r in results]
    assert said == [
        ("thing.add", "check"),
        list,
        ("thing.add", "unique"),
        ("grow", "rows"),
        ("part", "foreign"),
        sqlite3.OperationalError,
        sqlite3.ProgrammingError,
        OverflowError,
        list,
    ]
    assert await ids(store) == [3, 6]
    assert await store.verify_chain() == ()


async def test_a_group_of_refusals_makes_no_commit(store: Store) -> None:
    before = await store.head()
    with pytest.raises(Refused):
        await store.commit([thing(1, size=-1)])
    assert await store.head() == before


async def test_a_cancelled_caller_does_not_undo_its_unit(store: Store) -> None:
    task = asyncio.create_task(store.commit([thing(1)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.commit([thing(2)])
    assert await ids(store) == [1, 2]


async def test_callers_that_wake_together_share_one_commit(store: Store) -> None:
    before, _ = await store.head()
    await asyncio.gather(*(store.commit([thing(number)]) for number in range(200)))
    after, _ = await store.head()
    assert after == before + 1


async def test_too_many_waiting_writes_are_refused_and_the_rest_go_through(store: Store) -> None:
    look = [Statement("look", "SELECT 1")]
    results = await asyncio.gather(
        *(store.commit(look) for _ in range(UNITS_WAITING_LIMIT + 5)), return_exceptions=True
    )
    refused = [r.code for r in results if isinstance(r, Problem)]
    assert refused == [ProblemCode.OVERLOADED] * 5
    assert results.count([[(1,)]]) == UNITS_WAITING_LIMIT
    await store.commit([thing(99)])


async def test_too_many_waiting_reads_are_refused(store: Store) -> None:
    results = await asyncio.gather(
        *(store.read("SELECT 1") for _ in range(WAITING_LIMIT + 2)), return_exceptions=True
    )
    assert sum(isinstance(r, Problem) and r.code == ProblemCode.OVERLOADED for r in results) == 2
    assert await store.read("SELECT 1") == [(1,)]


async def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await store.read("INSERT INTO things VALUES (1, 1)")


async def test_close_finishes_what_waits_and_refuses_what_comes_after(opened: Opened) -> None:
    store = await opened()
    waiting = [asyncio.create_task(store.commit([thing(number)])) for number in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert len(await asyncio.gather(*waiting)) == 50
    for late in (store.commit([thing(99)]), store.read("SELECT 1"), store.backup(store.path)):
        with pytest.raises(Problem) as caught:
            await late
        assert caught.value.code == ProblemCode.STORE_UNAVAILABLE
    again = await opened()
    assert len(await ids(again)) == 50
    await again.close()
