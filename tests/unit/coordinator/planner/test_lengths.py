"""No stage ever has a forbidden length, and no pool that can do without them is left unserved."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.config import PipelinesConfig
from parhelion.coordinator.pipeline_pool import shape_of
from parhelion.coordinator.planner import (
    Joined,
    Left,
    Measured,
    Member,
    ModelShape,
    Plan,
    Pool,
    explain,
    plan,
    repair,
)
from parhelion.coordinator.planner.baselines import baselines
from parhelion.coordinator.planner.split import cut_of, min_max, split
from parhelion.coordinator.planner.terms import terms_of
from parhelion.models import ModelWeight
from parhelion.testing.random_pools import random_pool
from parhelion.words import ModelCard

QUICK = settings(max_examples=60, deadline=None)

LONG = settings(max_examples=2_000, deadline=None)


@st.composite
def pools(draw: st.DrawFn, members: int = 5, layers: int = 9) -> Pool:
    """A few small members, few layers, and some lengths that are forbidden, or nearly all."""
    count = draw(st.integers(1, layers))
    sizes = draw(
        st.one_of(
            st.just((10,) * count),
            st.lists(st.integers(6, 14), min_size=count, max_size=count).map(tuple),
        )
    )
    model = ModelShape(
        digest="m",
        layer_bytes=sizes,
        head_bytes=draw(st.sampled_from([0, 5, 12])),
        tail_bytes=draw(st.sampled_from([0, 7, 15])),
        tail_layers=draw(st.sampled_from([0.0, 1.5])),
        forbidden_lengths=tuple(draw(st.sets(st.integers(1, layers + 2), max_size=layers))),
    )
    found = [
        Member(
            peer=f"p{at}",
            memory_bytes=draw(st.integers(0, 70)),
            layer_ms=draw(st.sampled_from([1.0, 2.0, 7.5])),
        )
        for at in range(draw(st.integers(1, members)))
    ]
    return Pool(
        models=(model,),
        members=tuple(found),
        rtt=lambda lower, higher: float(5 * int(lower[1:]) + int(higher[1:])),
        streams={"m": draw(st.sampled_from([1, 8]))},
    )


def may_be(pool: Pool, peer: str, start: int, end: int) -> bool:
    """Whether this member may hold layers [start, end), written apart from the planner."""
    (model,) = pool.models
    needed = sum(model.layer_bytes[start:end]) + (end - start) * model.kv_bytes
    needed += model.head_bytes if start == 0 else 0
    needed += model.tail_bytes if end == model.layers else 0
    room = {one.peer: one.memory_bytes - one.overhead_bytes for one in pool.members}
    return end - start not in model.forbidden_lengths and needed <= room.get(peer, -1)


def can_serve(pool: Pool) -> bool:
    """Whether any members in any order with any cuts can, by trying them all."""
    layers = pool.models[0].layers
    peers = frozenset(one.peer for one in pool.members)

    @cache
    def rest(start: int, free: frozenset[str]) -> bool:
        return start == layers or any(
            may_be(pool, peer, start, end) and rest(end, free - {peer})
            for peer in free
            for end in range(start + 1, layers + 1)
        )

    return rest(0, peers)


def check(found: Plan, pool: Pool) -> None:
    (model,) = pool.models
    seen = list(found.standby)
    for one in (*found.pipelines, *found.broken):
        seen += one.peers
        assert all(may_be(pool, stage.peer, stage.start, stage.end) for stage in one.stages)
    for one in found.pipelines:
        ends = [0, *(stage.end for stage in one.stages)]
        assert ends == [*(stage.start for stage in one.stages), model.layers]
    assert sorted(seen) == sorted(one.peer for one in pool.members)
    assert bool(found.unplaced) == (not found.pipelines)


def check_found(found: Plan, pool: Pool) -> None:
    check(found, pool)
    assert can_serve(pool) or not found.pipelines
    assert found.pipelines or not can_serve(pool)


def check_plan(pool: Pool) -> None:
    found = plan(pool)
    check_found(found, pool)
    for lack in found.unplaced:
        if lack.missing_bytes:
            one_more = Member(peer="p9", memory_bytes=lack.missing_bytes, layer_ms=1.0)
            more = with_members(pool, *pool.members, one_more)
            check(plan(more), more)
            assert plan(more).pipelines


def with_members(pool: Pool, *members: Member) -> Pool:
    return Pool(models=pool.models, members=members, rtt=pool.rtt, streams=pool.streams)


@QUICK
@given(pools())
def test_a_plan_has_no_forbidden_length_and_is_there_if_one_can_be(pool: Pool) -> None:
    check_plan(pool)


@pytest.mark.slow
@LONG
@given(pools(members=6, layers=11))
def test_of_thousands_of_pools_none_is_left_without_a_plan(pool: Pool) -> None:
    check_plan(pool)


def check_events(pool: Pool, more: Pool) -> None:
    """The members come, shrink and go, one by one; the model with its lengths is the first's."""
    now = with_members(pool)
    found = plan(now)
    for member in pool.members:
        now = with_members(pool, *now.members, member)
        found = checked(found, Joined(member.peer), now)
    for member, other in zip(pool.members, more.members, strict=False):
        changed = Member(peer=member.peer, memory_bytes=other.memory_bytes, layer_ms=3.0)
        kept = [changed if one.peer == member.peer else one for one in now.members]
        now = with_members(pool, *kept)
        found = checked(found, Measured(member.peer), now)
    for member in pool.members:
        now = with_members(pool, *(one for one in now.members if one.peer != member.peer))
        found = checked(found, Left(member.peer), now)


def checked(before: Plan, event: Joined | Left | Measured, now: Pool) -> Plan:
    after = repair(before, event, now)
    check_found(after, now)
    return after


@settings(max_examples=25, deadline=None)
@given(pools(), pools())
def test_a_repair_has_no_forbidden_length_and_serves_if_that_can_be(pool: Pool, more: Pool) -> None:
    check_events(pool, more)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(pools(members=6, layers=11), pools(members=6))
def test_of_thousands_of_events_none_leaves_a_pool_unserved(pool: Pool, more: Pool) -> None:
    check_events(pool, more)


@QUICK
@given(pools(members=4), st.sampled_from([1, 2, 8]))
def test_no_cut_of_allowed_lengths_is_better_than_the_split(pool: Pool, streams: int) -> None:
    terms = terms_of(pool.models[0], pool)
    order = tuple(range(len(terms.peers)))
    cuts = [
        cut_of(terms, order, (*inner, terms.layers), streams)
        for inner in combinations(range(1, terms.layers), len(order) - 1)
        if all(
            may_be(pool, terms.peers[member], start, end)
            for member, start, end in zip(order, (0, *inner), (*inner, terms.layers), strict=True)
        )
    ]
    found, even = split(terms, order, streams), min_max(terms, order)
    assert (found is None) == (even is None) == (not cuts)
    if found is not None and even is not None:
        assert found.ends in {cut.ends for cut in cuts}
        assert found.cost_ms == pytest.approx(min(cut.cost_ms for cut in cuts))
        slowest = even.speed.bottleneck_ms
        assert slowest == pytest.approx(min(cut.speed.bottleneck_ms for cut in cuts))


@QUICK
@given(pools())
def test_the_baselines_have_no_forbidden_length_either(pool: Pool) -> None:
    terms = terms_of(pool.models[0], pool)
    for _, cut in baselines(terms):
        for member, start, end in cut.stages() if cut is not None else ():
            assert may_be(pool, terms.peers[member], start, end)


@pytest.mark.parametrize("alike", [True, False])
def test_many_members_find_the_lengths_that_are_left(alike: bool) -> None:
    """Of 37 layers, in stages of 9 or 10 only: three of nine and one of ten, by 20 members."""
    sizes = (100,) * 37 if alike else tuple(100 - at % 3 for at in range(37))
    model = ModelShape(
        digest="m",
        layer_bytes=sizes,
        forbidden_lengths=tuple(n for n in range(1, 38) if n not in (9, 10)),
    )
    small = [Member(peer=f"s{at:02}", memory_bytes=500, layer_ms=1.0) for at in range(16)]
    large = [
        Member(peer=f"l{at:02}", memory_bytes=1000 if at == 3 else 950, layer_ms=9.0)
        for at in range(4)
    ]
    pool = Pool(models=(model,), members=(*small, *large))
    found = plan(pool)
    check(found, pool)
    (one,) = found.pipelines
    assert sorted(stage.end - stage.start for stage in one.stages) == [9, 9, 9, 10]


def test_a_pool_that_only_tiles_with_forbidden_lengths_is_told_so() -> None:
    model = ModelShape(digest="m", layer_bytes=(100,) * 53, forbidden_lengths=(26, 27))
    members = (
        Member(peer="a", memory_bytes=2650, layer_ms=1.0),
        Member(peer="b", memory_bytes=2750, layer_ms=1.0),
    )
    pool = Pool(models=(model,), members=members)
    found = plan(pool)
    assert not found.pipelines
    (lack,) = found.unplaced
    assert "together all 53, but only in stages that may not be: of 26 or 27 layers" in lack.reason
    # 25 layers on each of both, and 3 on one more.
    assert lack.missing_bytes == 300
    more = with_members(pool, *members, Member(peer="c", memory_bytes=300, layer_ms=1.0))
    (one,) = plan(more).pipelines
    assert sorted(stage.end - stage.start for stage in one.stages) == [3, 25, 25]
    assert any("no stage may have 26 or 27 layers" in line for line in explain(found, pool))


def test_a_pool_that_no_one_more_can_help_is_told_so() -> None:
    model = ModelShape(digest="m", layer_bytes=(100,) * 5, forbidden_lengths=(1, 4, 5))
    pool = Pool(models=(model,), members=())
    (lack,) = plan(pool).unplaced
    assert (lack.missing_bytes, lack.reason.split("; ")[-1]) == (
        0,
        "no single one more was found that would do",
    )


def test_the_lengths_that_a_model_forbids_reach_the_planner() -> None:
    weight = ModelWeight(
        architecture="deepseek2",
        layers=3,
        layer_bytes=(10, 10, 10),
        layer_active_bytes=(10, 10, 10),
        kv_bytes_per_token=(1, 1, 1),
        head_bytes=5,
        tail_bytes=5,
        hidden_size=8,
        n_vocab=100,
        forbidden_lengths=(2,),
    )
    card = ModelCard(
        id="deep",
        digest="d" * 64,
        vocabulary_digest="",
        template_digest="",
        purpose="chat",
        size_bytes=40,
        memory_bytes=40,
        context=512,
        default_max_tokens=16,
        n_vocab=100,
        architecture="deepseek2",
        layers=3,
        created_s=0,
    )
    assert shape_of(card, weight, PipelinesConfig()).forbidden_lengths == (2,)


def test_a_stage_of_a_length_that_became_forbidden_is_given_up() -> None:
    members = tuple(Member(peer=peer, memory_bytes=700, layer_ms=1.0) for peer in "ab")
    before = Pool(models=(ModelShape(digest="m", layer_bytes=(100,) * 10),), members=members)
    had = plan(before)
    assert [stage.end for stage in had.pipelines[0].stages] == [5, 10]
    shape = ModelShape(digest="m", layer_bytes=(100,) * 10, forbidden_lengths=(5,))
    now = Pool(models=(shape,), members=members)
    after = repair(had, Measured("a"), now)
    check(after, now)
    assert after.pipelines


@pytest.mark.slow
def test_random_pools_of_real_size_keep_to_the_lengths_at_little_cost() -> None:
    served = [0, 0]
    for seed in range(120):
        pool = random_pool(seed, layers=(40, 61), alike=seed % 2 == 0)
        (model,) = pool.models
        lengths = tuple(range(seed % 20 + 5, seed % 20 + 9))
        shape = ModelShape(
            digest=model.digest,
            layer_bytes=model.layer_bytes,
            head_bytes=model.head_bytes,
            tail_bytes=model.tail_bytes,
            kv_bytes_per_token=model.kv_bytes_per_token,
            kv_tokens=model.kv_tokens,
            tail_layers=model.tail_layers,
            forbidden_lengths=lengths,
        )
        strict = Pool(models=(shape,), members=pool.members, rtt=pool.rtt, streams=pool.streams)
        found = plan(strict)
        check(found, strict)
        served[0] += bool(plan(pool).pipelines)
        served[1] += bool(found.pipelines)
    assert served[1] >= served[0] - 2
