"""A store in a folder of its own, and a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from parhelion.store import Migration, Store
from parhelion.words import AssetClass

THINGS = Migration(
    70,
    "tests",
    """
    CREATE TABLE things(id INTEGER PRIMARY KEY, size INTEGER NOT NULL CHECK (size > 0)) STRICT;
    CREATE TABLE parts(thing INTEGER NOT NULL REFERENCES things(id)) STRICT;
    """,
)


class StillClock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.at_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000


@pytest.fixture(autouse=True)
def quick_disk() -> None:
    """Not here: what is durable when, and what a migration does, is what these tests are about."""


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def things() -> Migration:
    return THINGS


@pytest.fixture
def opened(tmp_path: Path, clock: StillClock) -> Callable[..., Awaitable[Store]]:
    async def open_store(
        name: str = "p.db",
        migrations: tuple[Migration, ...] = (THINGS,),
        asset_class: AssetClass = AssetClass.LOCAL,
    ) -> Store:
        return await Store.open(tmp_path / name, migrations, asset_class, clock)

    return open_store


@pytest.fixture
async def store(opened: Callable[..., Awaitable[Store]]) -> AsyncIterator[Store]:
    store = await opened()
    yield store
    await store.close()
