"""The jobs of a session: slots, order, cuts, failures and signatures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from parhelion.identity import NodeKey
from parhelion.link import Cut, JobFailed, Signed, Steps
from parhelion.node import jobs as desk
from parhelion.node.jobs import Jobs
from parhelion.node.outbox import Outbox
from parhelion.proof import chain, segment_holds
from parhelion.words import Job, Problem, ProblemCode, Segment

PROMPT = (1, 2, 3)
OPENING = b"o" * 32


class Said(list[Any]):
    """What the node said, sorted by kind."""

    def ids(self, job: Job) -> list[int]:
        steps = [step for message in self.of(Steps) for step in message.steps]
        return [
            n
            for step in steps
            if (step.job, step.attempt) == (job.job, job.attempt)
            for n in step.ids
        ]

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self if isinstance(message, kind)]

    def codes(self) -> list[str]:
        return [message.code for message in self.of(JobFailed)]

    def segments(self) -> list[Segment]:
        return [message.segment for message in self.of(Signed)]


@pytest.fixture
async def said() -> Said:
    return Said()


@pytest.fixture
async def at(engine: Any, said: Said, key: NodeKey, clock: Any) -> Jobs:
    return Jobs(key, {engine.card.digest: engine}, Outbox(said.append), clock)


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


async def test_a_job_runs_to_its_end_and_its_segment_follows_the_last_step(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job], clock: Any
) -> None:
    at.open(job())
    assert at.busy == 1
    engine.give(job(), 7, 8)
    await settle()
    clock.ms += 500
    engine.give(job(), 9, finish="eog")
    await settle()
    assert said.ids(job()) == [7, 8, 9] and at.busy == 0
    assert isinstance(said[-1], Signed) and said[-2].steps[-1].finish == "eog"
    (segment,) = said.segments()
    assert segment_holds(segment)
    assert segment.head == chain(OPENING, PROMPT, (7, 8, 9)).hex()
    assert segment.ended_at_ms - segment.started_at_ms == 500
    await asyncio.wait_for(at.finished(), 1)


async def test_a_cut_stops_the_engine_and_signs_at_n(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine.give(job(), 7, 8, 9, 10)
    await settle()
    at.cut(Cut(job="job_a", attempt=1, n=2))
    assert engine.cancelled == [("job_a", 1)] and at.busy == 0
    await settle()
    assert said.ids(job()) == [7, 8, 9, 10], "what comes after the cut is nobody's"
    (segment,) = said.segments()
    assert segment.to == 2 and segment.head == chain(OPENING, PROMPT, (7, 8)).hex()
    assert said.codes() == []


async def test_a_cut_at_the_start_of_an_attempt_signs_an_empty_stretch(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    resumed = job(attempt=3, output=(7, 8))
    at.open(resumed)
    await settle()
    at.cut(Cut(job="job_a", attempt=3, n=2))
    (segment,) = said.segments()
    assert (segment.start, segment.to, segment.attempt) == (2, 2, 3)


async def test_a_cut_that_comes_after_the_end_is_signed_again_at_n(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine.give(job(), 7, 8, 9, finish="length")
    await settle()
    at.cut(Cut(job="job_a", attempt=1, n=1))
    assert [segment.to for segment in said.segments()] == [3, 1]
    assert engine.cancelled == []


@pytest.mark.parametrize("n", [1, 5])
async def test_a_cut_outside_what_was_made_is_not_signed(
    n: int, at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job(output=(7, 8)))
    engine.give(job(output=(7, 8)), 9)
    await settle()
    at.cut(Cut(job="job_a", attempt=1, n=n))
    assert said.segments() == [] and said.codes() == ["invalid_request"]


async def test_a_cut_of_an_unknown_job_or_attempt_changes_nothing(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job(attempt=2))
    at.cut(Cut(job="job_a", attempt=1, n=0))
    at.cut(Cut(job="job_z", attempt=1, n=0))
    assert said == [] and at.busy == 1 and engine.cancelled == []


async def test_over_the_slots_a_job_is_refused_and_the_others_go_on(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    for name in ("a", "b", "c"):
        at.open(job(name))
    assert said.codes() == ["overloaded"] and said.of(JobFailed)[0].job == "c" and at.busy == 2
    await settle()
    engine.give(job("a"), 7, finish="eog")
    await settle()
    at.open(job("d"))
    engine.give(job("d"), 5, finish="eog")
    await settle()
    assert said.ids(job("d")) == [5]


async def test_a_slot_is_free_with_the_frame_that_says_so_and_no_seat_is_taken_twice(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    # The engine of a cut job runs on to its next step; the next job on its slot waits for that.
    engine.stubborn = True
    for name in ("a", "b"):
        at.open(job(name))
    await settle()
    at.cut(Cut(job="a", attempt=1, n=0))
    at.open(job("c"))
    await settle()
    assert said.codes() == [] and ("c", 1) not in engine.running
    engine.give(job("a"), 3, finish="cancelled")
    engine.give(job("c"), 4, finish="eog")
    await settle()
    assert said.ids(job("c")) == [4] and said.ids(job("a")) == []


async def test_an_engine_that_ignores_a_cancel_loses_the_job_after_a_while(
    at: Jobs, engine: Any, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "WIND_DOWN_S", 0.01)
    engine.stubborn = True
    at.open(job())
    await settle()
    at.cut(Cut(job="job_a", attempt=1, n=0))
    async with asyncio.timeout(5):
        while engine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Problem(ProblemCode.ENGINE_FAILED, "the host died"), "engine_failed"),
        (Problem(ProblemCode.CONTEXT_LENGTH_EXCEEDED, "too long"), "context_length_exceeded"),
        (RuntimeError("a bug"), "internal"),
        (None, "engine_failed"),
    ],
)
async def test_an_engine_that_fails_is_reported_and_what_was_delivered_is_signed(
    error: Exception | None, code: str, at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine.give(job(), 7, 8)
    engine.end(job(), error)
    await settle()
    assert said.codes() == [code] and said.ids(job()) == [7, 8]
    assert [segment.to for segment in said.segments()] == [2]
    assert "a bug" not in said.of(JobFailed)[0].message
    assert at.busy == 0


async def test_a_failure_before_the_first_id_has_nothing_to_sign(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine.end(job(), Problem(ProblemCode.CONTEXT_LENGTH_EXCEEDED, "too long"))
    await settle()
    assert [type(message) for message in said] == [JobFailed]


async def test_a_step_in_which_the_engine_gave_up_becomes_a_failure(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine.give(job(), 7, finish="engine_failed")
    await settle()
    assert said.ids(job()) == [7] and said.codes() == ["engine_failed"]
    assert all(step.finish is None for message in said.of(Steps) for step in message.steps)


async def test_an_engine_that_skips_an_id_is_not_believed(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine._made[("job_a", 1)] = 1
    engine.give(job(), 7)
    await settle()
    assert said.codes() == ["engine_failed"] and said.ids(job()) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"digest": "e" * 64}, "model_not_found"),
        ({"opening": b"short"}, "invalid_request"),
    ],
)
async def test_a_job_that_cannot_run_here_is_refused(
    change: dict[str, Any], code: str, at: Jobs, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job(**change))
    assert said.codes() == [code] and at.busy == 0


async def test_a_job_opened_twice_runs_once(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    at.open(job())
    engine.give(job(), 7, finish="eog")
    await settle()
    at.open(job())
    await settle()
    assert said.ids(job()) == [7] and len(said.segments()) == 1 and said.codes() == []


async def test_while_draining_new_jobs_are_refused_and_running_ones_finish(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job("a"))
    at.refuse_new("updating")
    at.open(job("b"))
    assert said.codes() == ["draining"]
    waiting = asyncio.create_task(at.finished())
    await settle()
    assert not waiting.done()
    engine.give(job("a"), 7, finish="eog")
    await asyncio.wait_for(waiting, 1)
    assert len(said.segments()) == 1


async def test_jobs_are_handed_back_with_their_signatures(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job("a"))
    at.open(job("b"))
    engine.give(job("a"), 7)
    await settle()
    at.hand_back("leaving")
    assert said.codes() == ["draining", "draining"]
    assert [(segment.job, segment.to) for segment in said.segments()] == [("a", 1)]
    assert sorted(engine.cancelled) == [("a", 1), ("b", 1)]


async def test_a_lost_link_cancels_everything_and_says_nothing(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job("a"))
    at.open(job("b"))
    await settle()
    await asyncio.wait_for(at.abandon(), 1)
    assert sorted(engine.cancelled) == [("a", 1), ("b", 1)]
    assert engine.running == set() and said.segments() == [] and said.codes() == []


async def test_a_long_chain_is_hashed_apart_and_drain_waits_for_it(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    prompt = tuple(range(desk.INLINE_IDS))
    at.open(job(prompt_ids=prompt))
    engine.give(job(), 7, finish="eog")
    await settle()
    await asyncio.wait_for(at.finished(), 5)
    assert said.segments()[0].head == chain(OPENING, prompt, (7,)).hex()


@pytest.mark.parametrize("id", [-1, 100, 2**40])
async def test_an_id_of_no_vocabulary_is_not_passed_on(
    id: int, at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job())
    engine.give(job(), 7)
    engine.give(job(), id, finish="eog")
    await settle()
    assert said.ids(job()) == [7] and said.codes() == ["engine_failed"]


async def test_an_ask_that_cannot_be_hashed_is_not_signed_and_nothing_hangs(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job(output=(2**40,)))
    engine.give(job(output=(2**40,)), 7, finish="eog")
    await settle()
    assert said.segments() == []
    await asyncio.wait_for(at.finished(), 1)


async def test_only_the_last_ended_jobs_are_kept(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    for n in range(desk.ENDED_KEPT + 10):
        at.open(job(str(n)))
        engine.give(job(str(n)), 7, finish="eog")
        await settle()
    assert len(at._ended) == desk.ENDED_KEPT


async def test_jobs_that_are_cut_before_they_had_a_seat_heap_up_nowhere(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    # An engine in a long step, and a coordinator whose clients come and go meanwhile.
    engine.stubborn = True
    for name in ("a", "b"):
        at.open(job(name))
    await settle()
    for name in ("a", "b", *(f"c{n}" for n in range(200))):
        at.open(job(name))
        at.cut(Cut(job=name, attempt=1, n=0))
    await settle()
    assert said.codes() == [] and at.busy == 0
    assert len(at._tasks) == 2, "those that wind down, and nobody who waits for their seats"
    assert len(said.segments()) == 202
    engine.give(job("a"), 3, finish="cancelled")
    at.open(job("d"))
    engine.give(job("d"), 4, finish="eog")
    await settle()
    assert said.ids(job("d")) == [4], "the seats are all still there"


async def test_who_waits_for_the_end_waits_for_a_long_signature_too(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job(prompt_ids=tuple(range(desk.INLINE_IDS))))
    waiting = asyncio.create_task(at.finished())
    await settle()
    engine.give(job(), 7, finish="eog")
    await asyncio.wait_for(waiting, 5)
    assert len(said.segments()) == 1


async def test_signatures_that_nobody_waits_for_any_more_are_not_hashed(
    at: Jobs, engine: Any, said: Said, job: Callable[..., Job]
) -> None:
    at.open(job(prompt_ids=tuple(range(desk.INLINE_IDS))))
    engine.give(job(), 7, finish="eog")
    await settle()
    for _ in range(500):
        at.cut(Cut(job="job_a", attempt=1, n=1))
    assert len(at._tasks) <= desk.SIGNED_AT_ONCE * engine.card.slots
    await asyncio.wait_for(at.finished(), 5)
    assert 1 <= len(said.segments()) <= desk.SIGNED_AT_ONCE * engine.card.slots + 1


async def test_a_signature_that_fails_for_any_reason_holds_no_drain_up(
    at: Jobs, engine: Any, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(at, "_signed", fail)
    for prompt in ((1, 2), tuple(range(desk.INLINE_IDS))):
        name = f"job_{len(prompt)}"
        at.open(job(name, prompt_ids=prompt))
        engine.give(job(name), 7, finish="eog")
        tasks = list(at._tasks)
        await asyncio.wait_for(at.finished(), 5)
        failed = [task.exception() for task in (*tasks, *at._tasks) if task.done()]
        del failed  # Looked at, so that none is reported as never retrieved.


async def test_an_ended_job_and_its_prompt_are_not_kept_for_long(
    at: Jobs, engine: Any, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "ENDED_KEPT_S", 0.2)
    at.open(job())
    engine.give(job(), 7, finish="eog")
    await settle()
    assert len(at._ended) == 1
    async with asyncio.timeout(5):
        while at._ended:  # noqa: ASYNC110 - it has no event for a test
            await asyncio.sleep(0.02)
