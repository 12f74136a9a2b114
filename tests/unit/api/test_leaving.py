"""A client that leaves ends every wait, and the coordinator is told exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from parhelion.api import stream as streaming
from parhelion.words import Problem, ProblemCode

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]


def begin(pool: Any, *, stream: bool) -> Any:
    return pool.start("POST", CHAT, {"messages": HELLO, "stream": stream})


async def settled(exchange: Any) -> None:
    # Waited for, not cancelled: a cancellation of the test's would look like the one it waits for.
    done, _waiting = await asyncio.wait([exchange.task], timeout=2)
    assert done, "the exchange did not end by itself"
    exchange.task.result()


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_during_the_answer_disconnects_it_once(pool: Any, stream: bool) -> None:
    pool.coordinator.script.steps = ("Hel", asyncio.Event())
    exchange = begin(pool, stream=stream)
    await pool.until(lambda: pool.coordinator.answers)
    await asyncio.sleep(0.01)
    exchange.drop()
    await settled(exchange)
    (answer,) = pool.coordinator.answers
    assert answer.disconnects == 1
    assert not exchange.response.complete


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_in_the_queue_cancels_the_wait_for_a_place(pool: Any, stream: bool) -> None:
    pool.coordinator.script.before = (asyncio.Event(),)
    exchange = begin(pool, stream=stream)
    await pool.until(lambda: pool.coordinator.asks)
    exchange.drop()
    await settled(exchange)
    assert pool.coordinator.cancelled == 1
    assert pool.coordinator.answers == []
    assert exchange.response.status == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_complete_answer_is_not_disconnected(pool: Any, stream: bool) -> None:
    exchange = begin(pool, stream=stream)
    await settled(exchange)
    exchange.drop()
    await asyncio.sleep(0.01)
    assert pool.coordinator.answers[0].disconnects == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_server_disconnects_its_answers_once(pool: Any, stream: bool) -> None:
    pool.coordinator.script.steps = ("Hel", asyncio.Event())
    exchange = begin(pool, stream=stream)
    await pool.until(lambda: pool.coordinator.answers)
    await asyncio.sleep(0.01)
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert pool.coordinator.answers[0].disconnects == 1


async def test_leaving_while_the_body_is_still_coming_asks_nothing(pool: Any) -> None:
    exchange = pool.start("POST", CHAT, raw=[b'{"mess', b""])
    exchange._parts.pop()  # the second part never comes
    exchange._parts[0] = exchange._parts[0]
    exchange._parts.append(b"ages")
    exchange.drop()
    await settled(exchange)
    assert pool.coordinator.asks == []


async def test_a_quiet_stream_gets_headers_and_comments_and_then_the_answer(pool: Any) -> None:
    go = asyncio.Event()
    pool.coordinator.script.steps = (go, "Hello")
    exchange = begin(pool, stream=True)
    await exchange.until_bodies(3)
    assert exchange.response.status == 200
    assert set(exchange.response.bodies) == {b": keep-alive\n\n"}
    go.set()
    await settled(exchange)
    assert exchange.response.events[1]["choices"][0]["delta"] == {"content": "Hello"}
    assert exchange.response.events[-1] == "[DONE]"


async def test_headers_wait_for_the_first_chunk(pool: Any) -> None:
    go = asyncio.Event()
    pool.coordinator.script.steps = (go, "Hello")
    exchange = begin(pool, stream=True)
    await asyncio.sleep(0.03)
    assert exchange.response.status == 0
    go.set()
    await settled(exchange)
    assert b"keep-alive" not in exchange.response.body


@pytest.mark.parametrize("before", [True, False])
async def test_a_problem_before_the_first_byte_is_an_http_error(pool: Any, before: bool) -> None:
    problem = Problem(ProblemCode.NO_NODE, "no node", hint="wait", retry_after_s=7)
    if before:
        pool.coordinator.script.before = (problem,)
    else:
        pool.coordinator.script.steps = (problem,)
    response = await pool.chat(stream=True)
    assert response.status == 503
    assert response.headers["retry-after"] == "7"
    assert response.headers["content-type"] == "application/json"
    assert response.error["hint"] == "wait"


async def test_a_problem_after_headers_is_the_last_event_and_no_done_follows(pool: Any) -> None:
    problem = Problem(ProblemCode.NODE_LOST, "the node is gone", hint="try again")
    pool.coordinator.script.steps = ("Hel", problem)
    exchange = begin(pool, stream=True)
    await settled(exchange)
    assert exchange.response.status == 200
    assert exchange.response.complete
    last = exchange.response.events[-1]
    assert last["error"]["code"] == "node_lost"
    assert last["error"]["message"] == "the node is gone"
    assert pool.coordinator.answers[0].disconnects == 0


async def test_a_problem_after_the_header_wait_is_an_event_too(pool: Any) -> None:
    pool.coordinator.script.before = (0.25, Problem(ProblemCode.DEADLINE_EXCEEDED, "too long"))
    response = await pool.chat(stream=True)
    assert response.status == 200
    assert response.events[-1]["error"]["code"] == "deadline_exceeded"


async def test_an_unexpected_error_says_nothing_of_the_inside_and_disconnects(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (True, False):
        pool.coordinator.script.steps = ("Hel", _Broken())
        response = await pool.chat(stream=stream)
        error = response.events[-1]["error"] if stream else response.error
        assert error["code"] == "internal"
        assert "secret" not in response.body.decode()
        assert "Traceback" not in response.body.decode()
        assert pool.coordinator.answers[-1].disconnects == 1


class _Broken(asyncio.Event):
    async def wait(self) -> Any:
        raise KeyError("secret path /srv/x")


async def test_a_reader_that_takes_nothing_for_a_minute_is_a_disconnect(pool: Any) -> None:
    go = asyncio.Event()
    pool.coordinator.script.steps = ("Hel", go, "lo", "never sent")
    exchange = begin(pool, stream=True)
    await exchange.until_bodies(1)
    exchange.reading.clear()
    go.set()
    await asyncio.sleep(0.1)
    assert not exchange.task.done()
    pool.clock.ahead_s += streaming.SLOW_READER_S
    await settled(exchange)
    assert pool.coordinator.answers[0].disconnects == 1
    assert len(exchange.response.bodies) == 1


def test_the_limits_of_waiting_are_those_of_the_design(tmp_path: Path) -> None:
    assert streaming.SLOW_READER_S == 60
