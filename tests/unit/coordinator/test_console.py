"""The console over the real coordinator: what it shows of answers, and never of whose they are."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.coordinator import ConsoleView
from parhelion.coordinator import console as consoles
from parhelion.coordinator.biography import MARKS_KEPT, NODES_KEPT, States
from parhelion.coordinator.console import LOOK_S, STREAMS_LIMIT, short
from parhelion.coordinator.traffic import STEP_S
from parhelion.identity import Caller
from parhelion.testing.clock import ManualClock


def seen(pool: Any) -> ConsoleView:
    """A snapshot of this moment."""
    pool.clock.s += LOOK_S
    return msgspec.json.decode(pool.coordinator.console.snapshot(), type=ConsoleView)


async def test_a_running_answer_is_shown_without_a_word_of_it_or_whose_it_is(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=20)
    job = await node.job()
    (waiting,) = seen(pool).streaming
    assert (waiting.tokens, waiting.tokens_per_s) == (0, None), "no token came: that is no speed"
    node.step(job, [pool.A, pool.B, pool.C])
    assert (await anext(answer)).text == "abc"
    body = pool.coordinator.console
    shown = seen(pool)
    (stream,) = shown.streaming
    assert (stream.model, stream.tokens, shown.running) == ("tests/abc", 3, 1)
    assert stream.nodes == (pool.coordinator.name_of(node.peer),)
    assert stream.tokens_per_s == 2 / LOOK_S, "since the first token, on the clock of the pool"
    assert stream.request == short(answer.request)
    text = body.shown.decode()
    for secretive in (answer.request, account, secret, answer.request[-6:], 'abc"'):
        assert secretive not in text.replace("tests/abc", ""), secretive
    node.finish(job, [pool.EOG], "eog")
    await pool.read(answer)
    await pool.settled()
    assert (seen(pool).streaming, seen(pool).running) == ((), 0)


async def test_tokens_count_as_they_come_and_once(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    await asyncio.sleep(0)  # The console has begun to measure.
    answer = await pool.serve(secret, max_tokens=20)
    job = await node.job()
    pool.clock.s += 3.0
    node.step(job, [pool.A] * 7)
    await anext(answer)
    view = seen(pool)
    assert view.window_s == 4.0
    assert view.tokens_per_s == 7 / 4, "an answer that runs has made tokens"
    assert view.requests_per_s == 0.0, "and has not ended"
    assert view.ttft_p50_s == view.ttft_p95_s == 3.0
    node.finish(job, [pool.EOG], "eog")
    await pool.read(answer)
    await pool.settled()
    pool.clock.s += 3.0
    view = seen(pool)
    assert (view.window_s, view.tokens_per_s, view.requests_per_s) == (8.0, 7 / 8, 1 / 8)
    assert view.ttft_p50_s == 3.0, "the wait of an answer is not counted again at its end"


async def test_an_answer_that_was_just_counted_as_ended_does_not_run_any_more(pool: Any) -> None:
    service = pool.coordinator.service
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    (relay,) = service.answers()
    node.finish(await node.job(), [pool.EOG], "eog")
    await pool.read(answer)
    await pool.settled()
    life = asyncio.create_task(asyncio.sleep(0))
    await life
    service.live[life] = relay  # As it is between the task's end and its callback.
    assert service.answers() == []
    del service.live[life]


async def test_a_wait_of_long_ago_is_no_wait_of_now_though_its_answer_runs(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=20)
    job = await node.job()
    pool.clock.s += 1.0
    node.step(job, [pool.A])
    await anext(answer)
    assert seen(pool).ttft_p50_s == 1.0
    for _ in range(12):  # No loop turn in between: the node is not silent for so long.
        pool.clock.s += STEP_S
        pool.coordinator.console.step()
    view = seen(pool)
    assert (view.running, view.ttft_p50_s) == (1, None)
    node.beat()
    node.finish(job, [pool.EOG], "eog")
    await pool.read(answer)


async def test_what_nobody_measured_is_null(pool: Any) -> None:
    view = seen(pool)
    assert view.nodes_tokens_per_s is None and view.ttft_p50_s is None
    assert view.models[0].nodes == 0 and not view.models[0].available
    await pool.node()
    assert seen(pool).nodes_tokens_per_s is None, "a node that did nothing has no speed"
    assert seen(pool).models[0].available


async def test_nothing_is_made_while_nobody_looks_and_once_for_all_who_do(pool: Any) -> None:
    console = pool.coordinator.console
    assert (console.number, console._timer) == (0, None)
    first, second = console.follow(Caller("a")), console.follow(Caller("b"))
    assert (console.number, await anext(first)) == (1, console.shown)
    assert await anext(second) == console.shown
    for _ in range(5):
        console.snapshot()
    assert console.number == 1, "less than a second has passed"
    with first, second:
        pass
    console._look()
    assert console._timer is None, "the last of them left"


async def test_a_slow_reader_gets_the_newest_and_no_backlog(pool: Any) -> None:
    console = pool.coordinator.console
    with console.follow() as reader:
        await anext(reader)
        for _ in range(30):
            pool.clock.s += LOOK_S
            console.snapshot()
        newest = msgspec.json.decode(await anext(reader), type=ConsoleView)
        assert newest.at_ms == pool.clock.now_ms()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(reader)


async def test_readers_are_told_each_second_and_the_end(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "LOOK_S", 0.0)
    console = pool.coordinator.console
    with console.follow() as reader:
        async with asyncio.timeout(5):
            made = [await anext(reader) for _ in range(3)]
        console.close()
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
    assert len(made) == 3


async def test_at_most_so_many_streams_are_shown_one_by_one(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "STREAMS_LIMIT", 2)
    assert STREAMS_LIMIT == 64
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answers = [await pool.serve(secret) for _ in range(3)]
    view = seen(pool)
    assert (len(view.streaming), view.running) == (2, 3)
    assert [stream.request for stream in view.streaming] == [
        short(answer.request) for answer in answers[:2]
    ], "the oldest"
    for number, answer in enumerate(answers):
        node.finish(await node.job(number), [pool.EOG], "eog")
        await pool.read(answer)


async def test_a_node_has_a_history_over_its_sessions(pool: Any) -> None:
    node = await pool.node()
    pool.clock.s += 5.0
    node.die()
    await asyncio.wait_for(node.task, 5)
    history = pool.coordinator.states_of(node.peer)
    assert [mark.state for mark in history] == ["gone", "ready"], "the latest first"
    assert history[0].at_ms - history[1].at_ms == 5000 and history[0].reason
    gone = pool.coordinator.node(node.peer)
    assert gone is not None and gone.state == "gone"
    again = pool.fake(key=node.key)
    await pool.join(again)
    assert pool.coordinator.states_of(node.peer)[0].state == "ready"
    here = pool.coordinator.node(node.peer)
    assert here is not None and here == pool.coordinator.nodes()[0]
    assert pool.coordinator.node("12D3KooWNobody") is None


def test_histories_are_bounded_in_every_way() -> None:
    states = States(ManualClock())
    for count in range(3 * MARKS_KEPT):
        states.note("a", "ready" if count % 2 else "gone", None)
    assert len(states.of("a")) == MARKS_KEPT
    for count in range(NODES_KEPT):
        states.note(f"peer {count}", "ready", None)
    assert states.of("a") == () and states.of("peer 0")
