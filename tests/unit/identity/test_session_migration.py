"""Sessions that were opened before accounts without wallets are still there, as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from parhelion import identity, ledger
from parhelion.identity import Accounts, Keys, Sessions, session_spent
from parhelion.identity.secrets import at_rest
from parhelion.ledger import Ledger, Shares
from parhelion.store import Refused, Statement, Store
from parhelion.words import AssetClass
from tests.unit.identity.conftest import StillClock

WALLET = "eip155:84532:0x" + "1" * 40
BEFORE = tuple(step for step in identity.MIGRATIONS if step.number < 26)


async def test_sessions_and_keys_outlive_the_new_tables(tmp_path: Path, clock: StillClock) -> None:
    path = tmp_path / "older"
    old = await Store.open(path, (*ledger.MIGRATIONS, *BEFORE), AssetClass.LOCAL, clock)
    shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
    account = await Accounts(old, Ledger(old, clock, shares), clock).create("user")
    signed_in = await opened(old, clock, account)
    bought = await opened(old, clock, account, "basic", "h1", "req_1")
    await old.close()
    new = await Store.open(
        path, (*ledger.MIGRATIONS, *identity.MIGRATIONS), AssetClass.LOCAL, clock
    )
    sessions = Sessions(new, clock)
    assert (await sessions.find(signed_in)).wallet == WALLET
    found = await sessions.find(bought)
    assert (found.tier, found.sold) == ("basic", None), "the terms were not kept then"
    assert found.spent_by == "req_1" and "req_1" in session_spent(found).message
    with pytest.raises(Refused) as caught:
        await new.commit([sessions.spend(found, "req_2")])
    assert caught.value.kind == "check", "the trigger moved with the table"
    keys = Keys(new, clock)
    await keys.load()
    _, view = await keys.create(account, asset="USDC", name="operator's")
    assert [key.id for key in await keys.list_own(account)] == [view.id]
    await new.close()


async def opened(
    old: Store,
    clock: StillClock,
    account: str,
    tier: str | None = None,
    hold: str | None = None,
    spent_by: str | None = None,
) -> str:
    """A session's token, its row as it was written before there were terms in it."""
    token, session, _ = Sessions(old, clock).issue(account, "USDC", WALLET, 600, tier, hold)
    row = (session.id, at_rest(token), account, "USDC", WALLET, tier, hold, spent_by, 0)
    sql = """
    INSERT INTO sessions(
        id, hash, account, asset, wallet, tier, hold, spent_by, opened_at_ms, expires_at_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    """
    await old.commit([Statement("session.open", sql, (*row, session.expires_at_ms), rows=1)])
    return token


async def test_no_wallet_pays_for_an_answer_that_has_none(
    store: Store, account: str, clock: StillClock
) -> None:
    with pytest.raises(ValueError, match="a wallet pays"):
        await Sessions(store, clock).open(account, "USDC", None, 60, "basic", "hold_1")
    token, _ = await Sessions(store, clock).open(account, "USDC", None, 60)
    assert (await Sessions(store, clock).find(token)).wallet is None
