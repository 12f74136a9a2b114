"""Opening: migrations, class of money, the lock, backups."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from parhelion.store import Migration, Statement, Store
from parhelion.store.opening import statements_of
from parhelion.words import AssetClass, Problem, ProblemCode

Opened = Callable[..., Awaitable[Store]]

ADD = Statement("thing.add", "INSERT INTO things(size) VALUES (1)", rows=1)


async def test_migrations_run_once_and_new_ones_later(opened: Opened, things: Migration) -> None:
    store = await opened()
    await store.commit([ADD])
    await store.close()
    more = Migration(71, "tests", "ALTER TABLE things ADD COLUMN colour TEXT;")
    store = await opened(migrations=(things, more))
    assert await store.read("SELECT size, colour FROM things") == [(1, None)]
    numbers = await store.read("SELECT number FROM migrations ORDER BY number")
    assert numbers == [(1,), (70,), (71,)]
    assert await store.verify_chain() == ()
    await store.close()


async def test_the_writer_waits_for_the_disk_and_not_only_for_its_cache(opened: Opened) -> None:
    store = await opened()
    asked = ("synchronous", "fullfsync", "checkpoint_fullfsync")
    rows = await store.commit([Statement(name, f"PRAGMA {name}") for name in asked])
    full, on = 2, 1
    assert rows == [[(full,)], [(on,)], [(on,)]]
    await store.close()


async def test_a_newer_file_is_refused(opened: Opened, things: Migration) -> None:
    newer = Migration(72, "tests", "CREATE TABLE of_tomorrow(a) STRICT;".replace("a)", "a TEXT)"))
    await (await opened(migrations=(things, newer))).close()
    with pytest.raises(Problem, match="newer Parhelion") as caught:
        await opened()
    assert caught.value.code == ProblemCode.CONFIG_INVALID
    await (await opened(migrations=(things, newer))).close()


async def test_an_edited_migration_is_refused(opened: Opened, things: Migration) -> None:
    await (await opened()).close()
    edited = Migration(things.number, things.room, things.sql + " CREATE TABLE x(a TEXT) STRICT;")
    with pytest.raises(Problem, match="differs"):
        await opened(migrations=(edited,))


async def test_a_migration_that_fails_leaves_nothing(opened: Opened, things: Migration) -> None:
    half = Migration(71, "tests", "CREATE TABLE half(a TEXT); CREATE TABLE things(a TEXT);")
    with pytest.raises(Problem):
        await opened(migrations=(things, half))
    store = await opened()
    assert await store.read("SELECT name FROM sqlite_schema WHERE name = 'half'") == []
    await store.close()


async def test_a_folder_keeps_its_class_of_money(opened: Opened) -> None:
    await (await opened()).close()
    with pytest.raises(Problem, match="holds local money") as caught:
        await opened(asset_class=AssetClass.MAIN)
    assert caught.value.code == ProblemCode.CONFIG_INVALID
    await (await opened()).close()


async def test_what_is_no_database_is_refused(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "p.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(Problem) as caught:
        await opened()
    assert caught.value.code == ProblemCode.CONFIG_INVALID


async def test_a_file_in_use_is_refused_here_and_in_another_process(
    opened: Opened, store: Store
) -> None:
    with pytest.raises(Problem, match="in use by another process"):
        await opened()
    script = (
        "import sys; from pathlib import Path; from parhelion.store.lock import FileLock\n"
        "from parhelion.words import Problem\n"
        "try: FileLock(Path(sys.argv[1]))\n"
        "except Problem as problem: print(problem.message)"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(store.path), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(child.communicate(), 30)
    assert b"in use by another process" in said
    await store.commit([ADD])


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
async def test_only_the_owner_may_read_the_files(store: Store, tmp_path: Path) -> None:
    await store.commit([ADD])
    await store.backup(tmp_path / "copy.db")
    modes = {entry.name: entry.stat().st_mode & 0o077 for entry in os.scandir(tmp_path)}
    assert len(modes) >= 4
    assert set(modes.values()) == {0}, modes


async def test_a_backup_is_a_store_of_the_same_moment(
    opened: Opened, store: Store, tmp_path: Path
) -> None:
    await store.commit([ADD])
    head = await store.head()
    await store.backup(tmp_path / "copy.db")
    await store.commit([ADD])
    copy = await opened("copy.db")
    assert await copy.read("SELECT count(*) FROM things") == [(1,)]
    assert await copy.head() == head
    assert await copy.verify_chain() == ()
    await copy.commit([ADD])
    await copy.close()


async def test_a_backup_replaces_no_file(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep me")
    with pytest.raises(Problem, match="exists"):
        await store.backup(target)
    assert target.read_text() == "keep me"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


def test_a_script_is_split_at_statements_and_not_inside_triggers() -> None:
    script = """
    CREATE TABLE t(a TEXT); -- with a comment; and a semicolon
    CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; SELECT ';'; END;
    """
    assert [text.split("\n")[-1].split()[1] for text in statements_of(script)] == [
        "TABLE",
        "TRIGGER",
    ]
    connection = sqlite3.connect(":memory:")
    for text in statements_of(script):
        connection.execute(text)
    connection.close()


def test_a_script_that_ends_inside_a_statement_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="inside a statement"):
        list(statements_of("CREATE TABLE t(a TEXT); CREATE TABLE u(a TEXT)"))
