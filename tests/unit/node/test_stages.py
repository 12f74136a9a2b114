"""Stages of a node: loaded, refused, kept over a lost session, let go, whatever is ordered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.link import (
    JobFailed,
    LoadStage,
    PairDown,
    StageFailed,
    StageLoaded,
    StageTimed,
    TimeStage,
    UnloadStage,
)
from parhelion.node import stages as keeping
from parhelion.node.stage_jobs import TIMINGS_LIMIT
from parhelion.node.stage_orders import STAGES_LIMIT, memory_refusal
from parhelion.words import Problem, ProblemCode, StageOffer
from tests.unit.node.staging import (
    MIDDLE,
    Scene,
    close_at,
    ids,
    load,
    open_at,
    pair_at,
    settle,
    spec,
    ticket,
)


@pytest.fixture
async def scene(clock: Any) -> Scene:
    return Scene(clock)


async def test_a_stage_is_found_started_and_said_to_be_loaded(scene: Scene) -> None:
    await scene.obey(load())
    (loaded,) = scene.of(StageLoaded)
    assert (loaded.stage, loaded.resident_bytes, loaded.fetched_bytes) == ("one", 77, 123)
    assert loaded.device == "none", "as its process detected it"
    (state,) = scene.stages.states()
    assert (state.stage, state.resident_bytes, state.steps) == ("one", 88, 0)


async def test_a_stage_that_is_held_is_confirmed_at_once_and_not_started_again(
    scene: Scene,
) -> None:
    await scene.obey(load(), load())
    assert len(scene.of(StageLoaded)) == 2 and len(scene.hosts) == 1


async def test_one_that_still_loads_is_answered_once_when_it_has(scene: Scene) -> None:
    scene.find_waits = asyncio.Event()
    await scene.obey(load(), load())
    assert scene.said == []
    scene.find_waits.set()
    await settle()
    assert len(scene.of(StageLoaded)) == 1 and len(scene.hosts) == 1


async def test_other_layers_under_the_same_name_take_the_place_of_the_former(
    scene: Scene,
) -> None:
    first = await scene.loaded()
    await scene.obey(load(end=12))
    assert first.stopped and scene.host.spec.end == 12 and scene.released == 1
    assert len(scene.of(StageLoaded)) == 2


async def test_another_wire_is_another_stage_and_is_loaded_anew(clock: Any) -> None:
    """Who is in a pipeline decides what all of them write, and that may change."""
    scene = Scene(clock, StageOffer(memory_bytes=1000, wires=("fp32", "bf16")))
    first = await scene.loaded(wire="bf16")
    await scene.obey(load())
    assert first.stopped and [host.spec.wire for host in scene.hosts] == ["bf16", "fp32"]
    assert len(scene.of(StageLoaded)) == 2


async def test_how_many_stages_there_are_concerns_only_the_first_one(scene: Scene) -> None:
    await scene.obey(load("m", **MIDDLE), load("m", **{**MIDDLE, "stages": 4}))
    assert len(scene.hosts) == 1
    await scene.obey(load("f", size_bytes=100, stages=2), load("f", size_bytes=100, stages=3))
    assert len(scene.hosts) == 3


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (load(size_bytes=1001), "overloaded"),
        (load(size_bytes=0), "invalid_request"),
        (load(start=15, end=15), "invalid_request"),
        (load(start=-1), "invalid_request"),
        (load(end=31), "invalid_request"),
        (load(stages=1), "invalid_request"),
        (load(slots=0), "invalid_request"),
        (load(slots=10**6), "invalid_request"),
        (load(context=0), "invalid_request"),
        (load(kv_tokens=2**40), "invalid_request"),
        (load(digest="../../etc/passwd"), "invalid_request"),
        (LoadStage(stage="x", spec=spec(), size_bytes=1, sha256="../x"), "invalid_request"),
        (LoadStage(stage="", spec=spec(), size_bytes=1, sha256="5" * 64), "invalid_request"),
        (LoadStage(stage="n" * 129, spec=spec(), size_bytes=1, sha256="5" * 64), "invalid_request"),
        (load(holders=(ticket(),) * 3), "invalid_request"),
        (load(holders=(ticket("accept"),)), "invalid_request"),
        (load(token="t" * 5000), "invalid_request"),
    ],
)
async def test_what_no_node_can_hold_is_refused_before_anything_is_fetched(
    order: LoadStage, code: str, scene: Scene
) -> None:
    await scene.obey(order)
    (failed,) = scene.of(StageFailed)
    assert (failed.stage, failed.code) == (order.stage, code)
    assert scene.hosts == [] and scene.stages.held() == ()


async def test_a_wire_that_was_not_offered_is_refused(clock: Any) -> None:
    from tests.unit.node.staging import OFFER

    scene = Scene(clock, type(OFFER)(memory_bytes=1000))
    await scene.obey(load(wire="bf16"))
    assert [failed.code for failed in scene.of(StageFailed)] == ["unsupported_parameter"]


async def test_stages_together_get_no_more_memory_than_was_offered(scene: Scene) -> None:
    await scene.obey(load("a", 600), load("b", 401))
    (failed,) = scene.of(StageFailed)
    assert failed.stage == "b" and failed.code == "overloaded" and "600 bytes are" in failed.message
    await scene.obey(UnloadStage(stage="a"), load("b", 401))
    assert [loaded.stage for loaded in scene.of(StageLoaded)] == ["a", "b"]


def test_memory_that_is_short_is_said_in_the_plans_units() -> None:
    refused = memory_refusal(69 * 2**20, 239 * 2**20, StageOffer(memory_bytes=280_000_000))
    assert refused is not None and refused.message == (
        "the stage needs 69.0 MiB; of 267.0 MiB that this node offers 239.0 MiB are taken by other "
        "stages"
    )


async def test_one_that_turns_out_to_need_more_than_was_offered_is_not_started(
    scene: Scene,
) -> None:
    scene.need_bytes = 1100
    await scene.obey(load())
    assert [failed.code for failed in scene.of(StageFailed)] == ["overloaded"]
    assert scene.hosts == [] and scene.stages.held() == () and scene.released == 1


async def test_the_next_stage_waits_for_the_memory_of_one_that_is_let_go(scene: Scene) -> None:
    first = await scene.loaded("a", size_bytes=900)
    release = asyncio.Event()

    async def stop() -> None:
        await release.wait()
        first.stopped = True

    first.stop = stop  # type: ignore[method-assign]
    await scene.obey(UnloadStage(stage="a"), load("b", 900))
    assert len(scene.hosts) == 1, "started beside the one that still has its memory"
    release.set()
    await settle()
    assert len(scene.hosts) == 2 and first.stopped


async def test_a_node_holds_so_many_stages_and_no_more(scene: Scene) -> None:
    for number in range(STAGES_LIMIT + 1):
        await scene.obey(load(f"s{number}", 1))
    assert len(scene.hosts) == STAGES_LIMIT
    assert [failed.stage for failed in scene.of(StageFailed)] == [f"s{STAGES_LIMIT}"]


@pytest.mark.parametrize("where", ["find_fails", "start_fails"])
async def test_a_stage_that_cannot_be_loaded_says_why_and_may_be_tried_again(
    where: str, scene: Scene
) -> None:
    setattr(scene, where, Problem(ProblemCode.ARTEFACT_UNAVAILABLE, "no source has it"))
    await scene.obey(load())
    (failed,) = scene.of(StageFailed)
    assert (failed.code, failed.message) == ("artefact_unavailable", "no source has it")
    assert scene.stages.held() == () and scene.of(StageLoaded) == []
    setattr(scene, where, None)
    await scene.obey(load())
    assert len(scene.of(StageLoaded)) == 1


async def test_a_fault_of_ours_is_told_without_its_words(scene: Scene) -> None:
    scene.start_fails = RuntimeError("secret path")
    await scene.obey(load())
    (failed,) = scene.of(StageFailed)
    assert failed.code == "internal" and "secret" not in failed.message


async def test_unloading_ends_what_loads_and_what_is_loaded_and_ignores_the_rest(
    scene: Scene,
) -> None:
    scene.find_waits = asyncio.Event()
    await scene.obey(load("a", 1), UnloadStage(stage="a"), UnloadStage(stage="b"))
    scene.find_waits.set()
    await settle()
    assert scene.hosts == [] and scene.said == [] and scene.stages.held() == ()
    host = await scene.loaded("c")
    await scene.obey(UnloadStage(stage="c"))
    assert host.stopped and scene.released == 1 and scene.stages.states() == ()


async def test_a_lost_session_keeps_loaded_stages_and_drops_what_loads_links_and_jobs(
    scene: Scene,
) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "l1"), open_at("one", ids(), told=False))
    scene.find_waits = asyncio.Event()
    await scene.obey(load("two", 1))
    said = len(scene.said)
    await scene.stages.end()
    await settle()
    assert scene.pipes["l1"].closed is not None
    assert host.heard[-1] == ("close", "job_a", 1, ()) and not host.stopped
    assert len(scene.said) == said, "said to a session that is over"
    assert [stage.name for stage in scene.stages.held()] == ["one"]
    scene.begin()
    assert scene.stages.states() == (), "nobody has named it in this session yet"
    await scene.obey(open_at("one", ids("job_b"), told=False))
    assert [failed.code for failed in scene.of(JobFailed)] == ["not_found"]
    await scene.obey(load(**MIDDLE), open_at("one", ids("job_c"), told=False))
    assert len(scene.hosts) == 1 and host.heard[-1] == ("open", "job_c", 1, False)
    assert scene.of(StageLoaded)[-1].stage == "one" and len(scene.stages.states()) == 1


async def test_a_stage_that_no_later_session_names_is_let_go_after_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEPT_S", 0.3)
    host = await scene.loaded()
    other = await scene.loaded("two", size_bytes=1)
    await scene.stages.end()
    scene.begin()
    await scene.obey(load("two", 1))
    await settle(lambda: host.stopped)
    assert host.stopped and not other.stopped
    assert [stage.name for stage in scene.stages.held()] == ["two"]


async def test_what_a_lost_session_left_gives_way_to_what_this_one_asks_for(scene: Scene) -> None:
    host = await scene.loaded("a", size_bytes=900)
    await scene.stages.end()
    scene.begin()
    await scene.obey(load("b", 900))
    assert host.stopped and [loaded.stage for loaded in scene.of(StageLoaded)] == ["a", "b"]


async def test_it_gives_way_also_where_only_the_cache_of_what_is_asked_for_has_no_room(
    scene: Scene,
) -> None:
    host = await scene.loaded("a", size_bytes=500)
    await scene.stages.end()
    scene.begin()
    scene.need_bytes = 900
    await scene.obey(load("b", 300))
    await settle(lambda: len(scene.of(StageLoaded)) == 2)
    assert host.stopped and [stage.name for stage in scene.stages.held()] == ["b"]
    assert not scene.of(StageFailed)


async def test_what_never_fits_makes_nothing_give_way(scene: Scene) -> None:
    host = await scene.loaded("a", size_bytes=500)
    await scene.stages.end()
    scene.begin()
    scene.need_bytes = 1100
    await scene.obey(load("b", 300))
    await settle(lambda: scene.of(StageFailed))
    assert not host.stopped and [one.stage for one in scene.of(StageFailed)] == ["b"]


async def test_a_crash_is_told_of_the_stage_and_of_its_jobs_and_its_return_too(
    scene: Scene,
) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(open_at("one", ids(), told=False))
    host.event("crashed", "signal 9")
    host.event("restarting", "next try in 1 s")
    assert [(one.stage, one.code) for one in scene.of(StageFailed)] == [("one", "engine_crashed")]
    assert [(one.job, one.code) for one in scene.of(JobFailed)] == [("job_a", "engine_crashed")]
    assert scene.stages.states() == ()
    host.event("ready", "the model is loaded again")
    assert len(scene.of(StageLoaded)) == 2 and len(scene.stages.states()) == 1


async def test_a_stage_that_restarts_is_confirmed_when_it_is_back(scene: Scene) -> None:
    host = await scene.loaded()
    host.event("hung", "no progress for 6.0 s")
    await scene.obey(load())
    assert len(scene.of(StageLoaded)) == 1
    assert [one.code for one in scene.of(StageFailed)] == ["engine_failed"]
    host.event("ready", "the model is loaded again")
    assert len(scene.of(StageLoaded)) == 2 and len(scene.hosts) == 1


async def test_orders_about_no_stage_here_are_answered_where_somebody_waits(scene: Scene) -> None:
    await scene.obey(
        open_at("none", ids()),
        pair_at("none", "l1"),
        close_at("none"),
        TimeStage(stage="none", ticket=1, rows=1, repeats=1),
    )
    assert [failed.code for failed in scene.of(JobFailed)] == ["not_found"]
    assert [down.link for down in scene.of(PairDown)] == ["l1"]
    assert len(scene.said) == 2


async def test_a_stage_is_timed_and_one_measurement_at_a_time(scene: Scene) -> None:
    host = await scene.loaded()
    order = TimeStage(stage="one", ticket=7, rows=1, repeats=8)
    for number in range(7, 7 + TIMINGS_LIMIT + 2):
        scene.stages.obey(msgspec.structs.replace(order, ticket=number))
    await settle()
    # One after the other, and no more of them wait than may.
    assert [one.ticket for one in scene.of(StageTimed)] == [7 + n for n in range(TIMINGS_LIMIT)]
    assert {one.stage for one in scene.of(StageTimed)} == {"one"}
    await scene.obey(TimeStage(stage="one", ticket=99, rows=10**6, repeats=10**6))
    assert len(scene.of(StageTimed)) == TIMINGS_LIMIT == host.heard.count(("time", 1, 8))


async def test_a_draining_node_loads_nothing_and_opens_nothing(scene: Scene) -> None:
    await scene.loaded(**MIDDLE)
    scene.stages.refuse_new("its operator stopped it")
    await scene.obey(load("two", 1), open_at("one", ids(), told=False))
    assert [failed.code for failed in scene.of(StageFailed)] == ["draining"]
    assert [failed.code for failed in scene.of(JobFailed)] == ["draining"]


async def test_a_stopped_node_ends_every_stage(scene: Scene) -> None:
    host = await scene.loaded()
    await scene.stages.stop()
    assert host.stopped and scene.stages.held() == ()
