"""A model without a place goes before the second pipeline of another one, and nobody flaps."""

from __future__ import annotations

import random
import time
from itertools import product

import pytest

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
    explain,
    plan,
    repair,
)
from tests.unit.coordinator.planner.test_plan import SLOWER_MACHINE, check, is_feasible

OLD, NEW, THIRD = "old", "new", "third"


def shape(digest: str, layers: int = 6, layer_bytes: int = 100) -> ModelShape:
    return ModelShape(digest=digest, layer_bytes=(layer_bytes,) * layers, tail_bytes=10)


def member(peer: str, memory_bytes: int, layer_ms: float = 2.0) -> Member:
    return Member(peer=peer, memory_bytes=memory_bytes, layer_ms=layer_ms)


def served(found: Plan) -> dict[str, list[tuple[str, ...]]]:
    by_model: dict[str, list[tuple[str, ...]]] = {}
    for one in found.pipelines:
        by_model.setdefault(one.digest, []).append(one.peers)
    return by_model


def added(found: Plan, *models: ModelShape, pool: Pool) -> tuple[Plan, Pool]:
    """After models came to the pool, as the coordinator tells it: no node did anything."""
    now = Pool(models=(*pool.models, *models), members=pool.members)
    return repair(found, Left(peer=""), now), now


def two_of_one_each() -> tuple[Plan, Pool]:
    """The model of the review: it fits into each of two nodes, and has two pipelines."""
    pool = Pool(models=(shape(OLD),), members=(member("a", 620, 1.0), member("b", 620, 3.0)))
    found = plan(pool)
    assert served(found) == {OLD: [("a",), ("b",)]}
    return found, pool


def test_a_model_that_is_added_gets_the_members_of_another_ones_second_pipeline() -> None:
    found, pool = two_of_one_each()
    after, now = added(found, shape(NEW, layers=3), pool=pool)
    check(after, now)
    # The quicker one goes on, in the same epoch.
    assert served(after) == {OLD: [("a",)], NEW: [("b",)]}
    assert after.pipelines[0] == found.pipelines[0]
    text = "\n".join(explain(after, now))
    assert "pipeline-2 of old gave way to it" in text
    assert repair(after, Left(peer=""), now) is after


def test_the_only_pipeline_of_a_model_never_gives_way() -> None:
    found, pool = two_of_one_each()
    after, now = added(found, shape(NEW), shape(THIRD), pool=pool)
    assert sorted(map(len, served(after).values())) == [1, 1]
    (lack,) = after.unplaced
    assert OLD in served(after)
    for event in (Measured("a"), Measured("b"), Left(peer=""), Joined("a")):
        assert repair(after, event, now).pipelines == after.pipelines
    assert "0 of 0 free members" in lack.reason


def test_a_model_that_goes_gives_its_members_back_to_the_others() -> None:
    found, pool = two_of_one_each()
    after, now = added(found, shape(NEW), pool=pool)
    again = repair(after, Left(peer=""), Pool(models=pool.models, members=now.members))
    assert served(again) == {OLD: [("a",), ("b",)]}
    assert again.gave_way == ()


def test_a_model_that_no_longer_has_streams_keeps_its_place() -> None:
    found, pool = two_of_one_each()
    after, now = added(found, shape(NEW), pool=pool)
    quiet = Pool(models=now.models, members=now.members, streams={NEW: 1, OLD: 1000})
    for event in (Measured("a"), Measured("b"), Left(peer="")):
        assert served(repair(after, event, quiet)) == served(after)


def test_as_few_give_way_as_are_enough_and_who_has_most_comes_first() -> None:
    pool = Pool(
        models=(shape(OLD),),
        members=tuple(member(f"n{at}", 620, 1.0 + at) for at in range(4)),
    )
    found = plan(pool)
    assert len(found.pipelines) == 4
    # Eleven layers: two members are enough, the two slowest.
    after, now = added(found, shape(NEW, layers=11), pool=pool)
    check(after, now)
    assert served(after)[OLD] == [("n0",), ("n1",)]
    assert set(served(after)[NEW][0]) == {"n2", "n3"}
    third, now = added(after, shape(THIRD), pool=now)
    assert served(third)[THIRD] == [("n1",)]


def test_the_one_that_stays_is_the_one_whose_members_the_new_model_cannot_use() -> None:
    pool = Pool(models=(shape(OLD),), members=(member("big", 1200, 1.0), member("small", 620, 9.0)))
    found = plan(pool)
    assert len(found.pipelines) == 2
    after, _ = added(found, shape(NEW, layers=11), pool=pool)
    assert served(after) == {OLD: [("small",)], NEW: [("big",)]}


def test_who_waits_with_layers_of_a_model_keeps_them_when_another_gives_way() -> None:
    members = (member("x", 420), member("y", 420), member("a", 620), member("b", 620))
    stages = {
        name: tuple(one.stages)
        for name, ones in (
            (NEW, plan(Pool(models=(shape(NEW),), members=members[:2])).pipelines),
            ("a", plan(Pool(models=(shape(OLD),), members=members[2:3])).pipelines),
            ("b", plan(Pool(models=(shape(OLD),), members=members[3:])).pipelines),
        )
        for one in ones
    }
    had = Plan(
        epoch=5,
        pipelines=(
            Pipeline(id="pipeline-1", digest=NEW, stages=stages[NEW], epoch=3),
            Pipeline(id="pipeline-2", digest=OLD, stages=stages["a"]),
            Pipeline(id="pipeline-3", digest=OLD, stages=stages["b"]),
        ),
        minted=3,
    )
    gone, kept = stages[NEW][0], stages[NEW][1]
    now = Pool(
        models=(shape(OLD), shape(NEW)),
        members=tuple(one for one in members if one.peer != gone.peer),
    )
    after = repair(had, Left(gone.peer), now)
    check(after, now)
    (again,) = [one for one in after.pipelines if one.digest == NEW]
    assert (again.id, again.epoch, kept in again.stages) == ("pipeline-1", 4, True)
    assert len(served(after)[OLD]) == 1


def test_what_a_model_lacks_counts_who_would_give_way() -> None:
    found, pool = two_of_one_each()
    after, _ = added(found, shape(NEW, layers=10), pool=pool)
    (lack,) = after.unplaced
    assert "1 of 1 members that are free or in a second pipeline of a model" in lack.reason
    more = Pool(
        models=(shape(OLD), shape(NEW, layers=10)),
        members=(*pool.members, member("c", lack.missing_bytes)),
    )
    assert NEW in served(repair(after, Joined("c"), more))
    assert after.pipelines == found.pipelines


def could_be_placed(found: Plan, model: ModelShape, pool: Pool) -> bool:
    """By every choice of one pipeline of each other model that stays: written apart from the code.

    All members that are in none of these are free.
    """
    by_model: dict[str, list[Pipeline]] = {}
    for one in found.pipelines:
        by_model.setdefault(one.digest, []).append(one)
    for kept in product(*by_model.values()):
        used = {peer for one in kept for peer in one.peers}
        members = tuple(one for one in pool.members if one.peer not in used)
        if is_feasible(Pool(models=(model,), members=members)):
            return True
    return False


def story(seed: int) -> None:
    """A pool to which models and nodes come and from which they go, one after the other."""
    draw = random.Random(seed)
    pool = Pool(models=(), members=())
    found = plan(pool)
    for step in range(9):
        models, members = list(pool.models), list(pool.members)
        event: Event = Left(peer="")
        match draw.choice(["model", "join", "join", "join", "leave", "drop"]):
            case "model" if len(models) < 4:
                size = draw.randint(60, 140)
                models.append(shape(f"m{step}", draw.randint(2, 9), size))
            case "leave" if members:
                event = Left(members.pop(draw.randrange(len(members))).peer)
            case "drop" if len(models) > 1:
                models.pop(draw.randrange(len(models)))
            case _ if len(members) < 8:
                new = member(f"n{step}", draw.randint(80, 1100), draw.choice([1.0, 2.0, 9.0]))
                members.append(new)
                event = Joined(new.peer)
            case _:
                continue
        draw.shuffle(models)
        pool = Pool(models=tuple(models), members=tuple(members))
        before = found
        found = repair(before, event, pool)
        check(found, pool)
        assert repair(before, event, pool) == found, seed
        assert repair(found, Left(peer=""), pool).pipelines == found.pipelines, seed
        now = {one.digest for one in found.pipelines}
        for lack in found.unplaced:
            (model,) = [one for one in models if one.digest == lack.digest]
            assert not could_be_placed(found, model, pool), (seed, lack)
        # Who was served and whose members are all here is served: nobody gave way to the last.
        here = {one.peer for one in members}
        for one in before.pipelines:
            is_here = one.digest in {model.digest for model in models} and here.issuperset(
                one.peers
            )
            assert not is_here or one.digest in now, (seed, one)


def test_every_model_that_second_pipelines_could_give_way_to_is_placed() -> None:
    for seed in range(60):
        story(seed)


@pytest.mark.slow
def test_of_thousands_of_events_none_leaves_a_model_without_a_place_that_it_could_have() -> None:
    for seed in range(60, 1000):
        story(seed)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "limit_s"), [(32, 0.05), (256, 1.0), (2000, 10.0)])
@pytest.mark.parametrize(("layers", "layer_bytes"), [(40, 100), (126, 100), (126, 640)])
def test_to_give_way_takes_no_longer_than_a_plan_may(
    count: int, limit_s: float, layers: int, layer_bytes: int
) -> None:
    """Several of them have to, up to a model of many layers; or all would not be enough."""
    draw = random.Random(count)
    members = tuple(member(f"n{at:04}", draw.randint(150, 650), 2.0) for at in range(count))
    pool = Pool(models=(shape(OLD),), members=members)
    found = plan(pool)
    began_s = time.perf_counter()
    after, now = added(found, shape(NEW, layers, layer_bytes), pool=pool)
    took_s = time.perf_counter() - began_s
    check(after, now)
    print(f"{count} nodes, {layers} layers: {took_s:.3f} s, {len(after.gave_way)} gave way")
    assert took_s < limit_s * SLOWER_MACHINE
