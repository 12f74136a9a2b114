"""The plan as /v1/plan and /metrics show it: with names, measures and reasons, made once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.coordinator import plan_view as views
from parhelion.coordinator.gauges import show_pipelines, show_pool
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.plan_view import PlanBook, PlanView, as_measured, plan_view
from parhelion.coordinator.planner import Member, ModelShape, Plan, Pool
from parhelion.coordinator.planner import plan as planned
from parhelion.coordinator.stage_orders import Path
from parhelion.testing import ManualClock
from tests.unit.coordinator.rings import LAYERS, Rig


def pool_of(members: int, memory_bytes: int = 400, layers: int = 6) -> Pool:
    shape = ModelShape(digest="d" * 64, name="acme/small", layer_bytes=(100,) * layers)
    names = [f"n{number}" for number in range(members)]
    return Pool(
        models=(shape,),
        members=tuple(Member(peer=f"peer-{n}", name=n, memory_bytes=memory_bytes) for n in names),
    )


def seen(pool: Pool, **measured: Any) -> views.Planned:
    return as_measured(planned(pool), pool, measured.get("ms", {}), measured.get("links", {}))


async def test_the_plan_names_members_links_and_why(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=2)
    stages = await rig.serving()
    spare = await rig.join(layers=1)
    await rig.until(lambda: spare.peer in rig.pipelines.plan.standby)
    view = await rig.pool.coordinator.plan()
    (pipeline,) = view.pipelines
    assert [stage.peer for stage in pipeline.stages] == [one.peer for one in stages]
    assert (pipeline.stages[0].start, pipeline.stages[-1].end) == (0, LAYERS)
    assert view.standby == (spare.peer,)
    members = {one.peer: one for one in view.members}
    assert all(members[one.peer].layer_ms for one in stages)
    assert members[spare.peer].layer_ms is None
    assert {link.path for link in view.links} == {"direct"}
    assert {peer for link in view.links for peer in link.peers} == {one.peer for one in stages}
    text = "\n".join(view.reasons)
    assert "3 nodes because no fewer of them can hold the model" in text
    assert "not measured yet, and taken to be as fast as the others: a node" in text


def test_what_is_measured_since_the_plan_was_made_is_what_is_shown() -> None:
    pool = pool_of(2)
    links = {
        ("peer-n0", "peer-n1"): Path("relay", 7.0, 90.0, 1, 2),
        ("peer-n0", "peer-gone"): Path("direct", 1.0, None, 1, 2),
    }
    ms = {("peer-n0", "d" * 64): 3.0}
    view = plan_view(seen(pool, ms=ms, links=links))
    (pipeline,) = view.pipelines
    by_peer = {stage.peer: stage for stage in pipeline.stages}
    assert by_peer["peer-n0"].stage_ms == 3.0 * (by_peer["peer-n0"].end - by_peer["peer-n0"].start)
    assert by_peer["peer-n0"].hop_ms == 3.5
    assert [link.peers for link in view.links] == [("peer-n0", "peer-n1")]


def test_a_model_without_a_place_is_told_with_what_it_lacks() -> None:
    view = plan_view(seen(pool_of(1, memory_bytes=300)))
    (lack,) = view.unplaced
    assert lack.missing_bytes == 300
    assert view.models[0].need_bytes == 600
    assert "acme/small is served by nobody" in "\n".join(view.reasons)


def test_a_pool_of_whole_nodes_lacks_nothing() -> None:
    view = plan_view(seen(pool_of(0)))
    assert (view.unplaced, view.reasons, view.members) == ((), (), ())


@pytest.mark.parametrize("members", [2, views.FEW_MEMBERS + 1])
async def test_all_who_ask_at_once_get_one_view(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(planned: views.Planned) -> PlanView:
        made.append(len(planned.members))
        return plan_view(planned)

    monkeypatch.setattr(views, "plan_view", counted)
    clock = ManualClock()
    book, now = PlanBook(clock), seen(pool_of(members))
    asked = [asyncio.create_task(book.view(lambda: now)) for _ in range(20)]
    await asyncio.sleep(0)  # They all wait now, for the one that the first has begun.
    asked[0].cancel()
    answers = await asyncio.gather(*asked[1:])
    assert made == [members]
    assert all(answer is answers[0] for answer in answers)
    assert await book.view(lambda: now) is answers[0]
    clock.advance(views.KEPT_S + 0.1)
    assert await book.view(lambda: now) is not answers[0]
    assert made == [members, members]


async def test_a_view_that_could_not_be_made_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(planned: views.Planned) -> PlanView:
        raise RuntimeError("a fault of ours")

    book, now = PlanBook(ManualClock()), seen(pool_of(2))
    monkeypatch.setattr(views, "plan_view", broken)
    with pytest.raises(RuntimeError):
        await book.view(lambda: now)
    monkeypatch.setattr(views, "plan_view", plan_view)
    assert (await book.view(lambda: now)).pipelines


async def test_metrics_count_machines_and_pipelines_apart(rig: Rig) -> None:
    for _ in range(2):
        await rig.join(layers=3)
    await rig.serving()
    spare = await rig.join(layers=1)
    await rig.until(lambda: spare.peer in rig.pipelines.plan.standby)
    coordinator = rig.pool.coordinator
    coordinator.relays.relayed_bytes = 4096
    metrics = Metrics()
    show_pool(
        metrics,
        registry=coordinator.registry,
        joining=lambda: 0,
        places=coordinator.places,
        service=coordinator.service,
        journal=coordinator.journal,
    )
    show_pipelines(metrics, rig.pipelines, coordinator.relays)
    text = metrics.render().decode()
    for line in (
        'parhelion_nodes{state="ready"} 3.0',
        'parhelion_pipelines{state="serving"} 1.0',
        'parhelion_pipelines{state="failed"} 0.0',
        "parhelion_stages 2.0",
        "parhelion_standby_nodes 1.0",
        "parhelion_relayed_bytes 4096.0",
        # Of the pipeline: its nodes run no job by themselves.
        "parhelion_slots 4.0",
    ):
        assert f"\n{line}\n" in text, line
    assert 'state="gone"' not in text
    assert rig.pipelines.changes >= 1


async def test_a_plan_that_could_not_be_made_leaves_the_one_that_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parhelion.coordinator import pipelines

    for _ in range(2):
        await rig.join(layers=3)
    await rig.serving()

    def broken(*_: Any) -> Plan:
        raise RuntimeError("a fault of ours")

    before = rig.pipelines.plan
    monkeypatch.setattr(pipelines, "repair", broken)
    await rig.join(layers=1)
    await asyncio.sleep(2 * pipelines.SETTLE_S)
    assert rig.pipelines.plan is before
    # What is shown fits together still.
    assert (await rig.pool.coordinator.plan()).pipelines
