"""What everything else of a coordinator stands on: its key, its books, who holds keys to them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from parhelion import identity, payments, proof, store
from parhelion import ledger as ledgers
from parhelion import models as catalogues
from parhelion.bootstrap.ports import DATABASE
from parhelion.bootstrap.ready import Randomness, SystemClock
from parhelion.config import Config, MoneyConfig

MIGRATIONS = (
    *store.MIGRATIONS,
    *ledgers.MIGRATIONS,
    *identity.MIGRATIONS,
    *catalogues.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)


@dataclass(frozen=True, slots=True)
class Ground:
    """Opened once at a start; every other room gets its parts from here."""

    config: Config
    data: Path
    clock: SystemClock
    entropy: Randomness
    node_key: identity.NodeKey
    books: store.Store
    ledger: ledgers.Ledger
    keys: identity.Keys


async def open_ground(stack: contextlib.AsyncExitStack, config: Config, data: Path) -> Ground:
    """The data folder's key and database; `stack` closes them."""
    clock, entropy, money = SystemClock(), Randomness(), config.money
    node_key = identity.NodeKey.load_or_create(data / "coordinator.key")
    books = await store.Store.open(data / DATABASE, MIGRATIONS, money.asset_class, clock)
    stack.push_async_callback(books.close)
    keys = identity.Keys(books, clock)
    await keys.load()
    ledger = ledgers.Ledger(books, clock, _shares(money))
    return Ground(config, data, clock, entropy, node_key, books, ledger, keys)


def _shares(money: MoneyConfig) -> ledgers.Shares:
    return ledgers.Shares(
        operators_percent=money.operators_percent,
        treasury_percent=money.treasury_percent,
        infrastructure_percent=money.infrastructure_percent,
    )
