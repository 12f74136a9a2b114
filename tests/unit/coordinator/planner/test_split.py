"""The split is exact: against every cut of small models, under memory, for few and many streams."""

from __future__ import annotations

import random
from itertools import combinations, permutations

import pytest

from parhelion.coordinator.planner import Member, ModelShape, Pool
from parhelion.coordinator.planner.baselines import equal_split, memory_split
from parhelion.coordinator.planner.objective import (
    Speed,
    load_of,
    mean_stream_ms,
    stream_ms,
)
from parhelion.coordinator.planner.order import arranged, short_ring
from parhelion.coordinator.planner.split import Cut, cut_of, min_max, split
from parhelion.coordinator.planner.terms import Terms, terms_of


def drawn(seed: int, *, alike: bool, members: int = 3, layers: int = 9) -> Terms:
    draw = random.Random(seed)
    sizes = tuple(100 if alike else draw.randint(60, 140) for _ in range(layers))
    model = ModelShape(
        digest="m",
        layer_bytes=sizes,
        head_bytes=draw.choice([0, 80]),
        tail_bytes=draw.choice([0, 120]),
        head_layers=draw.choice([0.0, 0.5]),
        tail_layers=draw.choice([0.0, 2.0]),
    )
    pool = Pool(
        models=(model,),
        members=tuple(
            Member(
                peer=f"p{at}",
                memory_bytes=draw.randint(150, 800),
                layer_ms=draw.choice([1.0, 1.0, draw.uniform(0.2, 5.0)]),
            )
            for at in range(members)
        ),
        rtt=lambda lower, higher: float(7 * int(lower[1:]) + int(higher[1:])),
    )
    return terms_of(model, pool)


def every_cut(terms: Terms, order: tuple[int, ...], streams: int) -> list[Cut]:
    """Each cut that fits, tried one by one."""
    found = []
    for inner in combinations(range(1, terms.layers), len(order) - 1):
        ends = (*inner, terms.layers)
        starts = (0, *inner)
        if all(
            terms.stage_bytes(start, end) <= terms.free_bytes[member]
            for member, start, end in zip(order, starts, ends, strict=True)
        ):
            found.append(cut_of(terms, order, ends, streams))
    return found


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("streams", [1, 2, 8])
def test_no_cut_is_better_than_the_split(alike: bool, streams: int) -> None:
    seen = 0
    for seed in range(60):
        terms = drawn(seed, alike=alike)
        for order in ((0, 1, 2), (2, 0), (1,)):
            cuts = every_cut(terms, order, streams)
            found = split(terms, order, streams)
            assert (found is None) == (not cuts), seed
            if found is not None:
                assert found in cuts
                best = min(cut.cost_ms for cut in cuts)
                assert found.cost_ms == pytest.approx(best), seed
                # Of equal ones the most even.
                even = min(
                    cut.speed.bottleneck_ms for cut in cuts if cut.cost_ms <= best * (1 + 1e-12)
                )
                assert found.speed.bottleneck_ms == pytest.approx(even), seed
                seen += 1
    assert seen > 30


@pytest.mark.parametrize("alike", [True, False])
def test_no_cut_has_a_faster_slowest_stage_than_min_max(alike: bool) -> None:
    for seed in range(60):
        terms = drawn(seed, alike=alike)
        cuts = every_cut(terms, (0, 1, 2), 1)
        found = min_max(terms, (0, 1, 2))
        assert (found is None) == (not cuts)
        if found is not None:
            assert found.speed.bottleneck_ms == pytest.approx(
                min(cut.speed.bottleneck_ms for cut in cuts)
            )


@pytest.mark.parametrize("streams", [1, 8])
def test_no_order_is_better_than_the_one_found(streams: int) -> None:
    for seed in range(40):
        terms = drawn(seed, alike=seed % 2 == 0, members=4)
        cuts = [split(terms, order, streams) for order in permutations(range(4))]
        best = min((cut.cost_ms for cut in cuts if cut is not None), default=None)
        found = arranged(terms, range(4), streams)
        assert (found is None) == (best is None)
        if found is not None:
            assert found.cost_ms == pytest.approx(best), seed


def test_a_long_ring_is_nearly_as_short_as_the_shortest() -> None:
    for seed in range(10):
        draw = random.Random(seed)
        points = [complex(draw.uniform(0, 30), draw.uniform(0, 30)) for _ in range(8)]
        hops = [[abs(a - b) for b in points] for a in points]

        def length(ring: tuple[int, ...], hops: list[list[float]] = hops) -> float:
            return sum(hops[a][b] for a, b in zip(ring, (*ring[1:], ring[0]), strict=True))

        best = min(length((0, *rest)) for rest in permutations(range(1, 8)))
        found = short_ring(hops)
        assert sorted(found) == list(range(8))
        assert length(found) <= best * 1.05


def test_hops_count_one_way_each_and_the_way_back_is_one_of_them() -> None:
    terms = drawn(1, alike=True)
    assert terms.ring_ms([0]) == 0
    assert terms.ring_ms([0, 1]) == 2 * terms.hop_ms(0, 1) == 1.0
    assert terms.ring_ms([0, 1, 2]) == (1 + 2 + 9) / 2


def test_one_stream_pays_for_its_way_and_many_for_the_slowest_stage() -> None:
    even = Speed(token_ms=30.0, ring_ms=10.0, bottleneck_ms=10.0, stages=2)
    uneven = Speed(token_ms=28.0, ring_ms=10.0, bottleneck_ms=16.0, stages=2)
    assert stream_ms(even, 1) == 30.0
    assert stream_ms(uneven, 1) < stream_ms(even, 1)
    assert stream_ms(uneven, 8) > stream_ms(even, 8)
    assert load_of(1, 4) == (1, 1.0)
    assert load_of(8, 4) == (4, 1.25)


def test_streams_go_where_they_add_least() -> None:
    fast = Speed(token_ms=10.0, ring_ms=0.0, bottleneck_ms=10.0, stages=1)
    slow = Speed(token_ms=50.0, ring_ms=0.0, bottleneck_ms=50.0, stages=1)
    assert mean_stream_ms([slow, fast], 2) == stream_ms(fast, 2) == 12.5
    assert mean_stream_ms([], 2) == float("inf")


def test_the_baselines_split_as_they_say() -> None:
    model = ModelShape(digest="m", layer_bytes=(10,) * 12)
    members = tuple(
        Member(peer=peer, memory_bytes=size) for peer, size in (("z", 60), ("b", 120), ("a", 60))
    )
    terms = terms_of(model, Pool(models=(model,), members=members))
    equal, memory, two = equal_split(terms), memory_split(terms), equal_split(terms, 2)
    assert equal is not None and memory is not None and two is not None
    assert [terms.peers[member] for member in equal.order] == ["z", "b", "a"]
    assert equal.ends == (4, 8, 12)
    assert memory.ends == (3, 9, 12)
    assert two.ends == (6, 12)
