"""Slices that are to lie ready for a stage which takes another one's place soon."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from parhelion.link import LoadStage, StageFailed, StageLoaded, UnloadStage
from parhelion.node.stage_orders import STAGES_LIMIT
from parhelion.words import Problem, ProblemCode
from tests.unit.node.staging import Scene, load, settle


def ahead(name: str = "two", size_bytes: int = 400) -> LoadStage:
    return structs.replace(load(name, size_bytes, start=15, end=30), only_fetch=True)


@pytest.fixture
async def scene(clock: Any) -> Scene:
    return Scene(clock)


async def test_it_is_fetched_beside_what_serves_and_nothing_is_started(scene: Scene) -> None:
    # Both at once would be more memory than this node offers.
    serving = await scene.loaded(size_bytes=900)
    await scene.obey(ahead(size_bytes=900))
    told = scene.of(StageLoaded)[-1]
    assert (told.stage, told.only_fetched, told.resident_bytes) == ("two", True, 0)
    assert told.fetched_bytes == 123 and scene.released == 1
    assert scene.hosts == [serving] and not serving.stopped
    assert [stage.name for stage in scene.stages.held()] == ["one"]


async def test_what_cannot_be_fetched_is_said_and_what_serves_goes_on(scene: Scene) -> None:
    serving = await scene.loaded()
    scene.find_fails = Problem(ProblemCode.ARTEFACT_UNAVAILABLE, "nobody has it")
    await scene.obey(ahead())
    (failed,) = scene.of(StageFailed)
    assert (failed.stage, failed.code) == ("two", "artefact_unavailable")
    assert not serving.stopped


@pytest.mark.parametrize("order", [ahead(size_bytes=1001), ahead(size_bytes=0)])
async def test_what_could_never_be_held_is_not_fetched(scene: Scene, order: LoadStage) -> None:
    await scene.obey(order)
    assert len(scene.of(StageFailed)) == 1 and not scene.of(StageLoaded)


async def test_a_load_of_it_ends_the_fetch_and_is_answered_as_a_load(scene: Scene) -> None:
    scene.find_waits = asyncio.Event()
    await scene.obey(ahead(), structs.replace(ahead(), only_fetch=False))
    scene.find_waits.set()
    await settle(lambda: bool(scene.of(StageLoaded)))
    (told,) = scene.of(StageLoaded)
    assert not told.only_fetched and told.resident_bytes


@pytest.mark.parametrize("how", ["unload", "session ends", "node stops"])
async def test_nobody_hears_of_a_fetch_that_nobody_wants_any_more(scene: Scene, how: str) -> None:
    scene.find_waits = asyncio.Event()
    await scene.obey(ahead())
    if how == "unload":
        await scene.obey(UnloadStage(stage="two"))
    else:
        await (scene.stages.end() if how == "session ends" else scene.stages.stop())
    scene.find_waits.set()
    await settle()
    assert scene.said == []


async def test_so_many_at_once_and_no_more(scene: Scene) -> None:
    scene.find_waits = asyncio.Event()
    await scene.obey(*(ahead(f"number-{place}") for place in range(STAGES_LIMIT)))
    assert not scene.of(StageFailed)
    await scene.obey(ahead("one-too-many"))
    (failed,) = scene.of(StageFailed)
    assert (failed.stage, failed.code) == ("one-too-many", "overloaded")
    await scene.stages.stop()
