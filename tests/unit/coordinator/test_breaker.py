"""The breaker: what opens it, what closes it, and whose faults count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.coordinator.breaker import (
    COOL_LIMIT_S,
    COOL_S,
    WINDOW_JOBS,
    Breaker,
    Event,
    Phase,
    Record,
    next_state,
)
from parhelion.words import Problem

CLOSED, OPEN, HALF = Phase.CLOSED, Phase.OPEN, Phase.HALF_OPEN
S, F, X, L = Event.SUCCEEDED, Event.FAILED, Event.EXCUSED, Event.LOOKED


@pytest.mark.parametrize(
    ("before", "event", "now_s", "after"),
    [
        (Breaker(), S, 0, Breaker()),
        (Breaker(faults=1), S, 0, Breaker(faults=0.5)),
        (Breaker(), F, 0, Breaker(faults=1)),
        (Breaker(), X, 0, Breaker()),
        (Breaker(faults=2.5), X, 0, Breaker(faults=1.5)),
        (Breaker(OPEN, until_s=9), X, 0, Breaker(OPEN, until_s=9)),
        (Breaker(faults=1.5), F, 0, Breaker(faults=2.5)),
        (Breaker(faults=2), F, 9, Breaker(OPEN, until_s=9 + COOL_S, cool_s=COOL_S)),
        (Breaker(), L, 0, Breaker()),
        (Breaker(OPEN, until_s=9), L, 8.9, Breaker(OPEN, until_s=9)),
        (Breaker(OPEN, until_s=9), L, 9, Breaker(HALF)),
        (Breaker(OPEN, until_s=9), S, 10, Breaker(OPEN, until_s=9)),
        (Breaker(OPEN, until_s=9), F, 10, Breaker(OPEN, until_s=9)),
        (Breaker(HALF, cool_s=20), S, 0, Breaker()),
        (Breaker(HALF, cool_s=20), F, 5, Breaker(OPEN, until_s=45, cool_s=40)),
        (Breaker(HALF, cool_s=20), X, 5, Breaker(HALF, cool_s=20)),
        (
            Breaker(HALF, cool_s=COOL_LIMIT_S),
            F,
            0,
            Breaker(OPEN, until_s=COOL_LIMIT_S, cool_s=COOL_LIMIT_S),
        ),
        (Breaker(HALF), L, 99, Breaker(HALF)),
    ],
)
def test_each_event_leads_to_one_state(
    before: Breaker, event: Event, now_s: float, after: Breaker
) -> None:
    assert next_state(before, event, now_s) == after


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 50)), max_size=60))
@settings(deadline=None)
def test_an_open_breaker_opens_only_by_the_clock_and_a_closed_one_only_by_faults(
    events: list[tuple[Event, float]],
) -> None:
    state, now_s = Breaker(), 0.0
    for event, passed_s in events:
        now_s += passed_s
        before, state = state, next_state(state, event, now_s)
        if before.phase is not state.phase:
            assert (before.phase, event, state.phase) in {
                (CLOSED, F, OPEN), (OPEN, L, HALF), (HALF, S, CLOSED), (HALF, F, OPEN),
            }  # fmt: skip
        if state.phase is OPEN:
            assert COOL_S <= state.cool_s <= COOL_LIMIT_S and state.until_s <= now_s + COOL_LIMIT_S


def test_who_fails_every_third_job_stays_and_who_fails_every_second_one_goes() -> None:
    def after(pattern: str) -> Phase:
        record = Record()
        for at_s, letter in enumerate(pattern * 20):
            if letter == "f":
                record.failed(at_s, at_s)
            else:
                record.succeeded(at_s)
        return record.phase

    assert after("fss") is CLOSED
    assert after("fs") is OPEN


def test_one_fault_that_takes_many_jobs_along_counts_once() -> None:
    record = Record()
    for _ in range(16):
        record.failed(1.0, 5.0)
    assert record.phase is CLOSED and record.sample == 16 and record.success_rate == 0.0
    record.failed(6.0, 7.0)
    record.failed(8.0, 9.0)
    assert record.phase is OPEN


def test_the_success_rate_is_of_the_last_jobs_and_says_of_how_many() -> None:
    record = Record()
    assert record.success_rate is None and record.sample == 0
    record.failed(0.0, 0.0)
    for at_s in range(3):
        record.succeeded(at_s)
    assert (record.success_rate, record.sample) == (0.75, 4)
    for at_s in range(WINDOW_JOBS):
        record.succeeded(at_s)
    assert (record.success_rate, record.sample) == (1.0, WINDOW_JOBS)


def test_a_crash_is_a_failed_job_until_a_prompt_is_proven_to_have_done_it() -> None:
    record = Record()
    record.succeeded(0.0)
    crashes = [record.crashed(at_s, at_s) for at_s in (1.0, 2.0)]
    assert record.success_rate == pytest.approx(1 / 3)
    assert [record.excuse(crash, 3.0) for crash in crashes] == [1, 1]
    assert (record.success_rate, record.sample, record.caution) == (1.0, 1, 1.0)
    assert record.excuse(crashes[0], 3.0) == 0, "once"
    assert record.breaker == Breaker()
    for at_s in (4.0, 5.0, 6.0):
        record.crashed(at_s, at_s)
    assert record.phase is OPEN, "an engine that crashes at everything is not fed for ever"


def test_an_excused_crash_takes_along_all_the_jobs_that_it_took_along() -> None:
    record = Record()
    (crash, *rest) = [record.crashed(1.0, 5.0) for _ in range(9)]
    assert all(one is crash for one in rest) and record.breaker == Breaker(faults=1)
    other = record.crashed(6.0, 7.0)
    assert record.excuse(crash, 8.0) == 9
    assert (record.sample, record.success_rate, record.breaker) == (1, 0.0, Breaker(faults=1))
    for at_s in range(10, 10 + WINDOW_JOBS):
        record.succeeded(at_s)
    assert record.excuse(other, 99.0) == 1 and record.sample == WINDOW_JOBS


async def phase_after(pool: Any, node: Any, script: Any) -> tuple[Phase, int]:
    """What the node's record says after five jobs that the script ends."""
    node.script = script
    _account, secret = await pool.user(100_000)
    for _ in range(5):
        pool.clock.s += 1.0
        try:
            answer = await pool.serve(secret)
            await pool.read(answer)
        except Problem:
            pass
        await pool.settled()
    record = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST].record
    return record.phase, record.sample


async def test_a_node_that_fails_its_jobs_gets_none_until_it_has_cooled_down(pool: Any) -> None:
    node = await pool.node()
    assert await phase_after(pool, node, lambda node, job: node.fail(job)) == (OPEN, 3)
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.retry_after_s
    node.script = pool.answering(pool.A)
    pool.clock.s += COOL_S
    node.beat()
    await asyncio.sleep(0.01)
    pool.coordinator.registry.sweep(pool.clock.s)
    assert (await pool.read(await pool.serve(secret)))[0] == "aaaa"
    (view,) = pool.coordinator.nodes()
    assert (view.success_rate, view.samples) == (0.25, 4)
    await pool.assert_settled()


@pytest.mark.parametrize("code", ["overloaded", "draining"])
async def test_a_job_that_is_handed_back_is_nobodys_fault(pool: Any, code: str) -> None:
    node = await pool.node()
    _account, secret = await pool.user(100_000)
    node.script = lambda node, job: node.fail(job, code)
    serving = asyncio.create_task(pool.serve(secret, deadline_s=60.0))
    for _ in range(6):
        await asyncio.sleep(0.01)
        pool.clock.s += 1.5
        node.beat()
        pool.coordinator.registry.sweep(pool.clock.s)
    record = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST].record
    assert record.phase is CLOSED and record.sample == 0
    node.script = pool.answering(pool.A)
    pool.clock.s += 1.5
    node.beat()
    await asyncio.sleep(0.01)
    pool.coordinator.registry.sweep(pool.clock.s)
    assert (await pool.read(await serving))[0] == "aaaa"
    await pool.assert_settled()


async def test_a_client_that_leaves_is_nobodys_fault(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(100_000)
    for number in range(4):
        answer = await pool.serve(secret)
        node.step(await node.job(number), [pool.A])
        await answer.disconnect()
        pool.clock.s += 1.0
    record = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST].record
    assert record.phase is CLOSED and record.sample == 0
    await pool.assert_settled()


async def test_a_node_that_dies_with_its_jobs_is_remembered_when_it_comes_back(pool: Any) -> None:
    key, secret = None, (await pool.user(100_000))[1]
    for number in range(3):
        node = pool.fake(key=key)
        key = node.key
        await pool.join(node)
        answer = await pool.serve(secret)
        node.step(await node.job(), [pool.A])
        await asyncio.sleep(0.01)
        node.die()
        pool.clock.s += 1.0
        with pytest.raises(Problem):
            await pool.read(answer)
        assert pool.coordinator.registry.member(node.peer) is None, number
    back = pool.fake(key=key)
    await pool.join(back)
    record = pool.coordinator.registry.member(back.peer).node.rooms[pool.DIGEST].record
    assert (record.phase, record.sample) == (OPEN, 3)
    await pool.assert_settled()
