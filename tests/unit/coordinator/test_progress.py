"""A node that beats but does not work: its jobs move, it gets no new ones, and it may recover."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.coordinator.progress import (
    LONGEST_STILL_S,
    Progress,
    excused_s,
    prompt_id_limit_s,
    still_limit_s,
)
from parhelion.coordinator.room import TRIAL_PAUSE_LIMIT_S, TRIAL_PAUSE_S, Room
from parhelion.link import Cut, Open
from parhelion.words import Problem, ProblemCode


async def pass_time(pool: Any, seconds: int) -> None:
    """The clock goes on by so many seconds in which every node beats."""
    for _ in range(seconds):
        pool.clock.s += 1
        for node in pool.fakes:
            node.beat()
        await asyncio.sleep(0.001)
        pool.coordinator.registry.sweep(pool.clock.s)
    await asyncio.sleep(0.001)


def state(pool: Any, node: Any) -> tuple[str, str]:
    (view,) = [view for view in pool.coordinator.nodes() if view.peer == node.peer]
    return view.state, view.reason or ""


async def until_failed(pool: Any, node: Any) -> None:
    """Time goes on until the node is taken for stuck, which is a minute at most."""
    for _ in range(int(LONGEST_STILL_S) + 2):
        await pass_time(pool, 1)
        if state(pool, node)[0] == "failed":
            return
    raise AssertionError("nobody noticed")


async def test_a_job_that_a_beating_node_does_not_begin_is_served_by_another(pool: Any) -> None:
    dead = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await dead.job()
    alive = await pool.node()
    await pass_time(pool, 5)
    assert state(pool, dead)[0] == "ready" and not alive.said(Open)
    await pass_time(pool, 3)
    assert state(pool, dead)[0] == "failed"
    assert "no progress" in state(pool, dead)[1]
    assert dead.said(Cut)[0].job == job.job
    alive.finish(await alive.job(), [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"
    assert await pool.free_micro(account) == 1000 - 11
    await pool.assert_settled()


async def test_without_another_node_the_client_is_told_and_pays_nothing(pool: Any) -> None:
    dead = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    dead.prefill(await dead.job())
    await pass_time(pool, 8)
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert "no progress" in caught.value.message
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE
    # Who asks cannot start a node: the words are for them.
    assert "try again later" in caught.value.hint and "parhelion" not in caught.value.hint
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_a_stream_that_stands_still_in_the_middle_ends_with_its_cause(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.step(await node.job(), [pool.A])
    assert (await anext(answer)).text == "a"
    await pass_time(pool, 8)
    with pytest.raises(Problem) as caught:
        await anext(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert await pool.free_micro(account) == 1000 - 5
    receipt = await pool.receipts.get(answer.receipt, account)
    assert receipt.segments[0].signature is not None
    await pool.assert_settled()


async def test_steps_and_prefill_reports_are_progress(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, prompt=(pool.A,) * 40, max_tokens=3)
    job = await node.job()
    for prefilled in (5, 10, 40):
        await pass_time(pool, 5)
        node.prefill(job, prefilled)
    for _ in range(2):
        await pass_time(pool, 5)
        node.step(job, [pool.A])
    await pass_time(pool, 5)
    node.finish(job, [pool.A])
    assert (await pool.read(answer))[0] == "aaa"
    assert state(pool, node)[0] == "ready"


async def test_the_same_report_again_is_no_progress(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    for _ in range(9):
        node.prefill(job, 2)
        await pass_time(pool, 1)
    assert state(pool, node)[0] == "failed"
    await answer.disconnect()


async def test_a_drip_of_prefill_reports_does_not_hold_a_request(pool: Any) -> None:
    drip = await pool.node()
    _account, secret = await pool.user(10_000)
    answer = await pool.serve(secret, prompt=(pool.A,) * 900)
    job = await drip.job()
    alive = await pool.node()
    for prefilled in range(1, 9):
        drip.prefill(job, prefilled)
        await pass_time(pool, 2)
    assert state(pool, drip)[0] == "failed", "half an id a second is no prefill"
    assert drip.said(Cut)[0].job == job.job
    alive.finish(await alive.job(), [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"
    await pool.assert_settled()


async def test_nobody_prefills_more_than_the_job_came_with(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.prefill(job, 3)
    await asyncio.sleep(0.001)
    assert state(pool, node)[0] == "ready"
    alive = await pool.node()
    node.prefill(job, 4)
    alive.finish(await alive.job(), [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"
    assert "4 ids prefilled of 3" in node.carrier.bye.message
    await pool.assert_settled()


async def test_a_resumed_job_prefills_its_earlier_output_too(pool: Any) -> None:
    first = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    first.step(await first.job(), [pool.A, pool.A])
    await anext(answer)
    second = await pool.node()
    first.die()
    job = await second.job()
    second.prefill(job, 3 + 2)
    second.finish(job, [pool.B] * 2)
    assert (await pool.read(answer))[0] == "bb"
    await pool.assert_settled()


async def test_a_prompt_may_wait_for_the_prefill_of_an_older_one(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answers = [await pool.serve(secret, prompt=(pool.A,) * 40) for _ in range(2)]
    first, second = await node.job(), await node.job(1)
    for prefilled in range(1, 30):
        node.prefill(first, prefilled)
        await pass_time(pool, 1)
    assert state(pool, node)[0] == "ready"
    # The older one has begun to answer: from here on the younger one has to move.
    for _ in range(3):
        node.step(first, [pool.A])
        await pass_time(pool, 1)
    assert state(pool, node)[0] == "ready"
    await until_failed(pool, node)
    for _ in range(int(LONGEST_STILL_S)):
        # The node is one and so is its failure; each job is given up in its own time.
        await pass_time(pool, 1)
    node.sign(first, 3)
    node.sign(second, 0)
    for answer in answers:
        with pytest.raises(Problem):
            await pool.read(answer)
    await pool.assert_settled()


async def test_a_failed_node_is_back_after_a_success_or_when_its_engine_is(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    good, bad = [await pool.serve(secret, max_tokens=41) for _ in range(2)]
    moving = await node.job()
    await node.job(1)
    for _ in range(8):
        node.step(moving, [pool.A] * 5)
        await pass_time(pool, 1)
    assert state(pool, node)[0] == "failed"
    with pytest.raises(Problem):
        await pool.read(bad)
    node.finish(moving, [pool.A])
    await pool.read(good)
    await pass_time(pool, 1)
    assert state(pool, node)[0] == "ready"
    third = await pool.serve(secret)
    await node.job(2)
    await pass_time(pool, 8)
    with pytest.raises(Problem):
        await pool.read(third)
    assert state(pool, node)[0] == "failed"
    node.beat("hung", "no progress for 6.2 s")
    await asyncio.sleep(0.001)
    await pass_time(pool, 1)
    assert state(pool, node)[0] == "ready"


async def stuck(pool: Any, node: Any, secret: str, number: int) -> None:
    """One more job stands still at the node."""
    answer = await pool.serve(secret)
    await node.job(number)
    await until_failed(pool, node)
    with pytest.raises(Problem):
        await pool.read(answer)


async def test_after_a_pause_a_node_gets_one_job_on_trial_and_a_success_clears_it(
    pool: Any,
) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    await stuck(pool, node, secret, 0)
    await pass_time(pool, int(TRIAL_PAUSE_S) - 5)
    assert state(pool, node)[0] == "failed"
    await pass_time(pool, 5)
    assert state(pool, node) == ("ready", "on trial: no progress on a job for 6 s")
    asked = [asyncio.create_task(pool.serve(secret)) for _ in range(3)]
    trial = await node.job(1)
    await pass_time(pool, 2)
    assert len(node.said(Open)) == 2, "one job, whoever else waits"
    node.finish(trial, [pool.A] * 4)
    for number in (2, 3):
        # Both at once: the node has all its slots again.
        await node.job(number)
    for number in (2, 3):
        node.finish(await node.job(number), [pool.A] * 4)
    for answer in await asyncio.gather(*asked):
        assert (await pool.read(answer))[0] == "aaaa"
    await pass_time(pool, 1)
    assert state(pool, node) == ("ready", "")
    assert await pool.free_micro(account) == 1000 - 3 * 11
    await pool.assert_settled()


async def test_each_trial_that_fails_doubles_the_pause_and_a_success_forgets_that(
    pool: Any,
) -> None:
    node = await pool.node()
    _account, secret = await pool.user(10_000)
    found = pool.coordinator.registry.member(node.peer).node.rooms[pool.DIGEST]
    pauses = []
    for number in range(3):
        await stuck(pool, node, secret, number)
        pauses.append(found.trial_from_s - pool.clock.s)
        await pass_time(pool, int(pauses[-1]) + 1)
        assert state(pool, node)[0] == "ready"
    seconds = [round(pause_s / TRIAL_PAUSE_S, 1) for pause_s in pauses]
    assert seconds == pytest.approx([1, 2, 4], abs=0.1)
    answer = await pool.serve(secret)
    node.finish(await node.job(3), [pool.A] * 4)
    await pool.read(answer)
    await stuck(pool, node, secret, 4)
    assert found.trial_from_s - pool.clock.s <= TRIAL_PAUSE_S


def test_jobs_that_stand_still_together_are_one_failure() -> None:
    room = Room(context=1, slots=4, kv_tokens=1)
    for second in range(10):
        room.stall("no progress", 100.0 + second)
    assert (room.stalls, room.trial_from_s) == (1, 100.0 + TRIAL_PAUSE_S)
    room.stall("no progress", 100.0 + TRIAL_PAUSE_S)
    assert (room.stalls, room.trial_from_s) == (2, 100.0 + 3 * TRIAL_PAUSE_S)
    for _ in range(2000):
        room.stall("no progress", room.trial_from_s)
    began_s = room.trial_from_s
    room.stall("no progress", began_s)
    assert room.trial_from_s == began_s + TRIAL_PAUSE_LIMIT_S


async def test_time_in_which_we_did_not_look_is_not_the_nodes_silence(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    await pass_time(pool, 2)
    pool.clock.s += 60
    pool.coordinator.registry.forgive(60.0)
    pool.coordinator.registry.sweep(pool.clock.s)
    assert state(pool, node)[0] == "ready"
    node.finish(job, [pool.A] * 4)
    await pool.read(answer)


def test_an_id_of_the_answer_excuses_all_silence_and_one_of_the_prompt_a_second() -> None:
    assert excused_s((1, 5, 0), (1, 5, 0), 1.0) == 0.0
    assert excused_s((1, 5, 0), (1, 8, 0), 1.0) == 3.0
    assert excused_s((1, 5, 0), (1, 5, 1), 1.0) == excused_s((1, 5, 0), (2, 0, 0), 1.0) > 1e9


def test_an_id_of_the_prompt_may_take_five_usual_steps_but_not_for_ever() -> None:
    assert prompt_id_limit_s(None, 1) == prompt_id_limit_s(100.0, 8) == 1.0
    assert prompt_id_limit_s(1.0, 1) == 5.0
    assert prompt_id_limit_s(0.0001, 1) == LONGEST_STILL_S


def test_a_slow_engine_has_five_of_its_usual_steps_but_not_for_ever() -> None:
    assert still_limit_s(None, 1) == 6.0
    assert still_limit_s(100.0, 8) == 6.0
    assert still_limit_s(0.5, 1) == 10.0
    assert still_limit_s(0.5, 2) == 20.0
    assert still_limit_s(0.0001, 1) == LONGEST_STILL_S
    assert Progress().look({}, 6.0, 1.0, 1.0) == []
