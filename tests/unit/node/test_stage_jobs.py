"""Jobs of a stage: opened, begun, closed and signed once; what is hostile changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.engines.hidden import Entry, encode_hidden, encode_ids
from parhelion.link import (
    Cut,
    Go,
    JobFailed,
    Signed,
    StageFailed,
    StageOpened,
    StageSigned,
    Steps,
)
from parhelion.node import stage_jobs as desk
from parhelion.proof import chain, segment_holds, stage_holds
from parhelion.words import Job, Problem, ProblemCode, Step
from tests.unit.node.staging import (
    DIGEST,
    LAST,
    MIDDLE,
    OPENING,
    Scene,
    close_at,
    ids,
    load,
    open_at,
    settle,
)


@pytest.fixture
async def scene(clock: Any) -> Scene:
    return Scene(clock)


def steps_of(scene: Scene) -> list[Step]:
    return [step for message in scene.of(Steps) for step in message.steps]


async def test_a_middle_stage_opens_a_job_without_its_ids_and_says_what_it_holds(
    scene: Scene,
) -> None:
    host = await scene.loaded(**MIDDLE)
    host.held = 48
    # Ids that it should never have been told are told to nobody.
    await scene.obey(open_at("one", ids(), told=True))
    assert host.heard == [("open", "job_a", 1, False)]
    (opened,) = scene.of(StageOpened)
    assert (opened.stage, opened.job, opened.attempt, opened.held) == ("one", "job_a", 1, 48)


async def test_its_part_is_signed_once_and_for_a_job_that_was_open(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(open_at("one", ids(), told=False))
    tags = (b"8 bytes!",)
    await scene.obey(close_at("one", tags=tags), close_at("one"), close_at("one", "job_z"))
    (signed,) = scene.of(StageSigned)
    segment = signed.segment
    assert stage_holds(segment) and segment.node == scene.key.peer
    assert (segment.layers, segment.artefact) == ((10, 20), DIGEST)
    assert (segment.start, segment.to, segment.head) == (0, 3, "a" * 64)
    assert host.heard[-1] == ("close", "job_a", 1, tags)
    assert [one[0] for one in host.heard] == ["open", "close"]


async def test_a_pipeline_of_one_signs_its_ids_and_no_part_beside_them(scene: Scene) -> None:
    host = await scene.loaded(end=30, stages=1)
    await scene.obey(open_at("one", ids(max_tokens=1)))
    host.makes(Step("job_a", 1, 0, (7,), finish="length"))
    await settle()
    await scene.obey(close_at("one", to=1))
    assert len(scene.of(Signed)) == 1 and scene.of(StageSigned) == []
    assert host.heard[-1][0] == "close"


async def test_a_closed_attempt_is_not_opened_and_signed_a_second_time(scene: Scene) -> None:
    await scene.loaded(**MIDDLE)
    order = open_at("one", ids(), told=False)
    await scene.obey(order, order, close_at("one"), order, close_at("one", to=16))
    assert len(scene.of(StageOpened)) == 1 and len(scene.of(StageSigned)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 4},
        {"start": -1},
        {"to": 10**6},
        {"head": "A" * 64},
        {"head": ""},
        {"opening_hash": "x"},
    ],
)
async def test_a_part_that_makes_no_sense_is_closed_but_not_signed(
    wrong: dict[str, Any], scene: Scene
) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(open_at("one", ids(), told=False), close_at("one", **wrong))
    assert scene.of(StageSigned) == [] and host.heard[-1][0] == "close"


@pytest.mark.parametrize("wrong", [{"opening_hash": "b" * 64}, {"start": 1, "to": 2}, {"to": 17}])
async def test_who_knows_the_ids_signs_no_part_of_another_job(
    wrong: dict[str, Any], scene: Scene
) -> None:
    await scene.loaded()
    await scene.obey(open_at("one", ids()), close_at("one", **wrong))
    assert scene.of(StageOpened) and scene.of(StageSigned) == []


async def test_a_job_that_the_stage_refuses_fails_with_its_words_and_is_not_signed(
    scene: Scene,
) -> None:
    host = await scene.loaded(**MIDDLE)
    host.refuses = Problem(ProblemCode.OVERLOADED, "no slot is free")
    await scene.obey(open_at("one", ids(), told=False), close_at("one"))
    (failed,) = scene.of(JobFailed)
    assert (failed.job, failed.code, failed.message) == ("job_a", "overloaded", "no slot is free")
    assert scene.of(StageSigned) == [] and scene.of(StageOpened) == []


async def test_a_job_closed_while_it_is_opened_is_told_and_signed_to_nobody(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    host.opens.clear()
    await scene.obey(open_at("one", ids(), told=False), close_at("one"))
    host.opens.set()
    await settle()
    assert scene.said[1:] == [] and [one[0] for one in host.heard] == ["open", "close"]


async def test_a_stage_that_gives_no_answer_fails_the_job(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "OPEN_DEADLINE_S", 0.01)
    host = await scene.loaded(**MIDDLE)
    host.opens.clear()
    await scene.obey(open_at("one", ids(), told=False))
    await settle(lambda: bool(scene.of(JobFailed)))
    assert [failed.code for failed in scene.of(JobFailed)] == ["engine_failed"]


@pytest.mark.parametrize(
    ("job", "more", "told"),
    [
        (ids(), {}, False),
        (ids("a job"), {}, True),
        (ids("j" * 65), {}, True),
        (ids(attempt=-1), {}, True),
        (ids(opening=b""), {}, True),
        (ids(max_tokens=10**6), {}, True),
        (ids(), {"tags": (b"8 bytes!",) * 40}, True),
        (ids(max_tokens=400), {"tags": (b"short",)}, True),
    ],
)
async def test_what_cannot_be_a_job_is_refused_before_the_stage_hears_of_it(
    job: Job, more: dict[str, Any], told: bool, scene: Scene
) -> None:
    host = await scene.loaded()
    await scene.obey(open_at("one", job, told=told, **more))
    (failed,) = scene.of(JobFailed)
    assert failed.job == job.job and failed.code in ("invalid_request", "context_length_exceeded")
    assert host.heard == []


async def test_ids_of_another_job_or_artefact_are_refused(scene: Scene) -> None:
    host = await scene.loaded()
    order = open_at("one", ids())
    from msgspec import structs

    for wrong in (ids("job_b"), ids(attempt=2), structs.replace(ids(), digest="e" * 64)):
        await scene.obey(structs.replace(order, ids=wrong))
    assert [failed.code for failed in scene.of(JobFailed)] == ["invalid_request"] * 3
    assert host.heard == []


async def test_the_first_stage_begins_once_and_behind_what_it_holds(scene: Scene) -> None:
    host = await scene.loaded()
    host.held = 32
    go = Go(stage="one", job="job_a", attempt=1, reused=16)
    await scene.obey(go, open_at("one", ids()), go, go)
    assert [one for one in host.heard if one[0] == "go"] == [("go", "job_a", 1, 16)]


@pytest.mark.parametrize("reused", [48, 17, -16])
async def test_what_the_first_stage_does_not_hold_cannot_be_reused(
    reused: int, scene: Scene
) -> None:
    host = await scene.loaded()
    host.held = 32
    go = Go(stage="one", job="job_a", attempt=1, reused=reused)
    await scene.obey(open_at("one", ids()), go)
    assert [failed.code for failed in scene.of(JobFailed)] == ["invalid_request"]
    assert not any(one[0] == "go" for one in host.heard)


async def test_the_first_stages_progress_is_passed_on_and_ids_of_its_own_are_not(
    scene: Scene,
) -> None:
    host = await scene.loaded()
    await scene.obey(open_at("one", ids()))
    progress = Step("job_a", 1, 0, prefilled=2)
    host.makes(progress, Step("job_z", 1, 0, prefilled=2), Step("job_a", 1, 0, (5,)))
    await settle()
    assert steps_of(scene) == [progress]


async def test_the_last_stages_ids_come_in_order_and_are_signed_like_any_others(
    scene: Scene,
) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids()))
    assert [opened.held for opened in scene.of(StageOpened)] == [0]
    host.makes(Step("job_a", 1, 0, (7,), prefilled=3))
    host.makes(Step("job_a", 1, 1, (8,)), Step("job_z", 1, 0, (9,)))
    host.makes(Step("job_a", 1, 2, (9,), finish="eog"))
    await settle()
    assert [step.ids for step in steps_of(scene)] == [(7,), (8,), (9,)]
    (signed,) = scene.of(Signed)
    assert segment_holds(signed.segment) and signed.segment.backend == "fake"
    assert signed.segment.head == chain(OPENING, (1, 2, 3), (7, 8, 9)).hex()
    await scene.obey(close_at("one"))
    assert len(scene.of(StageSigned)) == 1 and len(scene.of(Signed)) == 1


async def test_a_cut_at_the_last_stage_signs_there_and_what_follows_is_nobodys(
    scene: Scene,
) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids()))
    for number in range(4):
        host.makes(Step("job_a", 1, number, (number,)))
    await settle()
    scene.stages.cut(Cut(job="job_a", attempt=1, n=2))
    host.makes(Step("job_a", 1, 4, (4,)))
    await settle()
    assert [signed.segment.to for signed in scene.of(Signed)] == [2]
    assert [step.ids for step in steps_of(scene)] == [(0,), (1,), (2,), (3,)]
    await scene.obey(close_at("one", to=2))
    assert len(scene.of(StageSigned)) == 1 and scene.of(JobFailed) == []


async def test_a_job_closed_without_a_cut_frees_its_slot_at_the_last_stage(scene: Scene) -> None:
    host = await scene.loaded(**LAST, slots=1)
    await scene.obey(open_at("one", ids()))
    host.makes(Step("job_a", 1, 0, (7,)))
    await settle()
    await scene.obey(close_at("one", to=1), open_at("one", ids("job_b")))
    host.makes(Step("job_b", 1, 0, (9,)))
    await settle()
    assert scene.of(JobFailed) == [] and steps_of(scene)[-1].job == "job_b"
    assert [signed.segment.to for signed in scene.of(Signed)] == [1]


async def test_over_its_slots_the_last_stage_refuses_a_job_and_the_others_go_on(
    scene: Scene,
) -> None:
    host = await scene.loaded(**LAST, slots=1)
    await scene.obey(open_at("one", ids()), open_at("one", ids("job_b")))
    assert [(one.job, one.code) for one in scene.of(JobFailed)] == [("job_b", "overloaded")]
    host.makes(Step("job_a", 1, 0, (7,)))
    await settle()
    assert [step.ids for step in steps_of(scene)] == [(7,)]
    await scene.obey(close_at("one", "job_b"))
    assert scene.of(StageSigned) == []


async def test_ids_out_of_order_or_of_no_vocabulary_fail_the_job_at_the_last_stage(
    scene: Scene,
) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids()), open_at("one", ids("job_b")))
    host.makes(Step("job_a", 1, 3, (7,)), Step("job_b", 1, 0, (100,)))
    await settle()
    assert [failed.code for failed in scene.of(JobFailed)] == ["engine_failed"] * 2


async def test_more_steps_than_a_job_has_ids_fail_it_and_are_not_kept(scene: Scene) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids(max_tokens=2)))
    host.makes(*(Step("job_a", 1, number, (1,)) for number in range(9)))
    await settle()
    assert [failed.code for failed in scene.of(JobFailed)] == ["engine_failed"]


async def test_a_failure_of_the_stage_is_said_once_and_what_was_delivered_is_signed(
    scene: Scene,
) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids()))
    host.makes(Step("job_a", 1, 0, (7,)))
    await settle()
    host.told.on_failed("job_a", 1, "engine_crashed", "the stage ended with -9")
    assert [type(one) for one in scene.said[-3:]] == [JobFailed, Signed, StageFailed]
    host.event("crashed")
    await settle()
    assert [one.message for one in scene.of(StageFailed)] == ["the stage ended with -9"]
    assert [failed.code for failed in scene.of(JobFailed)] == ["engine_crashed"]
    assert [signed.segment.to for signed in scene.of(Signed)] == [1]
    await scene.obey(close_at("one", to=1))
    assert len(scene.of(StageSigned)) == 1


async def test_a_job_that_alone_fails_keeps_what_was_made_before(scene: Scene) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids()), open_at("one", ids("job_b")))
    host.makes(Step("job_a", 1, 0, (7,)))
    host.told.on_failed("job_a", 1, "engine_failed", "no id can be chosen")
    host.makes(Step("job_b", 1, 0, (8,)))
    await settle()
    assert [(one.job, one.code) for one in scene.of(JobFailed)] == [("job_a", "engine_failed")]
    assert [signed.segment.to for signed in scene.of(Signed)] == [1]
    assert scene.of(StageFailed) == [] and steps_of(scene)[-1].job == "job_b"


async def test_an_unknown_code_of_a_stage_is_an_engines_failure(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(open_at("one", ids(), told=False))
    host.told.on_failed("job_a", 1, "???", "what")
    host.told.on_failed("job_z", 1, "???", "what")
    assert [(one.job, one.code) for one in scene.of(JobFailed)] == [("job_a", "engine_failed")]


async def test_jobs_that_are_never_closed_are_forgotten_the_oldest_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "KEPT_LEAST", 3)
    monkeypatch.setattr(desk, "KEPT_A_SLOT", 1)
    host = await scene.loaded(**MIDDLE)
    for number in range(5):
        await scene.obey(open_at("one", ids(f"job_{number}"), told=False))
    closed = [one[1] for one in host.heard if one[0] == "close"]
    assert closed == ["job_0", "job_1"]
    await scene.obey(close_at("one", "job_0"), close_at("one", "job_4"))
    assert [signed.segment.job for signed in scene.of(StageSigned)] == ["job_4"]


async def test_jobs_are_handed_back_at_the_end_of_a_drain_and_may_still_be_signed(
    scene: Scene,
) -> None:
    await scene.loaded(**MIDDLE)
    await scene.loaded("last", size_bytes=100, **LAST)
    last = scene.hosts[-1]
    await scene.obey(open_at("one", ids(), told=False), open_at("last", ids("job_b")))
    last.makes(Step("job_b", 1, 0, (7,)))
    await settle()
    scene.stages.refuse_new("bye")
    waiting = asyncio.create_task(scene.stages.finished())
    await settle()
    assert not waiting.done() and scene.stages.busy == 2
    scene.stages.hand_back("bye")
    await asyncio.wait_for(waiting, 1)
    assert sorted((one.job, one.code) for one in scene.of(JobFailed)) == [
        ("job_a", "draining"),
        ("job_b", "draining"),
    ]
    assert [signed.segment.to for signed in scene.of(Signed)] == [1]
    await scene.obey(close_at("one"), close_at("last", "job_b", to=1))
    assert len(scene.of(StageSigned)) == 2


async def test_a_drain_ends_with_the_last_close(scene: Scene) -> None:
    await scene.loaded(**MIDDLE)
    await scene.obey(open_at("one", ids(), told=False))
    scene.stages.refuse_new("bye")
    waiting = asyncio.create_task(scene.stages.finished())
    await settle()
    await scene.obey(close_at("one"))
    await asyncio.wait_for(waiting, 1)
    assert scene.stages.since_last_end_s() == 0.0


async def test_the_time_of_a_step_is_shared_by_the_rows_that_it_had_of_each_job(
    scene: Scene,
) -> None:
    import numpy as np

    host = await scene.loaded(**MIDDLE)
    for name in ("job_a", "job_b"):
        await scene.obey(open_at("one", ids(name), told=False))

    def step(took_ms: float, *rows: tuple[str, int, int]) -> None:
        host.busy_ms += took_ms
        entries = [Entry(job, 1, start, count, False) for job, start, count in rows]
        hidden = np.zeros((sum(count for _, _, count in rows), 8), np.float32)
        host.told.on_frame(encode_hidden(entries, hidden, "fp32"))

    step(100.0, ("job_a", 0, 3), ("job_b", 0, 1))
    step(10.0, ("job_b", 1, 1))
    await scene.obey(close_at("one"), close_at("one", "job_b"))
    shares = {one.segment.job: one.segment.busy_ms for one in scene.of(StageSigned)}
    assert shares == {"job_a": 75, "job_b": 35}


async def test_what_a_stage_did_in_an_earlier_session_is_no_later_jobs(scene: Scene) -> None:
    host = await scene.loaded(**LAST)
    host.busy_ms = 10_000.0
    await scene.stages.end()
    scene.begin()
    await scene.obey(load("one", **LAST), open_at("one", ids()))
    host.makes(Step("job_a", 1, 0, (7,)), took_ms=40.0)
    await settle()
    await scene.obey(close_at("one", to=1))
    assert scene.of(StageSigned)[0].segment.busy_ms == 40


async def test_at_the_last_stage_the_rows_are_those_that_were_read(scene: Scene) -> None:
    host = await scene.loaded(**LAST)
    for name in ("job_a", "job_b"):
        await scene.obey(open_at("one", ids(name)))
    host.busy_ms = 40.0
    read = [Entry("job_a", 1, 3, 1, False), Entry("job_b", 1, 1, 0, False)]
    host.told.on_frame(encode_ids(read, [5]))
    await scene.obey(close_at("one"), close_at("one", "job_b"))
    shares = {one.segment.job: one.segment.busy_ms for one in scene.of(StageSigned)}
    assert shares == {"job_a": 30, "job_b": 10}
