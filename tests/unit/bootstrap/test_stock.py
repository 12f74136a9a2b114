"""Rates are set when a model is new or a pool turns; what the owner set stays, also in a backup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parhelion import models
from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.stock import stock
from parhelion.config import MoneyConfig
from parhelion.models import DEFAULT_MODEL_ID, Catalogue, requantised
from parhelion.store import Statement, Store
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

    async def start_with(self, *files: tuple[str, Path]) -> None:
        await stock(self._catalogue, MoneyConfig(), self._data, files, free=PAID)

    def default(self) -> str:
        return self._catalogue.resolve(None).card.id

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


@pytest.mark.parametrize("before", [PAID, FREE])
async def test_a_restored_folder_turns_as_the_one_it_was_saved_from(
    tmp_path: Path, smollm2: Path, before: bool
) -> None:
    clock = SystemClock()
    store = await Store.open(tmp_path / "db", models.MIGRATIONS, AssetClass.LOCAL, clock)
    saved = Starts(await Catalogue.open(store, clock, tmp_path), tmp_path, smollm2)
    first = await saved.start(before)
    # What the rates look like says nothing: their owner may set any.
    await saved.owner_sets(*((5, 5) if before is FREE else (0, 0)))
    # The database is all that a backup has of this.
    new = tmp_path / "new"
    new.mkdir()
    await store.backup(new / "db")
    await store.close()
    store = await Store.open(new / "db", models.MIGRATIONS, AssetClass.LOCAL, clock)
    restored = Starts(await Catalogue.open(store, clock, new), new, smollm2)
    turned = await restored.start(not before)
    assert turned.version == (3 if before is FREE else 2)
    assert turned.prompt_micro == (0 if before is PAID else MoneyConfig().prompt_rate_micro)
    assert (await restored.start(before)).prompt_micro == first.prompt_micro
    assert list(new.glob("pricing*")) == []
    await store.close()


@pytest.mark.parametrize(("word", "price"), [("free", 4_000_000), ("paid", 9), ("b\xfcr", 9)])
async def test_the_file_of_an_older_folder_is_read_once_and_goes(
    pool: Starts, catalogue: Catalogue, tmp_path: Path, word: str, price: int
) -> None:
    await pool.start(PAID)
    await pool.owner_sets(9, 9)
    await forget_pricing(catalogue)
    (tmp_path / "pricing").write_text(f"{word}\n", "latin-1")
    assert (await pool.start(PAID)).prompt_micro == price
    assert not (tmp_path / "pricing").exists()
    await pool.owner_sets(7, 7)
    assert (await pool.start(PAID)).prompt_micro == 7


@pytest.mark.parametrize(("rate", "price"), [((0, 0), 4_000_000), ((0, 5), 0), ((3, 3), 3)])
async def test_an_older_backup_that_lost_the_file_never_serves_a_paid_pool_for_nothing(
    pool: Starts, catalogue: Catalogue, rate: tuple[int, int], price: int
) -> None:
    await pool.start(PAID)
    await pool.owner_sets(*rate)
    await forget_pricing(catalogue)
    assert (await pool.start(PAID)).prompt_micro == price


async def forget_pricing(catalogue: Catalogue) -> None:
    """As a database of before was: without the row."""
    await catalogue._store.commit([Statement("test", "DELETE FROM pricing")])
    catalogue.pricing = None


async def test_the_first_model_of_this_start_is_the_default(pool: Starts, smollm2: Path) -> None:
    other = ("Lab/Other", requantised(smollm2))
    await pool.start(PAID)
    assert pool.default() == DEFAULT_MODEL_ID
    await pool.start_with(other)
    assert pool.default() == "Lab/Other"
    await pool.start_with((DEFAULT_MODEL_ID, smollm2), other)
    assert pool.default() == DEFAULT_MODEL_ID
    # A file that is known by another id is that model.
    await pool.start_with(("Renamed/File", other[1]), (DEFAULT_MODEL_ID, smollm2))
    assert pool.default() == "Lab/Other"


USDC = {"USDC.local": (5, 6)}


def usdc(catalogue: Catalogue) -> tuple[int, int, int]:
    rates = {rate.asset: rate for rate in catalogue.rates(DEFAULT_MODEL_ID)}
    rate = rates["USDC.local"]
    return rate.prompt_micro, rate.completion_micro, rate.version


async def test_models_of_earlier_starts_get_a_rate_in_what_payments_come_in(
    pool: Starts, catalogue: Catalogue, tmp_path: Path
) -> None:
    await pool.start(PAID)
    # A start that serves nothing new, in a pool that is paid on a network from now on.
    await stock(catalogue, MoneyConfig(), tmp_path, [], free=PAID, sold_for=USDC)
    assert usdc(catalogue) == (5, 6, 1)
    await catalogue.set_rate(DEFAULT_MODEL_ID, "USDC.local", prompt_micro=9, completion_micro=9)
    await stock(catalogue, MoneyConfig(), tmp_path, [], free=PAID, sold_for=USDC)
    assert usdc(catalogue) == (9, 9, 2), "what the owner set stays"


async def test_a_free_pool_is_free_in_what_payments_come_in_too(
    catalogue: Catalogue, tmp_path: Path, smollm2: Path
) -> None:
    files = [(DEFAULT_MODEL_ID, smollm2)]
    await stock(catalogue, MoneyConfig(), tmp_path, files, free=FREE, sold_for=USDC)
    assert usdc(catalogue) == (0, 0, 1)
    await stock(catalogue, MoneyConfig(), tmp_path, files, free=PAID, sold_for=USDC)
    assert usdc(catalogue) == (5, 6, 2)
    assert catalogue.rates(DEFAULT_MODEL_ID)[0].asset == "PRLX.local", "its own asset is first"
