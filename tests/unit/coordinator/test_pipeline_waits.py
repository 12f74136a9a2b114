"""Who waits while a pipeline is set up again, for how long, and who is told at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from parhelion.coordinator.deployment import Deployment
from parhelion.coordinator.pipeline_state import PipelineState
from parhelion.coordinator.planner import Pipeline, Stage
from parhelion.link import LoadStage, PairDown, StageFailed, TimeStage, UnloadStage
from parhelion.words import Problem, ProblemCode
from tests.unit.coordinator.rings import LAYERS, Rig, StageNode

RESUME_WAIT_S = 0.3
"""Where nothing is to come within it."""

RIG_WAITS_S = 5.0
"""How long the rig's pool lets a prompt wait for a pipeline that is set up."""


async def two(rig: Rig) -> tuple[StageNode, ...]:
    """Two nodes that serve together."""
    await rig.join(layers=3)
    await rig.join(layers=3)
    return await rig.serving()


def cut(stages: tuple[StageNode, ...]) -> None:
    """The link between two stages breaks."""
    stages[0].hear(PairDown(link=stages[0].links[-1], cause="reset"))


async def test_a_prompt_without_an_id_yet_goes_on_when_its_pipeline_is_set_up_again(
    rig: Rig,
) -> None:
    stages = await two(rig)
    account, secret = await rig.pool.user(1000)
    answer = await rig.pool.serve(secret)
    name = await rig.begun(stages[0])
    cut(stages)
    await rig.until(lambda: any(go.attempt == 2 for go in stages[0].went))
    stages[-1].made(name, 0, (rig.pool.A,) * 4, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("aaaa", 1)
    assert await rig.pool.free_micro(account) == 1000 - int(last.usage.cost)
    await rig.pool.assert_settled()


async def test_who_waits_for_a_slot_keeps_its_turn_while_the_pipeline_is_set_up_again(
    rig: Rig,
) -> None:
    stages = await two(rig)
    _account, secret = await rig.pool.user(1000)
    answers = [await rig.pool.serve(secret) for _ in range(4)]
    fifth = await rig.pool.begin(secret)
    await rig.until(lambda: len(stages[0].went) == 4)
    assert rig.pool.coordinator.places.waiting == 1
    cut(stages)
    await rig.until(lambda: len(stages[0].went) == 8)
    for go in stages[0].went[4:]:
        stages[-1].made(go.job, 0, (rig.pool.A,) * 4, "length")
    await rig.until(lambda: len(stages[0].went) == 9)
    assert rig.pool.coordinator.places.waiting == 0
    stages[-1].made(stages[0].went[-1].job, 0, (rig.pool.A,) * 4, "length")
    told = [await rig.pool.read(answer) for answer in (*answers, await fifth)]
    assert [text for text, _last in told] == ["aaaa"] * 5
    assert sorted(last.usage.migrations for _text, last in told) == [0, 1, 1, 1, 1]
    await rig.pool.assert_settled()


async def test_a_pipeline_that_is_not_back_in_time_costs_a_prompt_without_an_id_nothing(
    closed_pool: Any,
) -> None:
    await closed_pool.open(resume_wait_s=RESUME_WAIT_S)
    rig = Rig(closed_pool)
    stages = await two(rig)
    account, secret = await rig.pool.user(1000)
    answer = await rig.pool.serve(secret)
    await rig.begun(stages[0])
    stages[1].refuses.add(LoadStage)
    cut(stages)
    asked_s = asyncio.get_running_loop().time()
    with pytest.raises(Problem) as caught:
        await rig.pool.read(answer)
    assert caught.value.code is ProblemCode.NODE_LOST
    assert asyncio.get_running_loop().time() - asked_s >= RESUME_WAIT_S * 0.9
    assert await rig.pool.free_micro(account) == 1000
    await rig.pool.assert_settled()


async def test_a_new_prompt_waits_for_a_pipeline_that_is_set_up_but_not_for_ever(
    closed_pool: Any,
) -> None:
    await closed_pool.open(resume_wait_s=RESUME_WAIT_S)
    rig = Rig(closed_pool)
    stages = await two(rig)
    account, secret = await rig.pool.user(1000)
    stages[1].refuses.add(LoadStage)
    cut(stages)
    asked_s = asyncio.get_running_loop().time()
    with pytest.raises(Problem) as caught:
        await rig.pool.read(await rig.pool.serve(secret))
    assert caught.value.code is ProblemCode.NO_NODE and caught.value.retry_after_s
    assert "its pipeline is being set up (loading)" in caught.value.message
    assert asyncio.get_running_loop().time() - asked_s >= RESUME_WAIT_S * 0.9
    assert await rig.pool.free_micro(account) == 1000
    waiting = await rig.pool.begin(secret)
    await rig.until(lambda: rig.pool.coordinator.places.waiting)
    stages[1].refuses.clear()
    stages[1].obey(stages[1].node.said(LoadStage)[-1])
    await rig.until(lambda: stages[0].went)
    stages[-1].made(stages[0].went[-1].job, 0, (rig.pool.A,) * 4, "length")
    assert (await rig.pool.read(await waiting))[0] == "aaaa"
    await rig.pool.assert_settled()


async def test_who_waits_is_told_as_soon_as_nobody_can_take_the_lost_stage(rig: Rig) -> None:
    _first, last = await two(rig)
    _account, secret = await rig.pool.user(1000)
    last.node.die()
    waiting = await rig.pool.begin(secret)
    await rig.until(lambda: rig.pool.coordinator.places.waiting)
    asked_s = asyncio.get_running_loop().time()
    with pytest.raises(Problem) as caught:
        await waiting
    assert caught.value.code is ProblemCode.NO_NODE and "together 3 of 6" in caught.value.message
    assert asyncio.get_running_loop().time() - asked_s < RIG_WAITS_S / 2
    await rig.pool.assert_settled()


async def test_who_waits_for_the_next_epoch_waits_for_no_long_stream_of_the_last_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.deployment.HURRY_S", 0.2)
    stages = await two(rig)
    spare = await rig.join(layers=3)
    account, secret = await rig.pool.user(1000)
    long = await rig.pool.serve(secret)
    name = await rig.begun(stages[0])
    stages[-1].made(name, 0, (rig.pool.A,))
    await aimed(rig, stages[0], spare)
    await rig.until(lambda: deployment(rig).state is PipelineState.DRAINING)
    await asyncio.sleep(0.4)
    assert deployment(rig).state is PipelineState.DRAINING, "nobody waits, so it may end there"
    waiting = await rig.pool.begin(secret)
    await rig.until(lambda: len(spare.opened) == 2)
    for job in spare.opened:
        made = len(spare.job(job).output_ids)
        assert made == (job == name)
        spare.made(job, made, (rig.pool.A,) * (4 - made), "length")
    text, last = await rig.pool.read(long)
    assert (text, last.usage.migrations) == ("aaaa", 1)
    other, its_last = await rig.pool.read(await waiting)
    assert (other, its_last.usage.migrations) == ("aaaa", 0)
    spent = int(last.usage.cost) + int(its_last.usage.cost)
    assert await rig.pool.free_micro(account) == 1000 - spent
    await rig.pool.assert_settled()


async def test_while_streams_wait_only_who_is_new_is_timed(rig: Rig) -> None:
    first, last = await two(rig)
    timed = len(first.node.said(TimeStage))
    assert timed and len(last.node.said(TimeStage)) == timed
    spare = await rig.join(layers=3)
    await aimed(rig, first, spare)
    assert await rig.serving(epoch=2) == (first, spare)
    assert len(first.node.said(TimeStage)) == timed and spare.node.said(TimeStage)
    session = deployment(rig).session
    assert session is not None and all(seat.step_ms for seat in session.seats)


async def test_what_moves_is_fetched_while_the_old_layers_still_serve(rig: Rig) -> None:
    first, last = await two(rig)
    spare = await rig.join(layers=3, refuses={LoadStage})
    session = deployment(rig).session
    await aimed(rig, last, spare)
    await rig.until(lambda: last.fetched and spare.node.said(LoadStage))
    assert last.fetched == [f"{'d' * 16}:0-2"]
    assert deployment(rig).session is session and session is not None
    assert session.node.leaving is None and not last.node.said(UnloadStage)
    assert not first.fetched and not spare.fetched


async def test_a_pipeline_serves_on_where_what_is_to_move_cannot_be_fetched(rig: Rig) -> None:
    _first, last = await two(rig)
    spare = await rig.join(layers=3)
    session = deployment(rig).session
    last.refuses.add(LoadStage)
    await aimed(rig, last, spare)
    await rig.until(lambda: any(one.only_fetch for one in last.node.said(LoadStage)))
    assert not spare.node.said(UnloadStage)
    failed = StageFailed(stage=f"{'d' * 16}:0-2", code="artefact_unavailable", message="no disk")
    last.hear(failed)
    await rig.until(lambda: deployment(rig).reason)
    assert deployment(rig).session is session and session is not None
    assert session.node.leaving is None and deployment(rig).state is PipelineState.SERVING


def deployment(rig: Rig) -> Deployment:
    """The only one."""
    (only,) = rig.pipelines.deployments.values()
    return only


async def aimed(rig: Rig, first: StageNode, second: StageNode) -> None:
    """The plan has it like this from now on."""
    await rig.until(lambda: second.peer in rig.pipelines.plan.standby)
    before = deployment(rig).target
    assert before is not None
    stages = (Stage(first.peer, 0, 3), Stage(second.peer, 3, LAYERS))
    target = Pipeline(id=before.id, epoch=2, digest=before.digest, stages=stages)
    standby = tuple(peer for peer in rig.nodes if peer not in target.peers)
    plan = rig.pipelines.plan
    rig.pipelines.plan = structs.replace(plan, pipelines=(target,), standby=standby)
    deployment(rig).aim(target)


async def test_a_pool_that_waits_for_nodes_plans_nothing_and_says_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.pool.coordinator.registry, "complete", lambda: False)
    await rig.join(layers=6)
    (reason,) = (await rig.pool.coordinator.plan()).reasons
    assert reason.startswith("the pool waits for nodes: 1 of ")


async def test_a_pipeline_whose_node_went_says_what_broke_it_and_not_a_peer_id(rig: Rig) -> None:
    stages = await two(rig)
    (deployment,) = rig.pipelines.deployments.values()
    # Its neighbour tells first.
    cut(stages)
    stages[1].node.die()
    seen = set[str | None]()

    def is_planned() -> bool:
        seen.add(deployment.reason)
        return deployment.reason == "no node can take the stage that it lost"

    await rig.until(is_planned)
    assert any(one is not None and "broke: reset" in one for one in seen)
    assert not any(one is not None and stages[1].peer in one for one in seen), seen


async def test_a_member_shows_the_device_that_its_stage_found(rig: Rig) -> None:
    await rig.join(layers=3)
    (alone,) = rig.pool.coordinator.nodes()
    assert alone.device is None, "nothing was loaded there, and nobody looked"
    await rig.join(layers=3, device="gpu: \x1b" + "x" * 400)
    stages = await rig.serving()
    shown = {view.peer: view.device for view in rig.pool.coordinator.nodes()}
    told = {one.device: shown[one.peer] or "" for one in stages}
    assert told.pop("cpu: Abacus, 2 threads") == "cpu: Abacus, 2 threads"
    (long,) = told.values()
    assert long.startswith("gpu: ") and len(long) == 200 and long.isprintable()


async def test_no_pipeline_is_missed_where_nobody_offers_a_part_of_one(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "parhelion.coordinator")
    await rig.pool.node()
    await rig.until(lambda: rig.pipelines.pool is not None)
    assert [one for one in caplog.records if "no pipeline: " in one.getMessage()] == []
    member = await rig.join(layers=1)
    await rig.until(lambda: any("of 1 free members" in one.getMessage() for one in caplog.records))
    member.node.die()
    await rig.until(lambda: any("of 0 free members" in one.getMessage() for one in caplog.records))
