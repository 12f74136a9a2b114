"""The parent's side of a stage, over a child that says what a test has it say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from parhelion.config import EngineConfig
from parhelion.engines import EngineEvent
from parhelion.engines.hidden import Entry, FrameBroken, encode_hidden
from parhelion.engines.host_messages import Failed, Ping, Pong
from parhelion.engines.stage_messages import (
    Close,
    Feed,
    Heard,
    Open,
    Opened,
    Reported,
    StageReady,
    Stepped,
    Time,
    Timed,
    ToStage,
)
from parhelion.engines.stage_protocol import StageCard, StageStats, StageTold
from parhelion.engines.stage_supervised import AHEAD_LIMIT_BYTES, StageHost
from parhelion.hosts import ChildGone
from parhelion.words import Problem, ProblemCode, StageJob, StageSpec, Step

SPEC = StageSpec(
    digest="d" * 64, start=10, end=20, layers=30, stages=3, slots=2, context=99, kv_tokens=99
)
CARD = StageCard(
    spec=SPEC, n_embd=8, n_vocab=1, backend="none", device="none", kv_tokens=99, resident_bytes=1,
    rows=63,
)  # fmt: skip
JOB = StageJob(job="job_a", attempt=0, capacity=20)


class Puppet:
    """A child that hears everything and says what a test has it say."""

    pid = 7

    def __init__(self, host: StageHost) -> None:
        self.heard: list[ToStage] = []
        self.killed = False
        self._host = host
        host._child = self  # type: ignore[assignment]
        self.say(StageReady(card=CARD))

    def send(self, body: bytes) -> None:
        self.heard.append(msgspec.msgpack.decode(body, type=ToStage))

    def kill(self) -> None:
        self.killed = True

    async def stop(self) -> None:
        pass

    def say(self, message: Any) -> None:
        self._host._on_frame(msgspec.msgpack.encode(message))


class Node:
    """What a node would hear of its stage."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.steps: list[Step] = []
        self.failed: list[tuple[str, int, str, str]] = []
        self.events: list[EngineEvent] = []
        told = StageTold(
            on_frame=self.frames.append,
            on_steps=self.steps.extend,
            on_failed=lambda *failure: self.failed.append(failure),
            on_event=self.events.append,
        )
        self.stage = StageHost(Path("x"), SPEC, EngineConfig(), told)
        self.child = Puppet(self.stage)

    async def opened(self, job: StageJob = JOB, held: int = 0) -> int:
        opening = asyncio.create_task(self.stage.open(job))
        await asyncio.sleep(0)
        ask = self.child.heard[-1]
        assert isinstance(ask, Open) and ask.job == job
        self.child.say(Opened(ticket=ask.ticket, held=held))
        return await opening


@pytest.fixture
async def node() -> Node:
    return Node()


def frame(rows: int = 1, width: int = 8) -> bytes:
    entry = Entry("job_a", 0, 0, rows, False)
    return encode_hidden([entry], np.zeros((rows, width), np.float32), "fp32")


async def test_opening_answers_what_is_held(node: Node) -> None:
    assert await node.opened(held=32) == 32
    assert node.stage.describe() == CARD
    with pytest.raises(Problem) as caught:
        await node.stage.open(JOB)
    assert caught.value.code is ProblemCode.CONFLICT


async def test_a_refused_opening_is_a_problem_and_may_be_tried_again(node: Node) -> None:
    opening = asyncio.create_task(node.stage.open(JOB))
    await asyncio.sleep(0)
    ask = node.child.heard[-1]
    assert isinstance(ask, Open)
    node.child.say(Opened(ticket=ask.ticket, code="overloaded", message="all slots are taken"))
    with pytest.raises(Problem) as caught:
        await opening
    assert caught.value.code is ProblemCode.OVERLOADED
    assert not any(isinstance(one, Close) for one in node.child.heard)
    assert await node.opened() == 0


async def test_a_left_opening_is_closed_in_the_host(node: Node) -> None:
    opening = asyncio.create_task(node.stage.open(JOB))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    assert node.child.heard[-1] == Close(job="job_a", attempt=0)
    assert node.stage._opening == {} and node.stage._asked == {}


async def test_a_job_that_fails_right_behind_its_opening_is_not_open(node: Node) -> None:
    opening = asyncio.create_task(node.stage.open(JOB))
    await asyncio.sleep(0)
    ask = node.child.heard[-1]
    assert isinstance(ask, Open)
    node.child.say(Opened(ticket=ask.ticket))
    node.child.say(Failed(job="job_a", attempt=0, code="engine_failed", message="no number"))
    await opening
    assert node.failed == [("job_a", 0, "engine_failed", "no number")]
    node.stage._on_exit(ChildGone("stage", -9, ""))
    assert len(node.failed) == 1, "it is told of once"


async def test_a_stage_that_dies_fails_its_open_jobs_and_who_asks(node: Node) -> None:
    await node.opened()
    await node.opened(StageJob(job="job_b", attempt=3, capacity=9))
    node.stage.close("job_a", 0, (b"12345678",))
    timing = asyncio.create_task(node.stage.time(1, 1))
    await asyncio.sleep(0)
    node.stage._on_exit(ChildGone("stage", -9, "it aborted"))
    with pytest.raises(Problem) as caught:
        await timing
    assert caught.value.code is ProblemCode.ENGINE_CRASHED
    assert [failure[:3] for failure in node.failed] == [("job_b", 3, "engine_crashed")]
    # Until it is back, frames are nobody's.
    before = len(node.child.heard)
    node.stage.feed(frame())
    assert len(node.child.heard) == before


async def test_what_it_makes_goes_out_and_is_counted(node: Node) -> None:
    step = Step("job_a", 0, 3, (7,))
    for took_ms in (10.0, 10.0, 30.0):
        node.child.say(Stepped(frame=b"f", steps=(step,), rows=4, took_ms=took_ms))
    node.child.say(Reported(steps=(step,)))
    assert node.frames == [b"f"] * 3 and node.steps == [step] * 4
    assert node.stage.stats() == StageStats(steps=3, rows=12, busy_ms=50.0, usual_step_ms=12.0)


async def test_a_timing_is_answered_or_refused(node: Node) -> None:
    for code, ms in (("", 4.5), ("invalid_request", 0.0)):
        timing = asyncio.create_task(node.stage.time(4, 2))
        await asyncio.sleep(0)
        ask = node.child.heard[-1]
        assert isinstance(ask, Time) and (ask.rows, ask.repeats) == (4, 2)
        node.child.say(Timed(ticket=ask.ticket, ms=ms, code=code, message="no"))
        if code:
            with pytest.raises(Problem):
                await timing
        else:
            assert await timing == ms


async def test_a_peer_that_sends_what_nobody_asked_for_is_stopped(node: Node) -> None:
    body = frame(rows=4096)
    sent = 0
    with pytest.raises(FrameBroken, match="ahead"):
        while sent <= AHEAD_LIMIT_BYTES:
            node.stage.feed(body)
            sent += len(body)
    fed = sum(len(one.frame) for one in node.child.heard if isinstance(one, Feed))
    assert AHEAD_LIMIT_BYTES - len(body) < fed <= AHEAD_LIMIT_BYTES
    node.child.say(Heard(bytes=fed))
    node.stage.feed(body)


@pytest.mark.parametrize("body", [b"", b"x" * 64, frame(width=9), frame()[:-1]])
async def test_a_broken_frame_never_reaches_the_host(node: Node, body: bytes) -> None:
    with pytest.raises(FrameBroken):
        node.stage.feed(body)
    assert node.child.heard == []


async def test_a_stage_that_stands_still_with_open_jobs_is_ended_and_told_of(node: Node) -> None:
    await node.opened()
    now_s = 0.0
    for _ in range(120):
        now_s += 0.5
        before = len(node.child.heard)
        node.stage._look(now_s)
        if Ping() in node.child.heard[before:]:
            node.child.say(Pong())
    assert not node.child.killed and node.failed == []
    for _ in range(14):
        now_s += 0.5
        node.stage._look(now_s)
    assert node.child.killed
    assert [failure[2] for failure in node.failed] == ["engine_failed"]
    assert [event.kind for event in node.events] == ["hung"]
