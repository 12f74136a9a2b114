"""A session that says what moves nothing, over and over, is ended; an honest one never is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.coordinator.manners import (
    IDLE_STEPS_BURST,
    NOTICES_BURST,
    NOTICES_PER_S,
    Manners,
)
from parhelion.link import Bye, Heartbeat, Steps
from parhelion.words import Step

BEAT = Heartbeat(sent_at_ms=0, slots_busy=0, engine="ready")


async def heard(node: Any, message: Any, count: int) -> Bye | None:
    """Our goodbye after so many of them, if there was one."""
    for _ in range(count):
        node.carrier.hear(message)
    async with asyncio.timeout(5):
        while node.carrier.bye is None and not node.carrier._inbox.empty():  # noqa: ASYNC110
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    return node.carrier.bye


async def test_who_floods_heartbeats_is_sent_off(pool: Any) -> None:
    node = await pool.node()
    bye = await heard(node, BEAT, int(NOTICES_BURST) + 1)
    assert bye is not None and "misbehaved" in bye.message and "a second" in bye.message
    assert pool.coordinator.registry.member(node.peer) is None


async def test_heartbeats_as_often_as_an_honest_node_sends_them_are_heard_for_ever(
    pool: Any,
) -> None:
    node = await pool.node()
    for _ in range(3 * int(NOTICES_BURST)):
        pool.clock.s += 2 / NOTICES_PER_S
        assert await heard(node, BEAT, 2) is None


@pytest.mark.parametrize(
    "message",
    [
        Steps(steps=()),
        Steps(steps=(Step("job_unknown", 1, 0, (2,), None),)),
    ],
)
async def test_steps_that_move_nothing_have_an_end(pool: Any, message: Steps) -> None:
    node = await pool.node()
    assert await heard(node, message, int(IDLE_STEPS_BURST)) is None
    bye = await heard(node, message, 1)
    assert bye is not None and "move no job" in bye.message


async def test_a_running_job_that_is_told_of_without_progress_has_an_end(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    task = await pool.begin(secret)
    job = await node.job()
    still = Step(job.job, job.attempt, 0, (), None, 0)
    bye = await heard(node, Steps(steps=(still,) * 1000), int(IDLE_STEPS_BURST) // 1000 + 1)
    assert bye is not None and "move no job" in bye.message
    task.cancel()
    await asyncio.wait([task])


def test_each_job_owes_its_ends_and_more_of_them_are_notices() -> None:
    manners = Manners()
    for _ in range(1000):
        manners.opened()
        assert manners.answer(0.0) is None and manners.answer(0.0) is None
    faults = [manners.answer(0.0) for _ in range(int(NOTICES_BURST) + 1)]
    assert faults[-1] is not None and not any(faults[:-1])
