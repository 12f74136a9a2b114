"""Sessions that were opened before accounts without wallets are still there, as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from parhelion import identity, ledger
from parhelion.identity import Accounts, Keys, Sessions, session_spent
from parhelion.ledger import Ledger, Shares
from parhelion.store import Refused, Store
from parhelion.words import AssetClass
from tests.unit.identity.conftest import StillClock

WALLET = "eip155:84532:0x" + "1" * 40
BEFORE = tuple(step for step in identity.MIGRATIONS if step.number < 26)


async def test_sessions_and_keys_outlive_the_new_tables(tmp_path: Path, clock: StillClock) -> None:
    path = tmp_path / "older"
    old = await Store.open(path, (*ledger.MIGRATIONS, *BEFORE), AssetClass.LOCAL, clock)
    shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
    account = await Accounts(old, Ledger(old, clock, shares), clock).create("user")
    signed_in, _ = await Sessions(old, clock).open(account, "USDC", WALLET, 600)
    bought, session = await Sessions(old, clock).open(account, "USDC", WALLET, 600, "basic", "h1")
    await old.commit([Sessions(old, clock).spend(session, "req_1")])
    await old.close()
    new = await Store.open(
        path, (*ledger.MIGRATIONS, *identity.MIGRATIONS), AssetClass.LOCAL, clock
    )
    sessions = Sessions(new, clock)
    assert (await sessions.find(signed_in)).wallet == WALLET
    found = await sessions.find(bought)
    assert found.spent_by == "req_1" and "req_1" in session_spent(found).message
    with pytest.raises(Refused) as caught:
        await new.commit([sessions.spend(found, "req_2")])
    assert caught.value.kind == "check", "the trigger moved with the table"
    keys = Keys(new, clock)
    await keys.load()
    _, view = await keys.create(account, asset="USDC", name="operator's")
    assert [key.id for key in await keys.list_own(account)] == [view.id]
    await new.close()


async def test_no_wallet_pays_for_an_answer_that_has_none(
    store: Store, account: str, clock: StillClock
) -> None:
    with pytest.raises(ValueError, match="a wallet pays"):
        await Sessions(store, clock).open(account, "USDC", None, 60, "basic", "hold_1")
    token, _ = await Sessions(store, clock).open(account, "USDC", None, 60)
    assert (await Sessions(store, clock).find(token)).wallet is None
