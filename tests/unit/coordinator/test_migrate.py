"""A stream survives its node: nothing lost, nothing doubled, billed once, paid to who delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.coordinator.migrate import HAND_BACKS_LIMIT, MIGRATIONS_LIMIT, Course
from parhelion.identity import operator_account
from parhelion.link import JobFailed, Open, Steps
from parhelion.words import Problem, ProblemCode, Step

PROMPT_TOKENS = 3


def dies(pool: Any, node: Any, job: Any) -> None:
    node.die()


def engine_fails(pool: Any, node: Any, job: Any) -> None:
    node.fail(job)
    node.sign(job, len(node.made[job.job]))


def engine_crashes(pool: Any, node: Any, job: Any) -> None:
    node.fail(job, "engine_crashed")
    node.sign(job, len(node.made[job.job]))


def hands_back(pool: Any, node: Any, job: Any) -> None:
    node.drain()
    node.fail(job, "draining")
    node.sign(job, len(node.made[job.job]))


def misbehaves(pool: Any, node: Any, job: Any) -> None:
    node.carrier.hear(Steps(steps=(Step(job.job, job.attempt, 77, (2,)),)))


LOSSES = [dies, engine_fails, engine_crashes, hands_back, misbehaves]


async def other_than(pool: Any, node: Any) -> Any:
    (other,) = [fake for fake in pool.fakes if fake is not node]
    return other


async def first_job(pool: Any) -> tuple[Any, Any]:
    """The node that got the one job, and the job."""
    async with asyncio.timeout(5):
        while True:
            for node in pool.fakes:
                if opened := node.said(Open):
                    return node, opened[0].job
            await asyncio.sleep(0)


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_stream_goes_on_elsewhere_where_it_stood(
    pool: Any, quick_signatures: None, loss: Callable[[Any, Any, Any], None]
) -> None:
    await pool.node()
    await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=6)
    node, job = await first_job(pool)
    node.step(job, [pool.A, pool.B])
    assert (await anext(answer)).text == "ab"
    loss(pool, node, job)
    other = await other_than(pool, node)
    resumed = await other.job()
    assert resumed.output_ids == (pool.A, pool.B)
    assert (resumed.attempt, resumed.seed, resumed.prompt_ids) == (2, job.seed, job.prompt_ids)
    assert resumed.max_tokens == job.max_tokens
    other.finish(resumed, [pool.C, pool.C, pool.A, pool.A])
    text, last = await pool.read(answer)
    assert text == "ccaa"
    assert last.usage.migrations == 1
    assert last.usage.nodes == (node.peer, other.peer)
    assert last.usage.completion_tokens == 6
    # Once for the prompt and six ids: the second prefill is paid by nobody.
    cost_micro = PROMPT_TOKENS + 2 * 6
    assert await pool.free_micro(account) == 1000 - cost_micro
    await pool.assert_settled()


async def test_operators_are_paid_by_the_ids_that_they_delivered(
    pool: Any, quick_signatures: None
) -> None:
    await pool.node()
    await pool.node()
    account, secret = await pool.user(100_000)
    answer = await pool.serve(secret, max_tokens=40)
    node, job = await first_job(pool)
    node.step(job, [pool.A] * 10)
    await anext(answer)
    node.die()
    other = await other_than(pool, node)
    other.finish(await other.job(), [pool.B] * 30)
    _text, last = await pool.read(answer)
    await pool.assert_settled()
    cost_micro = PROMPT_TOKENS + 2 * 40
    assert int(last.usage.cost) == cost_micro
    for_operators = cost_micro * 85 // 100
    earned = {
        fake.peer: await pool.free_micro(operator_account(fake.peer)) for fake in (node, other)
    }
    assert earned == {node.peer: for_operators * 10 // 40, other.peer: for_operators * 30 // 40}
    receipt = await pool.receipts.get(answer.receipt, account)
    spans = [(one.node, one.start, one.to) for one in receipt.segments]
    assert spans == [(node.peer, 0, 10), (other.peer, 10, 40)]
    assert receipt.segments[0].signature is None and receipt.segments[1].signature


async def test_the_fourth_loss_ends_the_stream_and_only_what_was_delivered_is_charged(
    pool: Any, quick_signatures: None
) -> None:
    for _ in range(6):
        node = await pool.node()
        node.script = lambda node, job: (node.step(job, [pool.A]), node.die())
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=20)
    text = ""
    with pytest.raises(Problem) as caught:
        async for chunk in answer:
            text += chunk.text
    assert caught.value.code == ProblemCode.NODE_LOST
    assert text == "a" * (MIGRATIONS_LIMIT + 1)
    assert await pool.free_micro(account) == 1000 - PROMPT_TOKENS - 2 * len(text)
    assert sum(len(node.said(Open)) for node in pool.fakes) == MIGRATIONS_LIMIT + 1
    await pool.assert_settled()


async def test_a_stop_string_may_lie_across_a_migration(pool: Any, quick_signatures: None) -> None:
    await pool.node()
    await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=9, stop=("bc",))
    node, job = await first_job(pool)
    node.step(job, [pool.A, pool.B])
    assert (await anext(answer)).text == "a", "what may begin a stop string is held back"
    node.die()
    other = await other_than(pool, node)
    other.step(await other.job(), [pool.C, pool.A])
    text, last = await pool.read(answer)
    assert (text, last.finish_reason) == ("", "stop")
    assert last.usage.completion_tokens == 3
    await pool.assert_settled()


async def test_words_of_the_first_node_after_the_move_change_nothing(pool: Any) -> None:
    await pool.node()
    await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=6)
    node, job = await first_job(pool)
    node.step(job, [pool.A])
    node.fail(job)
    other = await other_than(pool, node)
    resumed = await other.job()
    # It wakes, and goes on as if nothing had been.
    node.step(job, [pool.B, pool.B])
    node.carrier.hear(JobFailed(job=job.job, attempt=1, code="engine_failed", message="again"))
    node.sign(job, 1)
    other.finish(resumed, [pool.C] * 5)
    assert (await pool.read(answer))[0] == "accccc"
    assert node.carrier.bye is None
    await pool.assert_settled()


async def test_what_a_first_attempt_still_signs_counts_also_beside_a_second_at_its_node(
    pool: Any,
) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=6)
    first = await node.job()
    node.step(first, [pool.A, pool.B])
    await anext(answer)
    node.fail(first, "engine_crashed")
    second = await node.job(1)
    assert (second.job, second.attempt) == (first.job, 2)
    # Both are of one job at one session; what the first has made is signed only now.
    node.sign(first, 2)
    node.step(first, [pool.C])
    node.made[first.job].pop()
    node.finish(second, [pool.A] * 4)
    text, last = await pool.read(answer)
    assert (text, last.usage.migrations) == ("aaaa", 1)
    receipt = await pool.receipts.get(answer.receipt, account)
    spans = [(one.attempt, one.start, one.to) for one in receipt.segments]
    assert spans == [(1, 0, 2), (2, 2, 6)]
    assert all(one.signature for one in receipt.segments), receipt.segments[0].reason
    await pool.assert_settled()


async def test_the_end_of_a_session_is_heard_by_each_attempt_of_a_job(pool: Any) -> None:
    node = await pool.node(slots=2)
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=6)
    node.signs = False
    first = await node.job()
    node.step(first, [pool.A])
    await anext(answer)
    session = pool.coordinator.registry.member(node.peer)
    session.move(pool.DIGEST)
    await node.job(1)
    (relay,) = pool.coordinator.service.live.values()
    assert [one.signature.done() for one in relay.attempts] == [False, False]
    node.die()
    await asyncio.wait_for(node.task, 5)
    assert all(one.signature.done() for one in relay.attempts)
    assert session.node.slots_busy == 0, "both slots are given back at once"
    with pytest.raises(Problem):
        await pool.read(answer)
    await pool.assert_settled()


async def test_a_stream_waits_a_while_for_a_node_to_come_back(closed_pool: Any) -> None:
    pool = closed_pool
    await pool.open(resume_wait_s=5.0)
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4)
    job = await node.job()
    node.step(job, [pool.A])
    await anext(answer)
    node.die()
    await asyncio.sleep(0.05)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE, "who has not begun is told at once"
    back = pool.fake(key=node.key)
    await pool.join(back)
    back.finish(await back.job(), [pool.B] * 3)
    assert (await pool.read(answer))[0] == "bbb"
    await pool.assert_settled()


async def test_a_client_that_leaves_while_its_stream_waits_owes_what_it_got(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open(resume_wait_s=5.0)
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4)
    node.step(await node.job(), [pool.A])
    await anext(answer)
    node.die()
    await asyncio.sleep(0.02)
    await answer.disconnect()
    await pool.assert_settled()
    assert await pool.free_micro(account) == 1000 - PROMPT_TOKENS - 2


async def test_a_begun_stream_goes_before_all_that_wait_for_a_first_place(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open(resume_wait_s=5.0)
    lost, small = await pool.node(slots=1), await pool.node(slots=1)
    _account, secret = await pool.user(10_000)
    answers = [await pool.serve(secret, max_tokens=4) for _ in range(2)]
    waiting = [asyncio.create_task(pool.serve(secret, max_tokens=4)) for _ in range(3)]
    job, other = await lost.job(), await small.job()
    await asyncio.sleep(0.01)
    lost.step(job, [pool.A])
    small.step(other, [pool.A])
    for answer in answers:
        await anext(answer)
    lost.die()
    await asyncio.sleep(0.01)
    small.finish(other, [pool.B] * 3)
    resumed = await small.job(1)
    assert resumed.job == job.job, "not one of the three that came before its loss"
    small.script = pool.answering(pool.C)
    small.finish(resumed, [pool.B] * 3)
    for answer in [*answers, *await asyncio.gather(*waiting)]:
        await pool.read(answer)
    await pool.assert_settled()


async def test_a_crash_after_a_migration_pays_both_operators_for_what_was_journalled(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open()
    await pool.node()
    await pool.node()
    account, secret = await pool.user(100_000)
    answer = await pool.serve(secret, max_tokens=40)
    node, job = await first_job(pool)
    node.step(job, [pool.A] * 10)
    await anext(answer)
    node.die()
    other = await other_than(pool, node)
    other.step(await other.job(), [pool.B] * 20)
    await anext(answer)
    reading = asyncio.create_task(anext(answer))
    await asyncio.sleep(0.01)
    # One journal line after the move must not make the second operator's what was the first's.
    await pool.coordinator.journal.write()
    reading.cancel()
    await pool.crash()
    await pool.open()
    cost_micro = PROMPT_TOKENS + 2 * 30
    assert await pool.free_micro(account) == 100_000 - cost_micro
    for_operators = cost_micro * 85 // 100
    earned = [await pool.free_micro(operator_account(one.peer)) for one in (node, other)]
    assert earned == [for_operators * 10 // 30, for_operators * 20 // 30]
    assert await pool.ledger.audit() == ()


async def test_a_hand_back_is_no_failure_of_the_node(pool: Any) -> None:
    await pool.node()
    await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4)
    node, job = await first_job(pool)
    node.step(job, [pool.A])
    hands_back(pool, node, job)
    other = await other_than(pool, node)
    other.finish(await other.job(), [pool.B] * 3)
    await pool.read(answer)
    failed = {view.peer: view.failed for view in pool.coordinator.nodes()}
    assert failed == {node.peer: 0, other.peer: 0}
    await pool.assert_settled()


CODES = st.sampled_from(
    [
        None,  # the node left before the job was sent
        ProblemCode.NODE_LOST,
        ProblemCode.ENGINE_FAILED,
        ProblemCode.ENGINE_CRASHED,
        ProblemCode.OVERLOADED,
        ProblemCode.INTERNAL,
    ]
)


@given(st.lists(st.tuples(CODES, st.sampled_from("abc")), max_size=30))
def test_no_course_goes_on_without_end(events: list[tuple[ProblemCode | None, str]]) -> None:
    course = Course()
    went_on = 0
    for code, node in events * 5:
        if code is None:
            before = course.alone, course.losses, course.fault
            if not course.missed(node):
                break
            went_on += 1
            assert (course.alone, course.losses, course.fault) == before, "nothing was lost"
            continue
        if not course.goes_on(Problem(code, "no"), node):
            break
        went_on += 1
        assert course.avoided == node
        assert code in {
            *(ProblemCode(c) for c in ("node_lost", "engine_failed")),
            ProblemCode.ENGINE_CRASHED,
            ProblemCode.OVERLOADED,
        }
        assert (node in course.shunned) >= (code is ProblemCode.ENGINE_FAILED)
    assert went_on <= MIGRATIONS_LIMIT + HAND_BACKS_LIMIT - 1


async def test_a_stream_near_its_end_goes_on_where_what_is_out_is_read_soonest(pool: Any) -> None:
    first = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=40)
    job = await first.job()
    first.step(job, [pool.A] * 36)
    await anext(answer)
    reader, writer = await pool.node(), await pool.node()
    for node, prefill_s, decode_s in ((reader, 0.1, 10.0), (writer, 10.0, 5.0)):
        speed = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST].speed
        speed.prefilled(100, prefill_s)
        speed.decoded(100, decode_s, 1)
        speed.decoded(100, decode_s, 8)
    # 40 ids from the start would be finished sooner at the writer; 4 more are not.
    first.die()
    resumed = await reader.job()
    assert len(resumed.output_ids) == 36 and not writer.jobs
    reader.finish(resumed, [pool.A] * 4)
    assert (await pool.read(answer))[1].usage.completion_tokens == 40
    await pool.assert_settled()
