"""The first key works at every start, whatever became of it meanwhile."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parhelion import identity, ledger
from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.first_key import first_key
from parhelion.config import Config
from parhelion.store import Store
from parhelion.words import AssetClass

GRANT_MICRO = Config().money.first_grant_micro


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Any]:
    clock = SystemClock()
    migrations = (*ledger.MIGRATIONS, *identity.MIGRATIONS)
    store = await Store.open(tmp_path / "db", migrations, AssetClass.LOCAL, clock)
    shares = ledger.Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
    books = ledger.Ledger(store, clock, shares)
    keys = identity.Keys(store, clock)
    await keys.load()
    accounts = identity.Accounts(store, books, clock)
    yield SimpleNamespace(
        keys=keys, ledger=books, accounts=accounts, clock=clock, config=Config(), store=store
    )
    await store.close()


def put_aside(data: Path) -> list[str]:
    return [path.read_text().strip() for path in data.glob("first-key.revoked-*")]


async def test_it_is_made_once_with_its_grant(rooms: Any, tmp_path: Path) -> None:
    first = await first_key(rooms, tmp_path)
    assert first == await first_key(rooms, tmp_path)
    assert first[1] == GRANT_MICRO
    assert len(await rooms.keys.list()) == 1


async def test_where_only_its_file_is_gone_its_account_gets_a_new_one_and_no_new_grant(
    rooms: Any, tmp_path: Path
) -> None:
    old, _ = await first_key(rooms, tmp_path)
    (tmp_path / "first-key").unlink()
    new, available_micro = await first_key(rooms, tmp_path)
    assert rooms.keys.authenticate(new).account == rooms.keys.authenticate(old).account
    assert available_micro == GRANT_MICRO


async def test_a_revoked_one_is_replaced_on_its_account_without_a_new_grant(
    rooms: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    old, _ = await first_key(rooms, tmp_path)
    view = rooms.keys.authenticate(old)
    await rooms.keys.revoke(view.id)
    new, available_micro = await first_key(rooms, tmp_path)
    assert new != old
    assert rooms.keys.authenticate(new).account == view.account
    assert available_micro == GRANT_MICRO
    assert any("first key" in record.message for record in caplog.records)
    assert put_aside(tmp_path) == [old]
    assert os.stat(tmp_path / "first-key").st_mode & 0o777 == 0o600
    # And so again, as often as somebody revokes it.
    await rooms.keys.revoke(rooms.keys.authenticate(new).id)
    assert (await first_key(rooms, tmp_path))[0] not in (old, new)


async def test_one_of_another_database_is_replaced_on_a_new_account_with_a_grant(
    rooms: Any, tmp_path: Path
) -> None:
    identity.write_secret(tmp_path / "first-key", "sk-prl-" + "A" * 43)
    secret, available_micro = await first_key(rooms, tmp_path)
    assert rooms.keys.authenticate(secret)
    assert available_micro == GRANT_MICRO
