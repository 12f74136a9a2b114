"""A pipeline serves like one node: planned, loaded, linked, billed once, signed by every stage."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from parhelion import proof
from parhelion.link import (
    CloseStage,
    Heartbeat,
    LoadStage,
    OpenStage,
    PairDown,
    StageFailed,
    StageSigned,
    StageState,
    Standing,
    TimeStage,
    UnloadStage,
)
from parhelion.proof import verify
from parhelion.words import Problem, ProblemCode, StageOffer
from tests.unit.coordinator.rings import LAYERS, MIB, Rig, Slices, StageNode


async def answered(rig: Rig, secret: str, **fields: Any) -> tuple[Any, str, tuple[StageNode, ...]]:
    """A running answer, its job's name, and the stages it runs on."""
    stages = await rig.serving()
    before = len(stages[0].went)
    answer = await rig.pool.serve(secret, **fields)
    await rig.until(lambda: len(stages[0].went) > before)
    return answer, stages[0].went[-1].job, stages


async def receipt_of(rig: Rig, last: Any, account: str) -> Any:
    return await rig.pool.receipts.get(last.usage.receipt, account)


async def test_nodes_too_small_for_the_model_serve_it_together(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=2)
    account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    assert len(stages) == 3
    layers = [one.loaded[-1].rpartition(":")[2] for one in stages]
    assert layers == ["0-1", "2-3", f"4-{LAYERS - 1}"]
    # Only who needs ids is told them: the first and the last.
    assert [one.opened[name].ids is not None for one in stages] == [True, False, True]
    stages[-1].made(name, 0, (rig.pool.A, rig.pool.B))
    stages[-1].made(name, 2, (rig.pool.C, rig.pool.A), "length")
    text, last = await rig.pool.read(answer)
    assert text == "abca"
    assert last.usage.nodes == tuple(one.peer for one in stages)
    await rig.pool.assert_settled()
    # Each of them had a part in it.
    assert [one.served for one in rig.pool.coordinator.known_nodes()] == [1, 1, 1]
    receipt = await receipt_of(rig, last, account)
    parts = receipt.segments[0].stages
    assert [part.node for part in parts] == [one.peer for one in stages]
    assert [part.layers for part in parts] == [(0, 2), (2, 4), (4, 6)]
    assert all(proof.stage_holds(part) for part in parts)
    checks = {check.name: check.state for check in verify(msgspec.json.encode(receipt))}
    assert checks["segments"] == "ok"


async def test_the_reused_prefix_is_the_least_that_any_stage_holds(rig: Rig) -> None:
    stages = [await rig.join(layers=2, held=held) for held in (48, 16, 32)]
    _account, secret = await rig.pool.user(10_000)
    _answer, _name, order = await answered(rig, secret, prompt=(rig.pool.A,) * 60)
    assert order[0].went[0].reused == 16
    assert len(stages) == 3


async def test_a_stage_that_claims_more_than_the_prompt_is_sent_off(rig: Rig) -> None:
    liar = await rig.join(layers=3, held=4000)
    await rig.join(layers=3)
    _account, secret = await rig.pool.user(10_000)
    await rig.serving()
    asking = asyncio.create_task(rig.pool.serve(secret))
    await rig.until(lambda: liar.node.carrier.bye is not None)
    assert "holds 4000" in liar.node.carrier.bye.message
    asking.cancel()


async def test_operators_share_by_the_measured_time_of_their_layers(rig: Rig) -> None:
    await rig.join(layers=3)
    await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    stages = await rig.serving()
    (deployment,) = rig.pipelines.deployments.values()
    assert deployment.session is not None
    deployment.session.seats[0].step_ms = 1.5
    deployment.session.seats[1].step_ms = 1.0
    answer, name, _ = await answered(rig, secret)
    stages[-1].made(name, 0, (rig.pool.A,) * 4, "length")
    _text, last = await rig.pool.read(answer)
    await rig.pool.assert_settled()
    cost = int(last.usage.cost)
    earned = [
        (await rig.pool.ledger.balance(f"node:{one.peer}", rig.pool.ASSET)).available_micro
        for one in stages
    ]
    whole = cost * 85 // 100
    assert earned == [whole * 3 // 5, whole * 2 // 5]


async def test_a_lost_stage_is_replaced_by_a_standby_and_the_stream_goes_on(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    spare = rig.spare(stages)
    assert not spare.loaded
    stages[-1].made(name, 0, (rig.pool.A, rig.pool.B))
    stages[0].node.die()
    again = await rig.serving(epoch=2)
    assert set(again) == {spare, stages[1]}
    first = again[0]
    await rig.until(lambda: any(go.job == name and go.attempt == 2 for go in first.went))
    resumed = again[-1].job(name)
    assert resumed.output_ids == (rig.pool.A, rig.pool.B)
    again[-1].made(name, 2, (rig.pool.C, rig.pool.A), "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("abca", 1)
    await rig.pool.assert_settled()
    receipt = await receipt_of(rig, last, account)
    assert [segment.to for segment in receipt.segments] == [2, 4]
    # Who kept its layers was not told to load them anew under another name.
    assert len(set(stages[1].loaded)) == 1


async def test_a_link_that_breaks_costs_a_pause_and_no_node(rig: Rig) -> None:
    await rig.join(layers=3)
    await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    stages[-1].made(name, 0, (rig.pool.A,))
    stages[0].hear(PairDown(link=stages[0].links[-1], cause="reset"))
    await rig.until(lambda: any(go.attempt == 2 for go in stages[0].went))
    stages[-1].made(name, 1, (rig.pool.B,) * 3, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("abbb", 1)
    assert all(one.node.carrier.bye is None for one in stages)


async def test_a_link_of_an_older_ring_breaks_unnoticed(rig: Rig) -> None:
    await rig.join(layers=3)
    await rig.join(layers=3)
    stages = await rig.serving()
    stages[0].hear(PairDown(link="link_of_before", cause="reset"))
    await asyncio.sleep(0.05)
    (deployment,) = rig.pipelines.deployments.values()
    assert deployment.session is not None and not deployment.session.ended


async def test_a_stage_whose_engine_fails_is_set_up_again(rig: Rig) -> None:
    await rig.join(layers=3)
    await rig.join(layers=3)
    stages = await rig.serving()
    loads = len(stages[1].loaded)
    stages[1].hear(
        StageFailed(stage=stages[1].loaded[-1], code="engine_crashed", message="signal 9")
    )
    await rig.until(lambda: len(stages[1].loaded) > loads)
    assert await rig.serving() == stages


async def test_ids_from_a_stage_that_is_not_the_last_end_its_session(rig: Rig) -> None:
    await rig.join(layers=3)
    await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    _answer, name, stages = await answered(rig, secret)
    stages[0].made(name, 0, (rig.pool.A,))
    await rig.until(lambda: stages[0].node.carrier.bye is not None)
    assert "not the last" in stages[0].node.carrier.bye.message


async def test_a_forged_part_ends_the_session_of_its_node_and_not_the_answer(rig: Rig) -> None:
    for _ in range(2):
        await rig.join(layers=3)
    account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    forger = stages[0]
    forger.refuses.add(CloseStage)
    stages[-1].made(name, 0, (rig.pool.A,) * 4, "length")
    close = await seen(rig, forger, CloseStage)
    changed = msgspec.structs.replace(forger.part(close), to=3)
    forger.hear(StageSigned(segment=proof.sign_stage(forger.node.key, changed)))
    text, last = await rig.pool.read(answer)
    assert text == "aaaa"
    assert forger.node.carrier.bye is not None
    receipt = await receipt_of(rig, last, account)
    assert receipt.segments[0].stages[0].signature is None
    await rig.pool.assert_settled()


async def seen(rig: Rig, one: StageNode, kind: type) -> Any:
    await rig.until(lambda: one.node.said(kind))
    return one.node.said(kind)[-1]


async def test_a_client_that_leaves_frees_every_stage(rig: Rig) -> None:
    await rig.join(layers=3)
    await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    stages[-1].made(name, 0, (rig.pool.A,))
    await answer.disconnect()
    await rig.until(lambda: all(one.closed for one in stages))
    await rig.pool.assert_settled()
    assert {close.job for one in stages for close in one.closed} == {name}


async def test_a_stage_that_never_opens_a_job_costs_that_job_a_few_seconds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.pipeline.OPEN_WAIT_S", 0.05)
    await rig.join(layers=3)
    await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    stages = await rig.serving()
    stages[1].refuses.add(OpenStage)
    answer = await rig.pool.serve(secret)
    with pytest.raises(Problem) as caught:
        await rig.pool.read(answer)
    assert caught.value.code in (ProblemCode.NO_NODE, ProblemCode.ENGINE_FAILED)
    await rig.pool.assert_settled()


async def test_a_pool_that_cannot_hold_the_model_says_what_is_missing(rig: Rig) -> None:
    await rig.join(layers=2)
    await rig.until(lambda: rig.pipelines.plan.unplaced)
    (unplaced,) = rig.pipelines.plan.unplaced
    assert unplaced.missing_bytes > 0
    assert not rig.pipelines.deployments
    (view,) = rig.pool.coordinator.nodes()
    assert view.standby and not view.stages
    _account, secret = await rig.pool.user(1000)
    with pytest.raises(Problem, match=r"no node serves this model now: .* would do") as caught:
        await rig.pool.serve(secret)
    # /health is of the default model, which may be another one and served.
    assert caught.value.hint is not None and "GET /v1/models" in caught.value.hint


async def test_one_picture_names_layers_links_and_the_slowest_stage(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    stages = await rig.serving()
    spare = rig.spare(stages)
    (deployment,) = rig.pipelines.deployments.values()
    assert deployment.session is not None
    deployment.session.seats[0].step_ms, deployment.session.seats[1].step_ms = 1.0, 2.0
    (pipeline,) = rig.pool.coordinator.pipeline_views()
    assert (pipeline.state, pipeline.epoch, pipeline.bottleneck) == ("serving", 1, stages[1].peer)
    assert [(one.start, one.end) for one in pipeline.stages] == [(0, 3), (3, 6)]
    assert {one.next_link.path for one in pipeline.stages if one.next_link} == {"direct"}
    nodes = {view.peer: view for view in rig.pool.coordinator.nodes()}
    assert set(nodes) == set(rig.nodes), "a pipeline is no node of its own"
    assert nodes[spare.peer].standby
    assert [one.start for one in nodes[stages[1].peer].stages] == [3]


async def test_a_model_that_only_a_pipeline_holds_is_told_of_as_served(rig: Rig) -> None:
    for _ in range(2):
        await rig.join(layers=3)
    stage, _other = await rig.serving()
    (card,) = [model.card for model in rig.pool.catalogue.models()]
    assert rig.pool.coordinator.servers() == {card.id: 2}, "its two nodes serve it together"
    name = rig.pool.coordinator.name_of(stage.peer)
    stage.node.die()
    await rig.until(lambda: rig.pool.coordinator.registry.member(stage.peer) is None)
    assert not any(rig.pool.coordinator.servers().values()), "half a model serves nobody"
    (pipeline,) = rig.pool.coordinator.pipeline_views()
    assert pipeline.stages[0].name == name, "who is gone has its name still"


async def test_the_catalogue_is_told_of_every_slice_that_pipelines_hold(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=2)
    await rig.serving()
    digest = "d" * 64
    held = {(digest, 0, 2), (digest, 2, 4), (digest, 4, LAYERS)}
    slices: Any = rig.workshop.slices
    assert slices.in_use == held
    # Also while the plan has others already, and streams in flight finish on these.
    rig.pipelines.plan = msgspec.structs.replace(rig.pipelines.plan, pipelines=())
    assert rig.pipelines._in_use() == held


async def test_a_standby_that_leaves_is_forgotten_and_nothing_moves(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    stages = await rig.serving()
    spare = rig.spare(stages)
    spare.node.die()
    await rig.until(lambda: spare.peer not in rig.pipelines.plan.standby)
    assert await rig.serving() == stages
    assert not any(one.node.said(UnloadStage) for one in stages)


def beats(one: StageNode, step_ms: float, steps: int = 100) -> None:
    """The node says how its stage fares: a usual step takes 50 ms."""
    state = StageState(
        stage=one.loaded[-1],
        resident_bytes=1000,
        steps=steps,
        busy_ms=1.0,
        usual_step_ms=50.0,
        step_ms=step_ms,
    )
    one.hear(Heartbeat(sent_at_ms=0, slots_busy=0, engine="ready", stages=(state,)))


async def test_a_stage_far_slower_than_it_was_gives_its_layers_to_a_standby(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    stages[-1].made(name, 0, (rig.pool.A,))
    beats(stages[0], step_ms=4000.0)
    again = await rig.serving(epoch=2)
    assert stages[0] not in again
    await rig.until(lambda: any(go.attempt == 2 for go in again[0].went))
    again[-1].made(name, 1, (rig.pool.B,) * 3, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("abbb", 1)
    await rig.pool.assert_settled()


@pytest.mark.parametrize(("step_ms", "steps"), [(240.0, 100), (900.0, 100), (4000.0, 3)])
async def test_a_hiccup_of_a_stage_moves_nothing(rig: Rig, step_ms: float, steps: int) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    stages = await rig.serving()
    beats(stages[0], step_ms, steps)
    await asyncio.sleep(0.05)
    rig.pool.coordinator.registry.sweep(rig.pool.clock.monotonic_s())
    assert await rig.serving() == stages


async def test_what_is_left_waits_with_its_layers_for_a_node_that_closes_the_hole(rig: Rig) -> None:
    for _ in range(2):
        await rig.join(layers=3)
    stages = await rig.serving()
    stages[0].node.die()
    (deployment,) = rig.pipelines.deployments.values()
    await rig.until(lambda: deployment.reason == "no node can take the stage that it lost")
    assert not stages[1].node.said(UnloadStage)
    loads = len(stages[1].loaded)
    newcomer = await rig.join(layers=3)
    again = await rig.serving(epoch=2)
    assert set(again) == {newcomer, stages[1]}
    assert set(stages[1].loaded[loads:]) <= set(stages[1].loaded[:loads])


async def test_a_member_that_drains_is_replaced_while_its_streams_finish(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    spare = rig.spare(stages)
    stages[-1].made(name, 0, (rig.pool.A,))
    stages[0].node.drain()
    await rig.until(lambda: spare.loaded)
    assert len(stages[0].went) == 1, "the stream stays where it is"
    stages[-1].made(name, 1, (rig.pool.B,) * 3, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.migrations) == ("abbb", 0)
    again = await rig.serving(epoch=2)
    assert set(again) == {spare, stages[1]}
    await rig.pool.assert_settled()


async def test_a_model_that_cannot_be_cut_is_refused_by_name_to_who_offers_a_stage(
    closed_pool: Any,
) -> None:
    await closed_pool.open()
    slices = Slices()
    slices.refusal = "gemma3 cannot be cut: every sixth layer sees all of the prompt"
    rig = Rig(closed_pool, slices)
    member = await rig.join(layers=6)
    standing = await seen(rig, member, Standing)
    assert (standing.paid_work, standing.state) == (False, "refused")
    assert "gemma3 cannot be cut" in standing.reason
    assert not member.loaded
    _account, secret = await rig.pool.user(1000)
    with pytest.raises(Problem, match="no node serves this model now: gemma3 cannot be cut"):
        await rig.pool.serve(secret)
    (shown,) = rig.pool.coordinator.known_nodes()
    assert (shown.state, shown.standby) == ("refused", False)
    assert "gemma3 cannot be cut" in shown.reason
    view = await rig.pool.coordinator.plan()
    (uncut,) = view.uncut
    assert (uncut.model, uncut.reason) == (rig.pool.catalogue.model.card.id, slices.refusal)
    assert f"{uncut.model} is served by nobody: gemma3 cannot be cut" in view.reasons[0]


async def test_who_was_refused_is_told_when_there_is_something_to_do(closed_pool: Any) -> None:
    await closed_pool.open()
    slices = Slices()
    slices.refusal = "gemma3 cannot be cut"
    rig = Rig(closed_pool, slices)
    member = await rig.join(layers=6)
    await seen(rig, member, Standing)
    slices.refusal = None
    catalogue = rig.pool.catalogue
    card = msgspec.structs.replace(catalogue.model.card, id="tests/second", digest="9" * 64)
    shown = (catalogue.model, type(catalogue.model)(card))
    catalogue.models = lambda: shown
    rig.pool.coordinator.catalogue_changed()
    assert await rig.serving() == (member,)
    assert [one.state for one in member.node.said(Standing)] == ["refused", "ready"]
    (shown_node,) = rig.pool.coordinator.known_nodes()
    assert shown_node.state == "ready"
    (uncut,) = (await rig.pool.coordinator.plan()).uncut
    assert uncut.digest == catalogue.model.card.digest


async def test_who_is_back_at_once_is_told_again_that_there_is_nothing_to_do(
    closed_pool: Any,
) -> None:
    await closed_pool.open()
    slices = Slices()
    slices.refusal = "gemma3 cannot be cut"
    rig = Rig(closed_pool, slices)
    member = await rig.join(layers=6)
    await seen(rig, member, Standing)
    session = rig.pool.coordinator.registry.member(member.peer)
    rig.pipelines.left(session)
    await rig.until(lambda: len(member.node.said(Standing)) == 2)


async def test_a_model_that_is_removed_or_added_is_let_go_of_or_dealt_at_once(rig: Rig) -> None:
    nodes = [await rig.join(layers=3) for _ in range(2)]
    await rig.serving()
    catalogue = rig.pool.catalogue
    shown, catalogue.models = catalogue.models, tuple
    await rig.until(lambda: not rig.pipelines._woken.is_set())
    rig.pool.coordinator.catalogue_changed()
    assert rig.pipelines._woken.is_set(), "it waits for a node to come or go"
    await rig.until(lambda: not rig.pipelines.deployments)
    assert all(one.node.said(UnloadStage) for one in nodes)
    catalogue.models = shown
    rig.pool.coordinator.catalogue_changed()
    await rig.until(lambda: any(one.session for one in rig.pipelines.deployments.values()))
    assert all(len(one.loads) == 2 for one in nodes)


async def test_a_node_that_can_hold_it_all_is_a_pipeline_of_one(rig: Rig) -> None:
    await rig.join(layers=6)
    account, secret = await rig.pool.user(1000)
    answer, name, (only,) = await answered(rig, secret)
    assert not only.links, "there is nobody to link to"
    only.made(name, 0, (rig.pool.A,) * 4, "length")
    text, last = await rig.pool.read(answer)
    assert (text, last.usage.nodes) == ("aaaa", (only.peer,))
    await rig.pool.assert_settled()
    receipt = await receipt_of(rig, last, account)
    assert receipt.segments[0].stages is msgspec.UNSET
    assert receipt.segments[0].signature is not None
    checks = {check.name: check.state for check in verify(msgspec.json.encode(receipt))}
    assert checks["segments"] == "ok"
    earned = await rig.pool.ledger.balance(f"node:{only.peer}", rig.pool.ASSET)
    assert earned.available_micro == int(last.usage.cost) * 85 // 100


async def test_a_middle_stage_that_holds_the_whole_prompt_is_no_liar(rig: Rig) -> None:
    for held in (32, 48, 32):
        await rig.join(layers=2, held=held)
    for one in rig.nodes.values():
        one.held = 48
    _account, secret = await rig.pool.user(10_000)
    stages = await rig.serving()
    stages[0].held = stages[-1].held = 32
    _answer, _name, _ = await answered(rig, secret, prompt=(rig.pool.A,) * 48)
    assert stages[0].went[0].reused == 32
    assert all(one.node.carrier.bye is None for one in stages)


async def test_a_model_whose_file_cannot_be_read_holds_up_no_other(
    closed_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.pipelines.UNREADABLE_S", 0.1)
    await closed_pool.open()
    slices = Slices()
    slices.unreadable = True
    rig = Rig(closed_pool, slices)
    await rig.join(layers=6)
    await asyncio.sleep(0.4)
    assert not rig.pipelines.deployments
    slices.unreadable = False
    assert len(await rig.serving()) == 1


async def test_a_node_that_joins_again_while_it_loads_holds_nobody_up(rig: Rig) -> None:
    first = await rig.join(layers=6, refuses={LoadStage})
    await rig.until(lambda: first.node.said(LoadStage))
    fake = rig.pool.fake(4, key=first.node.key)
    again = StageNode(fake, rig.pool.clock)
    fake.carrier.on_said = again.obey
    await rig.pool.join(fake, models=(), stage=StageOffer(memory_bytes=200 * MIB))
    rig.nodes[fake.peer] = again
    assert await rig.serving() == (again,)


async def test_a_node_that_dies_while_its_pipeline_drains_is_not_waited_for(rig: Rig) -> None:
    for _ in range(3):
        await rig.join(layers=3)
    _account, secret = await rig.pool.user(1000)
    answer, name, stages = await answered(rig, secret)
    stages[-1].made(name, 0, (rig.pool.A,))
    stages[0].node.drain()
    spare = rig.spare(stages)
    await rig.until(lambda: spare.loaded)
    stages[0].node.die()
    again = await rig.serving(epoch=2)
    assert set(again) == {spare, stages[1]}
    await rig.until(lambda: any(go.attempt == 2 for go in again[0].went))
    again[-1].made(name, 1, (rig.pool.B,) * 3, "length")
    assert (await rig.pool.read(answer))[0] == "abbb"


async def test_a_link_that_breaks_while_the_ring_is_timed_is_made_again(rig: Rig) -> None:
    for _ in range(2):
        await rig.join(layers=3, refuses={TimeStage})
    nodes = list(rig.nodes.values())
    await rig.until(lambda: any(one.node.said(TimeStage) for one in nodes))
    timed = next(one for one in nodes if one.node.said(TimeStage))
    links = set(timed.links)
    for one in nodes:
        one.refuses.clear()
    for link in timed.links:
        timed.hear(PairDown(link=link, cause="reset"))
    order = timed.node.said(TimeStage)[-1]
    timed.obey(order)
    stages = await rig.serving()
    assert set(stages[0].links[-2:]).isdisjoint(links)


async def test_a_node_that_never_opens_a_job_gives_its_layers_to_a_standby(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.pipeline.OPEN_WAIT_S", 0.05)
    for _ in range(3):
        await rig.join(layers=3)
    _account, secret = await rig.pool.user(10_000)
    stages = await rig.serving()
    mute, spare = stages[1], rig.spare(stages)
    mute.refuses.add(OpenStage)

    async def ask() -> None:
        with contextlib.suppress(Problem):
            await rig.pool.read(await rig.pool.serve(secret, max_tokens=1))

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    await rig.until(lambda: spare.loaded)
    for one in asking:
        one.cancel()
    again = await rig.serving(epoch=2)
    assert set(again) == {stages[0], spare}


async def test_a_killed_node_is_no_second_warning_while_the_plan_is_repaired(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Its link breaks before its session ends: the pipeline is set up again without it."""
    for _ in range(2):
        await rig.join(layers=3)
    stages = await rig.serving()
    caplog.set_level("INFO", "parhelion.coordinator")
    stages[0].refuses.add(LoadStage)
    loads = len(stages[1].loads)
    stages[1].hear(PairDown(link=stages[1].links[-1], cause="reset"))
    await rig.until(lambda: len(stages[1].loads) > loads)
    stages[0].node.die()
    await rig.until(lambda: any("pipeline is not up" in one.message for one in caplog.records))
    said = [one.levelname for one in caplog.records if "pipeline is not up" in one.message]
    assert set(said) == {"INFO"}
