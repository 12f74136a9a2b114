"""The catalogue keeps models and rates over restarts, and a name means one model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from parhelion import store as store_room
from parhelion.models import MIGRATIONS, Catalogue
from parhelion.store import Store
from parhelion.words import AssetClass, Problem, ProblemCode

PRICES = {"PRLX.local": (4_000_000, 5_000_000)}


class Clock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 1_000_000

    def monotonic_s(self) -> float:
        return 0.0


async def open_store(folder: Path) -> Store:
    migrations = (*store_room.MIGRATIONS, *MIGRATIONS)
    return await Store.open(folder / "db", migrations, AssetClass.LOCAL, Clock())


@pytest.fixture
def files(tiny: ModuleType, tmp_path: Path) -> list[Path]:
    return [
        tiny.write_bpe(tmp_path / f"{number}.gguf", context=1024 * (number + 1))
        for number in range(3)
    ]


async def test_models_and_rates_outlive_a_restart(files: list[Path], tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    await catalogue.add("Lab/Two", files[1], rates=PRICES)
    await catalogue.set_rate("Lab/Two", "PRLX.local", prompt_micro=1, completion_micro=2)
    before = catalogue.models(), catalogue.rates("Lab/One"), catalogue.rates("Lab/Two")
    await store.close()
    store = await open_store(tmp_path)
    again = await Catalogue.open(store, Clock(), tmp_path)
    assert (again.models(), again.rates("Lab/One"), again.rates("Lab/Two")) == before
    await store.close()


async def test_a_new_rate_is_a_new_version(store: Store, files: list[Path], tmp_path: Path) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    await catalogue.set_rate("Lab/One", "PRLX.local", prompt_micro=0, completion_micro=0)
    await catalogue.set_rate("Lab/One", "USDC.local", prompt_micro=7, completion_micro=8)
    found = {rate.asset: rate for rate in catalogue.rates("Lab/One")}
    assert (found["PRLX.local"].version, found["PRLX.local"].prompt_micro) == (2, 0)
    assert (found["USDC.local"].version, found["USDC.local"].completion_micro) == (1, 8)


async def test_adding_the_same_file_again_changes_nothing(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    first = await catalogue.add("Lab/One", files[0], rates=PRICES)
    await catalogue.set_rate("Lab/One", "PRLX.local", prompt_micro=1, completion_micro=1)
    again = await catalogue.add("Lab/Other-Name", files[0], rates=PRICES)
    assert again == first
    assert [rate.version for rate in catalogue.rates("Lab/One")] == [2]
    moved = files[0].rename(tmp_path / "moved.gguf")
    assert (await catalogue.add("Lab/One", moved, rates=PRICES)).path == str(moved)
    assert len(catalogue.models()) == 1


async def test_an_id_never_changes_its_meaning(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    with pytest.raises(Problem) as caught:
        await catalogue.add("Lab/One", files[1], rates=PRICES)
    assert caught.value.code is ProblemCode.CONFLICT


async def test_a_name_is_an_id_or_the_one_last_part_that_fits(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    for id, file in zip(("A/Same", "B/Same", "B/Only"), files, strict=True):
        await catalogue.add(id, file, rates=PRICES)
    assert catalogue.resolve(None).card.id == "A/Same"
    assert catalogue.resolve("B/Same").card.id == "B/Same"
    assert catalogue.resolve("oNLY").card.id == "B/Only"
    for name in ("same", "", "C/Only", "b/only", "x"):
        with pytest.raises(Problem) as caught:
            catalogue.resolve(name)
        assert caught.value.code is ProblemCode.MODEL_NOT_FOUND
        assert "A/Same, B/Same, B/Only" in caught.value.message


async def test_an_empty_catalogue_knows_no_model(store: Store, tmp_path: Path) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    for name in (None, "x"):
        with pytest.raises(Problem) as caught:
            catalogue.resolve(name)
        assert caught.value.code is ProblemCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("id", ["", "/etc/passwd", "../x", "a//b", "a b", "x" * 129, "é", "a/"])
async def test_a_path_or_a_mess_is_no_id(
    store: Store, files: list[Path], tmp_path: Path, id: str
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    with pytest.raises(Problem) as caught:
        await catalogue.add(id, files[0], rates=PRICES)
    assert caught.value.code is ProblemCode.INVALID_REQUEST


@pytest.mark.parametrize("price", [-1, 10**15 + 1])
async def test_an_impossible_rate_is_refused(
    store: Store, files: list[Path], tmp_path: Path, price: int
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    with pytest.raises(Problem):
        await catalogue.add("Lab/One", files[0], rates={"PRLX.local": (price, 0)})
    assert catalogue.models() == ()


async def test_what_is_put_first_is_the_default_until_the_process_ends(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    for id, file in zip(("A/1", "A/2", "A/3"), files, strict=True):
        await catalogue.add(id, file, rates=PRICES)
    catalogue.put_first(["A/3", "A/2"])
    assert catalogue.resolve(None).card.id == "A/3"
    assert [model.card.id for model in catalogue.models()] == ["A/3", "A/2", "A/1"]
    again = await Catalogue.open(store, Clock(), tmp_path)
    assert again.resolve(None).card.id == "A/1"


async def test_a_removed_model_is_gone_and_its_rates_and_id_stay(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    two = await catalogue.add("Lab/Two", files[1], rates=PRICES)
    await catalogue.remove("Lab/Two")
    for seen in (catalogue, await Catalogue.open(store, Clock(), tmp_path)):
        assert [model.card.id for model in seen.models()] == ["Lab/One"]
        assert seen.by_digest(two.card.digest) is None
        assert [rate.version for rate in seen.rates("Lab/Two")] == [1]
        for name in ("Lab/Two", "two"):
            with pytest.raises(Problem) as caught:
                seen.resolve(name)
            assert caught.value.code is ProblemCode.MODEL_NOT_FOUND
        with pytest.raises(Problem) as caught:
            await seen.add("Lab/Two", files[2], rates=PRICES)
        assert caught.value.code is ProblemCode.CONFLICT
    with pytest.raises(Problem) as caught:
        await catalogue.remove("Lab/Two")
    assert caught.value.code is ProblemCode.MODEL_NOT_FOUND


async def test_the_default_is_not_removed(store: Store, files: list[Path], tmp_path: Path) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    await catalogue.add("Lab/Two", files[1], rates=PRICES)
    catalogue.put_first(["Lab/Two"])
    with pytest.raises(Problem, match="default") as caught:
        await catalogue.remove("Lab/Two")
    assert caught.value.code is ProblemCode.CONFLICT
    await catalogue.remove("Lab/One")
    assert [model.card.id for model in catalogue.models()] == ["Lab/Two"]


async def test_a_removed_model_comes_back_under_its_id_at_the_price_of_a_new_one(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    two = await catalogue.add("Lab/Two", files[1], rates={"PRLX.local": (0, 0)})
    await catalogue.remove("Lab/Two")
    # Removed while the pool was free, and added when it costs something: never for nothing.
    await catalogue.turn("paid", PRICES)
    back = await catalogue.add("Lab/Renamed", files[1], rates=PRICES)
    assert back == two
    (rate,) = catalogue.rates("Lab/Two")
    assert (rate.version, rate.prompt_micro) == (2, 4_000_000)
    again = await Catalogue.open(store, Clock(), tmp_path)
    assert again.resolve("Lab/Two") == two
    assert again.rates("Lab/Two") == (rate,)


async def test_a_pool_that_turns_keeps_that_and_every_price_together(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    assert catalogue.pricing is None
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    await catalogue.add("Lab/Two", files[1], rates={"USDC.local": (1, 1)})
    await catalogue.turn("free", {"PRLX.local": (0, 0)})
    for seen in (catalogue, await Catalogue.open(store, Clock(), tmp_path)):
        assert seen.pricing == "free"
        assert [(r.asset, r.version, r.prompt_micro) for r in seen.rates("Lab/One")] == [
            ("PRLX.local", 2, 0)
        ]
        # Of an asset that a model has no rate in, none is made.
        assert [(r.asset, r.version) for r in seen.rates("Lab/Two")] == [("USDC.local", 1)]


async def test_a_pool_that_turns_prices_one_model_otherwise_in_the_same_unit(
    store: Store, files: list[Path], tmp_path: Path
) -> None:
    catalogue = await Catalogue.open(store, Clock(), tmp_path)
    await catalogue.add("Lab/One", files[0], rates=PRICES)
    await catalogue.add("Lab/Two", files[1], rates=PRICES)
    dear = {"PRLX.local": (7, 8), "USDC.local": (9, 10)}
    await catalogue.turn("paid", {"PRLX.local": (1, 1)}, {"Lab/One": dear})
    with pytest.raises(Problem):
        await catalogue.turn("free", {"PRLX.local": (0, 0)}, {"Lab/None": dear})
    await catalogue.turn(None, {}, {"Lab/One": dear})
    for seen in (catalogue, await Catalogue.open(store, Clock(), tmp_path)):
        assert seen.pricing == "paid", "what was refused has changed nothing"
        assert {(r.asset, r.version, r.prompt_micro) for r in seen.rates("Lab/One")} == {
            ("PRLX.local", 2, 7),
            ("USDC.local", 1, 9),
        }
        assert [(r.version, r.prompt_micro) for r in seen.rates("Lab/Two")] == [(2, 1)]
