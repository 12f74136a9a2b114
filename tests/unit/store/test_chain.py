"""The chain of commits: what it shows, and what only a kept head shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from parhelion.store import Refused, Statement, Store, chain

Opened = Callable[..., Awaitable[Store]]

ADD = Statement("thing.add", "INSERT INTO things(size) VALUES (1)", rows=1)


@pytest.fixture
async def heads(opened: Opened) -> list[tuple[int, str]]:
    """Five commits in `p.db`, closed; their heads."""
    store = await opened()
    heads: list[tuple[int, str]] = []
    for _ in range(5):
        await store.commit([ADD])
        heads.append(await store.head())
    await store.close()
    return heads


def tamper(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(f"DROP TRIGGER commits_stay; DROP TRIGGER commits_remain; {statement}")
    connection.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE commits SET content = zeroblob(32) WHERE number = 4", "commit 4 does not follow"),
        ("UPDATE commits SET at_ms = at_ms + 1 WHERE number = 5", "commit 5 does not follow"),
        ("UPDATE commits SET hash = zeroblob(32) WHERE number = 3", "commit 3 does not follow"),
        ("DELETE FROM commits WHERE number = 4", "commit 4 is missing"),
        ("DELETE FROM commits WHERE number = 1", "commit 1 is missing"),
        ("DELETE FROM commits WHERE number > 5", "commits after 5 were cut off"),
        ("DELETE FROM commits", "commits after 0 were cut off"),
    ],
)
async def test_a_tampered_commit_is_found(
    opened: Opened,
    tmp_path: Path,
    heads: list[tuple[int, str]],
    statement: str,
    said: str,
) -> None:
    assert heads
    tamper(tmp_path / "p.db", statement)
    store = await opened()
    faults = await store.verify_chain()
    await store.close()
    assert len(faults) == 1
    assert faults[0].startswith(said)


async def test_a_history_written_anew_is_found_by_a_head_kept_elsewhere(
    opened: Opened, tmp_path: Path, heads: list[tuple[int, str]]
) -> None:
    connection = sqlite3.connect(tmp_path / "p.db")
    rows = [chain.Commit(*row) for row in connection.execute("SELECT * FROM commits LIMIT 4")]
    connection.close()
    head, forged = rows[-1], ""
    for _ in range(len(rows), heads[-1][0]):
        head = chain.follow(head, head.at_ms, b"\x07" * 32)
        forged += (
            f"UPDATE commits SET at_ms = {head.at_ms}, content = x'{head.content.hex()}', "
            f"hash = x'{head.hash.hex()}' WHERE number = {head.number};"
        )
    tamper(tmp_path / "p.db", forged)
    store = await opened()
    assert await store.verify_chain() == ()
    assert await store.verify_chain((rows[-1].number, rows[-1].hash.hex())) == ()
    assert "not the one that was kept" in (await store.verify_chain(heads[-1]))[0]
    await store.close()


async def test_every_kept_head_stays_part_of_the_chain(
    opened: Opened, heads: list[tuple[int, str]]
) -> None:
    store = await opened()
    await store.commit([ADD])
    for head in heads:
        assert await store.verify_chain(head) == ()
    await store.close()


async def test_commits_are_not_changed_or_removed_through_the_store(store: Store) -> None:
    await store.commit([ADD])
    for sql in ("UPDATE commits SET at_ms = 0", "DELETE FROM commits"):
        with pytest.raises(Refused):
            await store.commit([Statement("tamper", sql)])


def test_the_content_covers_every_statement_parameter_and_border_between_units() -> None:
    a, b = Statement("n", "A", (1,)), Statement("n", "B", ("x", None, b"y", 1.5))
    contents = {
        chain.content_of(units)
        for units in (
            [[a, b]],
            [[a], [b]],
            [[b, a]],
            [[a]],
            [[Statement("n", "A", (2,)), b]],
            [[Statement("n", "A", ("1",)), b]],
        )
    }
    assert len(contents) == 6


def test_the_content_is_of_the_statements_that_took_effect_alone() -> None:
    assert chain.content_of([[Statement("one name", "A")]]) == chain.content_of(
        [[Statement("another", "A", (), 1)]]
    )
