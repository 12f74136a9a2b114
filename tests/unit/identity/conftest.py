"""A store with the tables of ledger and identity, and a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parhelion import identity, ledger
from parhelion.identity import Accounts
from parhelion.ledger import Ledger, Shares
from parhelion.store import Store
from parhelion.words import AssetClass


@dataclass
class StillClock:
    """Moves when the test says so."""

    ms: int = 1_790_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def store(tmp_path: Path, clock: StillClock) -> AsyncIterator[Store]:
    migrations = (*ledger.MIGRATIONS, *identity.MIGRATIONS)
    opened = await Store.open(tmp_path / "db", migrations, AssetClass.LOCAL, clock)
    yield opened
    await opened.close()


@pytest.fixture
def books(store: Store, clock: StillClock) -> Ledger:
    shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
    return Ledger(store, clock, shares)


@pytest.fixture
async def account(store: Store, books: Ledger, clock: StillClock) -> str:
    return await Accounts(store, books, clock).create("user")
