"""How hidden states travel is agreed by each pipeline; nobody is left out for what it speaks."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.coordinator.planner import Member, Pool, explain, plan, pool_of
from tests.unit.coordinator.rings import Rig, StageNode

BOTH = ("fp32", "bf16")
OLD = ("fp32",)


@pytest.fixture
async def wishes_bf16(closed_pool: Any) -> Rig:
    await closed_pool.open(resume_wait_s=5.0)
    return Rig(closed_pool, wire="bf16")


def told(*stages: StageNode) -> list[str]:
    """How the newest order of each has it write hidden states."""
    return [one.loads[-1].spec.wire for one in stages]


def shown(rig: Rig) -> str | None:
    (view,) = rig.pool.coordinator.pipeline_views()
    return view.wire


async def reasons(rig: Rig) -> str:
    return "\n".join((await rig.pool.coordinator.plan()).reasons)


async def test_a_pipeline_whose_nodes_all_speak_bf16_uses_it(wishes_bf16: Rig) -> None:
    rig = wishes_bf16
    for _ in range(3):
        await rig.join(layers=2, wires=BOTH)
    assert told(*await rig.serving()) == ["bf16"] * 3
    assert shown(rig) == "bf16"
    text = await reasons(rig)
    assert "hidden states travel as bf16: all of its nodes speak bf16" in text


async def test_one_node_that_does_not_speak_bf16_is_no_reason_to_leave_it_out(
    wishes_bf16: Rig,
) -> None:
    rig = wishes_bf16
    for wires in (BOTH, OLD, BOTH):
        await rig.join(layers=2, wires=wires)
    stages = await rig.serving()
    assert len(stages) == 3 and told(*stages) == ["fp32"] * 3
    assert shown(rig) == "fp32"
    # All of these are called "a node"; two of them would "do not speak".
    said = "hidden states travel as fp32: a node does not speak bf16, which is wished"
    assert said in await reasons(rig)


async def test_what_is_agreed_follows_who_is_in_the_pipeline(wishes_bf16: Rig) -> None:
    rig = wishes_bf16
    for wires in (BOTH, BOTH):
        await rig.join(layers=3, wires=wires)
    stages = await rig.serving()
    assert told(*stages) == ["bf16"] * 2
    spare = await rig.join(layers=3, wires=OLD)
    await rig.until(lambda: spare.peer in rig.pipelines.plan.standby)
    assert shown(rig) == "bf16", "a standby has no word in it"
    stages[1].node.die()
    again = await rig.serving(epoch=2)
    assert set(again) == {stages[0], spare}
    assert told(*again) == ["fp32"] * 2, "who stays is told anew"
    assert shown(rig) == "fp32"


async def test_a_node_that_does_not_speak_fp32_is_in_no_pipeline(wishes_bf16: Rig) -> None:
    rig = wishes_bf16
    odd = await rig.join(layers=3, wires=("bf16",))
    for _ in range(2):
        await rig.join(layers=3, wires=BOTH)
    stages = await rig.serving()
    assert odd not in stages and odd.loads == []


def test_what_members_speak_changes_no_plan_and_is_not_spoken_of_unless_wished() -> None:
    described = pool_of(POOL)
    silent = plan(described)
    assert "hidden states" not in "\n".join(explain(silent, described))

    def with_wires(*wires: tuple[str, ...]) -> Pool:
        members = tuple(
            Member(peer=one.peer, name=one.name, memory_bytes=one.memory_bytes, wires=spoken)
            for one, spoken in zip(described.members, wires, strict=True)
        )
        return Pool(models=described.models, members=members, wire="bf16")

    pool = with_wires(OLD, OLD, BOTH)
    assert plan(pool).pipelines == silent.pipelines
    text = "\n".join(explain(plan(pool), pool))
    assert "hidden states travel as fp32: one, two do not speak bf16, which is wished" in text


POOL = """
[[model]]
name = "m"
layers = 6
layer = "1 MiB"

[[node]]
name = "one"
memory = "2 MiB"

[[node]]
name = "two"
memory = "2 MiB"

[[node]]
name = "three"
memory = "2 MiB"
"""
