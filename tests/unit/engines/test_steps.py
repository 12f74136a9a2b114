from __future__ import annotations

import asyncio

import pytest

from parhelion.engines.steps import Inbox, Liveness
from parhelion.words import Problem, ProblemCode, Step


def step(start: int, ids: tuple[int, ...] = (), finish: str | None = None) -> Step:
    return Step(job="j", attempt=0, start=start, ids=ids, finish=finish)


async def test_an_unread_progress_report_is_replaced_by_the_newer_one() -> None:
    inbox = Inbox(2)
    for _ in range(1000):
        inbox.put(step(0))
    inbox.put(step(0, (4,)))
    assert (await inbox.next()).ids == (4,)


async def test_steps_that_came_before_the_fault_are_still_read() -> None:
    inbox = Inbox(2)
    inbox.put(step(0, (4,)))
    inbox.fail(Problem(ProblemCode.ENGINE_FAILED, "gone"))
    assert (await inbox.next()).ids == (4,)
    with pytest.raises(Problem):
        await inbox.next()


async def test_a_host_that_makes_more_than_was_asked_is_a_fault() -> None:
    inbox = Inbox(1)
    with pytest.raises(Problem) as raised:
        for i in range(5):
            inbox.put(step(i, (4,)))
    assert raised.value.code is ProblemCode.ENGINE_FAILED


async def test_a_reader_that_waits_is_woken() -> None:
    inbox = Inbox(1)
    waiting = asyncio.create_task(inbox.next())
    await asyncio.sleep(0)
    inbox.put(step(0, (4,), "length"))
    assert (await waiting).finish == "length"


def looks(liveness: Liveness, begin_s: float, end_s: float, busy: bool) -> float:
    silent_s, now_s = 0.0, begin_s
    while now_s <= end_s:
        silent_s = liveness.look(now_s, busy)
        now_s += 0.5
    return silent_s


def test_six_busy_seconds_without_a_frame_are_a_hang() -> None:
    liveness = Liveness()
    liveness.look(0.0, False)
    assert looks(liveness, 0.5, 7.0, True) > liveness.limit_s()


def test_an_idle_host_may_be_silent_for_ever() -> None:
    liveness = Liveness()
    liveness.heard(0.0)
    assert looks(liveness, 0.0, 500.0, False) == 0.0
    assert looks(liveness, 500.5, 501.0, True) <= 1.5


def test_a_slow_engine_is_given_five_of_its_usual_steps() -> None:
    liveness = Liveness()
    for i in range(60):
        liveness.heard(4.0 * i)
    assert 19.0 < liveness.limit_s() <= 20.0


def test_a_parent_that_slept_does_not_blame_the_host() -> None:
    liveness = Liveness()
    liveness.look(0.0, True)
    assert liveness.look(60.0, True) < liveness.limit_s()
