"""A wallet answers for exactly one account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parhelion import identity, ledger
from parhelion.identity import Wallets, caip10, is_solana_address
from parhelion.ledger import Ledger, Shares
from parhelion.store import Store
from parhelion.testing.clock import ManualClock
from parhelion.words import AssetClass, Problem

SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
EVM = "eip155:84532:0x" + "Ab" * 20
SOLANA = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1:7oYKnwHxzXitcxJuPV7EP9mPaLbkubgcT3jZa63E1gWA"


@pytest.fixture
async def wallets(tmp_path: Path) -> AsyncIterator[Wallets]:
    clock = ManualClock()
    migrations = (*ledger.MIGRATIONS, *identity.MIGRATIONS)
    store = await Store.open(tmp_path / "w.db", migrations, AssetClass.LOCAL, clock)
    yield Wallets(store, Ledger(store, clock, SHARES), clock)
    await store.close()


async def test_a_wallets_account_is_opened_once_and_found_in_any_case(wallets: Wallets) -> None:
    assert await wallets.find(EVM) is None
    account = await wallets.account_of(EVM)
    assert await wallets.account_of(EVM.lower()) == account == await wallets.find(EVM)
    assert await wallets.of_account(account) == (EVM.lower(),)


async def test_many_at_once_open_one_account(wallets: Wallets) -> None:
    accounts = await asyncio.gather(*(wallets.account_of(SOLANA) for _ in range(16)))
    assert len(set(accounts)) == 1


async def test_the_same_key_on_another_chain_is_another_wallet(wallets: Wallets) -> None:
    other = EVM.replace("84532", "8453")
    assert await wallets.account_of(EVM) != await wallets.account_of(other)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "0x" + "ab" * 20,
        "eip155:1:0xab",
        "eip155::0x" + "ab" * 20,
        "eip155:x:0x" + "ab" * 20,
        SOLANA[:-1] + "0",
        SOLANA + "1",
        "solana:short:" + SOLANA.rpartition(":")[2],
        SOLANA.rpartition(":")[0] + ":" + "1" * 33,
        EVM + "\n",
    ],
)
def test_what_is_no_wallet_is_refused(bad: str) -> None:
    with pytest.raises(Problem):
        caip10(bad)


def test_a_solana_address_is_32_bytes_in_their_one_text() -> None:
    assert is_solana_address("1" * 32)
    assert not is_solana_address("1" * 31)
    assert not is_solana_address("é" * 32)
