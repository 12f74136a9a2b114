"""What an explanation says of better deals: why a worse one stays, and nothing twice."""

from __future__ import annotations

import pytest

from parhelion.coordinator.planner import (
    Member,
    ModelShape,
    Pipeline,
    Plan,
    Pool,
    Stage,
    explain,
    plan,
)
from parhelion.coordinator.planner.repair import GAIN
from parhelion.testing.random_pools import random_pool

MODEL = ModelShape(digest="d", name="acme/m", layer_bytes=(100,) * 26)


def pool_of(**layer_ms: float) -> Pool:
    members = tuple(
        Member(peer=peer, memory_bytes=2000, layer_ms=ms) for peer, ms in layer_ms.items()
    )
    return Pool(models=(MODEL,), members=members, rtt=lambda _one, _other: 0.3)


def halves() -> Plan:
    stages = (Stage("a", 0, 13), Stage("b", 13, 26))
    return Plan(
        epoch=1, minted=1, pipelines=(Pipeline(id="pipeline-1", digest="d", stages=stages),)
    )


@pytest.mark.parametrize(
    ("slower", "said"),
    [(1.0, None), (1.3, "move only for 15%"), (3.0, "measured after they were dealt")],
)
def test_a_deal_that_is_worse_than_another_says_why_it_stays(
    slower: float, said: str | None
) -> None:
    lines = explain(halves(), pool_of(a=2.8, b=2.8 * slower))
    stays = [line for line in lines if "dealt anew" in line]
    assert len(stays) == (said is not None)
    assert all(str(said) in line for line in stays)
    assert GAIN == 0.15


def test_a_plan_just_made_has_nothing_to_say_for_staying() -> None:
    for seed in range(20):
        pool = random_pool(seed)
        lines = explain(plan(pool), pool)
        assert not [line for line in lines if "dealt anew" in line], seed


def test_plain_splits_that_come_to_the_same_are_said_once() -> None:
    lines = explain(halves(), pool_of(a=2.8, b=2.8))
    beside = [line for line in lines if line.startswith("  beside")]
    assert len(beside) == 1
    assert "equal split in joining order (2 nodes)" in beside[0]
    assert beside[0].endswith("; split by memory: the same")


def test_the_fewest_members_are_said_where_they_are_others() -> None:
    pool = pool_of(a=2.8, b=2.8, c=2.8)
    beside = [line for line in explain(plan(pool), pool) if line.startswith("  beside")]
    assert len(beside) == 2 and "fewest members (2 nodes)" in beside[1]
    assert beside[1].endswith("; split by memory, fewest members: the same")
