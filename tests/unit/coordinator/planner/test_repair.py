"""After every event the plan holds, and only what had to move has moved."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from parhelion.coordinator.planner import (
    Event,
    Joined,
    Left,
    Measured,
    Member,
    ModelShape,
    Pipeline,
    Plan,
    Pool,
    Stage,
    figures,
    plan,
    repair,
)

LAYERS = 12
LAYER_BYTES = 100
HEAD_BYTES = 30
TAIL_BYTES = 50

MODEL = ModelShape(
    digest="m",
    layer_bytes=(LAYER_BYTES,) * LAYERS,
    head_bytes=HEAD_BYTES,
    tail_bytes=TAIL_BYTES,
    tail_layers=1.0,
)


def rtt_ms(lower: str, higher: str) -> float:
    return random.Random(lower + higher).uniform(2.0, 60.0)


def member(peer: str, layers: float, layer_ms: float = 2.0) -> Member:
    return Member(peer=peer, memory_bytes=int(layers * LAYER_BYTES), layer_ms=layer_ms)


def pool(*members: Member, **fields: Any) -> Pool:
    return Pool(models=(MODEL,), members=members, **fields)


def stage_fits(stage: Stage, members: dict[str, Member]) -> bool:
    needed = (stage.end - stage.start) * LAYER_BYTES
    needed += HEAD_BYTES if stage.start == 0 else 0
    needed += TAIL_BYTES if stage.end == LAYERS else 0
    return stage.peer in members and needed <= members[stage.peer].memory_bytes


def check(found: Plan, pool: Pool) -> None:
    members = {one.peer: one for one in pool.members}
    seen: list[str] = [*found.standby]
    for pipeline in (*found.pipelines, *found.broken):
        seen += pipeline.peers
        assert all(stage_fits(stage, members) for stage in pipeline.stages)
        assert all(stage.start < stage.end for stage in pipeline.stages)
    for pipeline in found.pipelines:
        ends = [0, *(stage.end for stage in pipeline.stages)]
        assert ends == [*(stage.start for stage in pipeline.stages), LAYERS]
    for broken in found.broken:
        assert 0 < sum(stage.end - stage.start for stage in broken.stages) < LAYERS
    assert sorted(seen) == sorted(members)
    ids = [one.id for one in (*found.pipelines, *found.broken)]
    assert len(set(ids)) == len(ids)
    assert bool(found.unplaced) == (not found.pipelines)


def check_moves(before: Plan, after: Plan, pool: Pool) -> None:
    """Epochs count; what changed had lost something or gains enough."""
    members = {one.peer: one for one in pool.members}
    now = {one.id: one for one in (*after.pipelines, *after.broken)}
    for had in before.pipelines:
        stayed = now.get(had.id)
        if stayed is None:
            # All that it had went, or was taken for another one.
            assert any(not stage_fits(stage, members) for stage in had.stages)
            continue
        lost = [stage for stage in had.stages if not stage_fits(stage, members)]
        if stayed.stages == had.stages:
            assert (stayed.epoch, lost) == (had.epoch, [])
        elif stayed in after.broken:
            assert lost
        else:
            assert stayed.epoch == had.epoch + 1
            if not lost:
                assert waits_ms(stayed, before, pool) <= waits_ms(had, before, pool) * 0.85 + 1e-9
    assert after.epoch == before.epoch + (after != before)


def waits_ms(pipeline: Pipeline, before: Plan, pool: Pool) -> float:
    """What a stream waits in it, at the share that it had."""
    copies = max(1, len(before.pipelines))
    alone = Plan(
        pipelines=tuple(msgspec.structs.replace(pipeline, id=str(at)) for at in range(copies))
    )
    return figures(alone, pool)[0].stream_ms


class Machine(RuleBasedStateMachine):
    """Nodes come, go, slow down and shrink; a model of the pool beside the plan."""

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, Member] = {}
        self.plan = plan(pool())
        self.count = 0

    @rule(
        layers=st.one_of(st.floats(0.5, 8.0), st.floats(11.0, 14.0)),
        layer_ms=st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0]),
    )
    def join(self, layers: float, layer_ms: float) -> None:
        if len(self.members) < 9:
            self.count += 1
            peer = f"n{self.count:03d}"
            self.members[peer] = member(peer, layers, layer_ms)
            self.after(Joined(peer))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.members)))
        del self.members[peer]
        self.after(Left(peer))

    @precondition(lambda self: self.members)
    @rule(data=st.data(), times=st.sampled_from([0.1, 0.9, 1.05, 3.0, 20.0]))
    def slow_down(self, data: st.DataObject, times: float) -> None:
        peer = data.draw(st.sampled_from(sorted(self.members)))
        had = self.members[peer]
        layer_ms = min(500.0, max(0.05, (had.layer_ms or 1.0) * times))
        self.members[peer] = msgspec.structs.replace(had, layer_ms=layer_ms)
        self.after(Measured(peer))

    @precondition(lambda self: self.members)
    @rule(data=st.data(), times=st.sampled_from([0.5, 0.8, 2.0]))
    def shrink(self, data: st.DataObject, times: float) -> None:
        peer = data.draw(st.sampled_from(sorted(self.members)))
        had = self.members[peer]
        memory_bytes = min(1500, int(had.memory_bytes * times))
        self.members[peer] = msgspec.structs.replace(had, memory_bytes=memory_bytes)
        self.after(Measured(peer))

    def after(self, event: Event) -> None:
        before = self.plan
        now = pool(*self.members.values(), rtt=rtt_ms)
        self.plan = repair(before, event, now)
        check(self.plan, now)
        check_moves(before, self.plan, now)
        # A pool that can serve is never left without a pipeline.
        assert bool(self.plan.pipelines) == bool(plan(now).pipelines)
        assert repair(before, event, now) == self.plan

    @invariant()
    def nobody_is_named_twice(self) -> None:
        ids = [pipeline.id for pipeline in self.plan.pipelines]
        assert all(int(name.split("-")[1]) <= self.plan.minted for name in ids)


Machine.TestCase.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyEvents = Machine.TestCase


@pytest.mark.slow
def test_no_events_of_hundreds_break_a_plan() -> None:
    many = settings(Machine.TestCase.settings, max_examples=300)
    run_state_machine_as_test(Machine, settings=many)


def test_a_pipeline_that_changes_twice_in_one_event_is_one_epoch_on() -> None:
    """Its shrunken stage is replaced; then the rest is faster without the one that replaced it."""
    members = [member("n2", 1, 0.5), member("n3", 11, 0.5), member("n4", 11, 0.5)]
    stages = (Stage("n3", 0, 6), Stage("n5", 6, 7), Stage("n4", 7, 12))
    before = Plan(
        epoch=7,
        pipelines=(Pipeline(id="pipeline-1", digest="m", stages=stages, epoch=2),),
        standby=("n2",),
        minted=1,
    )
    now = pool(*members, member("n5", 0.5, 0.5), rtt=far_from_n2)
    after = repair(before, Measured("n5"), now)
    check(after, now)
    assert after.pipelines[0].peers == ("n3", "n4")
    assert after.pipelines[0].epoch == 3
    check_moves(before, after, now)


def far_from_n2(lower: str, higher: str) -> float:
    return 200.0 if "n2" in (lower, higher) else 2.0


def begun(*members: Member) -> tuple[Plan, Pool]:
    """A plan in which nobody is near anybody."""
    now = pool(*members)
    return plan(now), now


def without(now: Pool, peer: str) -> Pool:
    return pool(*(one for one in now.members if one.peer != peer))


def layers_of(found: Plan) -> dict[str, tuple[int, int]]:
    return {s.peer: (s.start, s.end) for p in found.pipelines for s in p.stages}


def test_a_standby_that_fits_takes_just_the_lost_layers() -> None:
    found, now = begun(member("a", 7), member("b", 7))
    for peer, layer_ms in (("slow", 9.0), ("fast", 3.0)):
        now = pool(*now.members, member(peer, 7.5, layer_ms))
        found = repair(found, Joined(peer), now)
    # Two more of this size are a pipeline of their own: take its place away again.
    assert len(found.pipelines) == 2
    found, now = begun(member("a", 8), member("b", 8))
    now = pool(*now.members, member("slow", 8, 9.0))
    found = repair(found, Joined("slow"), now)
    assert found.standby == ("slow",)
    before = layers_of(found)
    gone = found.pipelines[0].peers[1]
    stayed = found.pipelines[0].peers[0]
    after = repair(found, Left(gone), without(now, gone))
    assert layers_of(after) == {stayed: before[stayed], "slow": before[gone]}
    assert (after.pipelines[0].id, after.pipelines[0].epoch) == (found.pipelines[0].id, 2)


def test_the_fastest_of_the_standby_nodes_that_fit_is_taken() -> None:
    found, now = begun(member("a", 9), member("b", 9))
    assert len(found.pipelines) == 1
    spare = [member(f"s{at}", 6.0 - at, ms) for at, ms in enumerate((9.0, 3.0, 3.5))]
    lost = found.pipelines[0].peers[0]
    hole = layers_of(found)[lost]
    width = hole[1] - hole[0]
    now = pool(
        *(one for one in now.members if one.peer != lost),
        *(member(one.peer, width + 0.6, one.layer_ms or 1.0) for one in spare),
    )
    found = repair(found, Left(lost), now)
    assert layers_of(found)["s1"] == hole


def test_without_a_standby_the_neighbours_take_the_layers_and_keep_their_own() -> None:
    found, now = begun(member("a", 6), member("b", 6), member("c", 6))
    assert len(found.pipelines[0].stages) == 3
    before = layers_of(found)
    gone = found.pipelines[0].peers[1]
    after = repair(found, Left(gone), without(now, gone))
    (pipeline,) = after.pipelines if after.pipelines else after.broken
    kept = {s.peer: (s.start, s.end) for s in pipeline.stages}
    # 12 layers, head and tail do not fit twice 6 layers: they wait with what they have.
    assert pipeline in after.broken
    assert kept == {peer: layers for peer, layers in before.items() if peer != gone}
    larger = pool(*(member(one.peer, 9) for one in without(now, gone).members))
    again = repair(found, Left(gone), larger)
    for peer, (start, end) in layers_of(again).items():
        assert start <= before[peer][0] < before[peer][1] <= end


def test_a_joining_node_closes_the_hole_and_the_others_keep_their_layers() -> None:
    found, now = begun(member("a", 6), member("b", 6), member("c", 6))
    before = layers_of(found)
    gone = found.pipelines[0].peers[1]
    broken = repair(found, Left(gone), without(now, gone))
    assert broken.unplaced
    later = pool(*without(now, gone).members, member("new", 6))
    after = repair(broken, Joined("new"), later)
    assert layers_of(after) == {
        ("new" if peer == gone else peer): layers for peer, layers in before.items()
    }
    assert (after.pipelines[0].id, after.pipelines[0].epoch) == (found.pipelines[0].id, 2)
    assert not after.unplaced


def test_a_joining_node_that_is_not_needed_is_standby_and_standby_nodes_leave() -> None:
    found, now = begun(member("a", 8), member("b", 8))
    more = pool(*now.members, member("c", 2, 50.0))
    waits = repair(found, Joined("c"), more)
    assert waits.standby == ("c",)
    assert waits.pipelines == found.pipelines
    assert repair(waits, Left("c"), now).standby == ()


def test_layers_move_only_for_enough_gain() -> None:
    found, _ = begun(member("a", 9), member("b", 9))
    slightly = pool(member("a", 9), member("b", 9, 2.1))
    assert repair(found, Measured("b"), slightly).pipelines == found.pipelines
    much = pool(member("a", 9), member("b", 9, 20.0))
    moved = repair(found, Measured("b"), much)
    assert layers_of(moved)["b"][1] - layers_of(moved)["b"][0] < 6
    assert moved.pipelines[0].epoch == 2


def test_a_node_with_less_memory_gives_up_what_it_cannot_hold() -> None:
    found, _ = begun(member("a", 8), member("b", 8))
    smaller = pool(member("a", 11), member("b", 3))
    check(repair(found, Measured("b"), smaller), smaller)


def test_a_lost_whole_node_is_replaced_and_other_pipelines_stay() -> None:
    found, now = begun(member("a", 13), member("b", 13))
    assert len(found.pipelines) == 2
    after = repair(found, Left("a"), without(now, "a"))
    assert [p.peers for p in after.pipelines] == [("b",)]
    assert after.pipelines[0] in found.pipelines


def test_an_event_that_changes_nothing_changes_no_epoch() -> None:
    found, now = begun(member("a", 8), member("b", 8))
    assert repair(found, Measured("a"), now) is found
