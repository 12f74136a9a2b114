"""A ledger over a real store in a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parhelion import ledger as room
from parhelion.ledger import Ledger, Shares
from parhelion.store import Migration, Store
from parhelion.words import AssetClass, Grant, Rate

ASSET = "PRLX.local"

ALSO = Migration(
    70, "tests", "CREATE TABLE also(id TEXT PRIMARY KEY, n INTEGER CHECK (n < 10)) STRICT;"
)


class StillClock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.at_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000


class Books:
    """A ledger, its store and clock, and short words for what tests do most."""

    asset = ASSET
    shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)

    def __init__(self, store: Store, clock: StillClock) -> None:
        self.store = store
        self.clock = clock
        self.ledger = Ledger(store, clock, self.shares)

    async def user(self, account: str, credits_micro: int = 0) -> None:
        await self.ledger.open_account(account, "user")
        if credits_micro:
            await self.ledger.grant(
                account, ASSET, credits_micro, id=f"grant_{account}", reason="welcome"
            )

    def leave(self, account: str, amount_micro: int, key: str | None = None) -> Grant:
        rate = Rate(
            model="org/model", asset=ASSET, version=3, prompt_micro=4_000_000, completion_micro=10
        )
        return Grant(account=account, key=key, rate=rate, amount_micro=amount_micro, seed=1)

    async def hold(self, account: str, amount_micro: int, request: str, **more):  # type: ignore[no-untyped-def]
        more.setdefault("expires_at_ms", self.clock.at_ms + 60_000)
        return await self.ledger.hold(
            self.leave(account, amount_micro), request, prompt_tokens=7, **more
        )

    async def has(self, account: str) -> tuple[int, int]:
        balance = await self.ledger.balance(account, ASSET)
        return balance.available_micro, balance.held_micro


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    clock = StillClock()
    store = await Store.open(tmp_path / "l.db", (*room.MIGRATIONS, ALSO), AssetClass.LOCAL, clock)
    books = Books(store, clock)
    yield books
    # Whatever a test did, it leaves exact books and a whole chain.
    assert await books.ledger.audit() == ()
    assert await store.verify_chain() == ()
    await store.close()
