"""The keeper of an engine host gives up for no reason at all, and finds one that stands still."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion.config import EngineConfig
from parhelion.engines import EngineCard, EngineEvent, EngineHost
from parhelion.engines.host_messages import Cancel, Made, Ping, Pong, Ready, Run, ToHost
from parhelion.hosts import ChildGone
from parhelion.words import Job, Problem, ProblemCode, Step


class Stumbling(EngineHost):
    """A host whose starts fail as often as there are errors left; no process is started."""

    errors: list[Exception]

    async def _launch(self) -> None:
        self._gone.clear()
        if self.errors:
            raise self.errors.pop(0)
        self._ready.set()


async def test_a_host_that_cannot_be_started_for_any_reason_is_tried_again() -> None:
    events: list[EngineEvent] = []
    back = asyncio.Event()

    def hear(event: EngineEvent) -> None:
        events.append(event)
        if event.kind == "ready" and len(events) > 1:
            back.set()

    Stumbling.errors = []
    host = await Stumbling.start(Path("no-such-file"), "d" * 64, EngineConfig(), hear)
    host.errors = [
        OSError(24, "Too many open files"),
        Problem(ProblemCode.ENGINE_FAILED, "it did not start"),
        RuntimeError("a fault of ours"),
    ]
    host._gone.set()
    await asyncio.wait_for(back.wait(), 10)
    kinds = [event.kind for event in events]
    assert kinds == ["ready", "crashed", *["restarting"] * 4, "ready"]
    reasons = [event.reason for event in events if event.kind == "restarting"]
    assert "Too many open files" in reasons[1]
    assert "it did not start" in reasons[2]
    await host.stop()


@pytest.mark.parametrize("turns", range(5))
async def test_a_host_is_stopped_also_in_the_moment_of_its_end(turns: int) -> None:
    Stumbling.errors = []
    config = EngineConfig()
    host = await Stumbling.start(Path("no-such-file"), "d" * 64, config, lambda event: None)
    await asyncio.sleep(0.01)
    host._gone.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(host.stop())
    done, _pending = await asyncio.wait([stopping], timeout=3)
    stopping.cancel()
    assert done


CARD = EngineCard(
    digest="d" * 64, backend="none", device="none", slots=2, kv_tokens=99, context=99, n_vocab=9
)
JOB = Job(job="job_a", attempt=0, digest="d" * 64, cache_scope="", prompt_ids=(1, 2), max_tokens=8)


class Puppet:
    """A child that hears everything and says what a test has it say."""

    pid = 7

    def __init__(self, host: EngineHost) -> None:
        self.heard: list[ToHost] = []
        self.killed = self.ended = False
        self._host = host
        host._child = self  # type: ignore[assignment]
        self.say(Ready(card=CARD))

    def send(self, body: bytes) -> None:
        if self.ended:
            raise ChildGone("engine", -9, "")
        self.heard.append(msgspec.msgpack.decode(body, type=ToHost))

    def kill(self) -> None:
        self.killed = True

    async def stop(self) -> None:
        self.ended = True

    def say(self, message: Any) -> None:
        self._host._on_frame(msgspec.msgpack.encode(message))


class Watched:
    """A host that is looked at every half second of a test's own time."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.host = EngineHost(Path("x"), CARD.digest, EngineConfig(), self.events.append)
        self.child = Puppet(self.host)
        self._now_s = 0.0

    def passes(self, seconds: float, *, answers: bool) -> None:
        for _ in range(int(seconds * 2)):
            self._now_s += 0.5
            before = len(self.child.heard)
            self.host._look(self._now_s)
            if answers and Ping() in self.child.heard[before:]:
                self.child.say(Pong())


@pytest.fixture
async def watched() -> Watched:
    return Watched()


async def test_an_idle_host_is_asked_and_lives_on(watched: Watched) -> None:
    watched.passes(600, answers=True)
    assert len(watched.child.heard) in (299, 300) and not watched.child.killed
    assert watched.events == []


async def test_an_idle_host_that_stands_still_is_ended_and_told_of(watched: Watched) -> None:
    watched.passes(60, answers=True)
    watched.passes(6.5, answers=False)
    assert watched.child.killed
    (event,) = watched.events
    assert (event.kind, event.reason) == ("hung", "idle, and no sign of life for 6.0 s")
    watched.passes(60, answers=False)
    assert len(watched.events) == 1, "once is enough"


async def test_who_comes_to_a_host_that_stood_still_waits_for_the_next_one(
    watched: Watched,
) -> None:
    watched.passes(7, answers=False)
    first = watched.child
    waiting = asyncio.create_task(anext(watched.host.generate(JOB)))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    assert not waiting.done() and Run(job=JOB) not in first.heard
    second = Puppet(watched.host)
    await asyncio.sleep(0.01)
    second.say(Made(steps=(Step("job_a", 0, 0, (5,), finish="length"),)))
    assert (await waiting).ids == (5,)


async def test_a_job_behind_an_unanswered_ping_fails_with_the_silence_before_it(
    watched: Watched,
) -> None:
    watched.passes(3, answers=False)
    waiting = asyncio.create_task(anext(watched.host.generate(JOB)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    watched.passes(3.5, answers=False)
    with pytest.raises(Problem) as caught:
        await asyncio.wait_for(waiting, 1)
    # Nothing says that this job brought it about: it is no crash.
    assert caught.value.code is ProblemCode.ENGINE_FAILED


async def test_a_long_first_step_is_no_death_however_long_it_was_idle_before(
    watched: Watched,
) -> None:
    watched.passes(61.5, answers=True)  # Its last answer is a while ago, the next ping is due.
    waiting = asyncio.create_task(anext(watched.host.generate(JOB)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    watched.passes(6, answers=True)
    assert not watched.child.killed and watched.events == []
    watched.child.say(Made(steps=(Step("job_a", 0, 0, (5,), finish="length"),)))
    await waiting


async def test_a_host_that_winds_a_long_step_down_is_given_five_of_them(
    watched: Watched,
) -> None:
    watched.passes(1, answers=True)
    for step in range(60):
        watched.host._liveness.heard(4.0 * step)
    # Its reader has left; it is still in a step, and cannot answer before the end of that.
    watched.passes(18, answers=False)
    assert not watched.child.killed
    watched.passes(3, answers=False)
    assert watched.child.killed


async def test_a_job_for_a_host_that_has_just_died_fails_at_once(watched: Watched) -> None:
    watched.child.ended = True
    with pytest.raises(Problem) as caught:
        await asyncio.wait_for(anext(watched.host.generate(JOB)), 1)  # type: ignore[arg-type]
    assert caught.value.code is ProblemCode.ENGINE_FAILED and watched.host._inboxes == {}


async def test_who_is_cancelled_as_the_host_comes_back_starts_nothing(watched: Watched) -> None:
    watched.passes(7, answers=False)
    waiting = asyncio.create_task(anext(watched.host.generate(JOB)))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    second = Puppet(watched.host)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 1)
    assert second.heard == [] or Cancel(job="job_a", attempt=0) in second.heard


async def test_a_host_whose_keeper_failed_is_ended_all_the_same(watched: Watched) -> None:
    async def fail() -> None:
        raise RuntimeError("a listener of its events had a fault")

    watched.host._keeper = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await watched.host.stop()
    assert watched.child.ended
    assert watched.host._keeper.exception() is not None
