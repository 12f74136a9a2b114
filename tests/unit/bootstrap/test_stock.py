"""Rates are set when a model is new or a pool turns; what the owner set stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parhelion import models
from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.stock import stock
from parhelion.config import MoneyConfig
from parhelion.models import DEFAULT_MODEL_ID, Catalogue
from parhelion.store import Store
from parhelion.words import AssetClass, Rate

PAID, FREE = False, True


@pytest.fixture
async def catalogue(tmp_path: Path) -> AsyncIterator[Catalogue]:
    clock = SystemClock()
    store = await Store.open(tmp_path / "db", models.MIGRATIONS, AssetClass.LOCAL, clock)
    yield await Catalogue.open(store, clock, tmp_path)
    await store.close()


class Starts:
    """One start of the pool after another, over the same folder."""

    def __init__(self, catalogue: Catalogue, data: Path, file: Path) -> None:
        self._catalogue, self._data, self._file = catalogue, data, file

    async def start(self, free: bool, money: MoneyConfig | None = None) -> Rate:
        files = [(DEFAULT_MODEL_ID, self._file)]
        await stock(self._catalogue, money or MoneyConfig(), self._data, files, free=free)
        return self._catalogue.rates(DEFAULT_MODEL_ID)[0]

    async def owner_sets(self, prompt: int, completion: int) -> None:
        await self._catalogue.set_rate(
            DEFAULT_MODEL_ID, "PRLX.local", prompt_micro=prompt, completion_micro=completion
        )


@pytest.fixture
def pool(catalogue: Catalogue, tmp_path: Path, smollm2: Path) -> Starts:
    return Starts(catalogue, tmp_path, smollm2)


async def test_a_paid_pool_whose_rates_are_zero_gets_no_new_version_at_each_start(
    pool: Starts,
) -> None:
    nothing = MoneyConfig(prompt_rate_micro=0, completion_rate_micro=0)
    first = await pool.start(PAID, nothing)
    assert (first.prompt_micro, first.completion_micro, first.version) == (0, 0, 1)
    assert await pool.start(PAID, nothing) == first
    assert await pool.start(PAID, nothing) == first


@pytest.mark.parametrize("rate", [(0, 0), (7, 9)])
@pytest.mark.parametrize("free", [PAID, FREE])
async def test_what_the_owner_set_stays_at_a_restart(
    pool: Starts, free: bool, rate: tuple[int, int]
) -> None:
    await pool.start(free)
    await pool.owner_sets(*rate)
    again = await pool.start(free)
    assert (again.prompt_micro, again.completion_micro, again.version) == (*rate, 2)


async def test_a_pool_that_turns_free_or_paid_gets_the_rates_of_that_once(pool: Starts) -> None:
    paid = await pool.start(PAID)
    assert paid.prompt_micro == MoneyConfig().prompt_rate_micro
    free = await pool.start(FREE)
    assert (free.prompt_micro, free.completion_micro, free.version) == (0, 0, 2)
    assert await pool.start(FREE) == free
    again = await pool.start(PAID)
    assert (again.prompt_micro, again.version) == (paid.prompt_micro, 3)
    assert await pool.start(PAID) == again
