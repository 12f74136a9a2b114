from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.testing.clock import ManualClock
from parhelion.testing.echo import EchoEngine, Trail
from parhelion.words import Job, Problem, ProblemCode, SamplerParams, Step

JOB = Job(
    job="j", attempt=0, digest="d", cache_scope="s", prompt_ids=(1, 2, 3), seed=9, max_tokens=40
)


async def output(engine: EchoEngine, job: Job) -> list[int]:
    return [id async for step in engine.generate(job) for id in step.ids]


async def test_the_same_job_gives_the_same_ids_and_another_seed_others() -> None:
    engine = EchoEngine()
    first = await output(engine, JOB)
    assert len(first) == 40
    assert first == await output(engine, JOB)
    assert first != await output(engine, msgspec.structs.replace(JOB, seed=10))


async def test_a_resumed_stream_is_the_undisturbed_one() -> None:
    whole = await output(EchoEngine(), JOB)
    rest = await output(EchoEngine(), msgspec.structs.replace(JOB, output_ids=tuple(whole[:17])))
    assert whole[:17] + rest == whole


@given(st.integers(0, 19), st.sampled_from(["lost", "doubled", "changed"]))
def test_one_id_lost_doubled_or_changed_alters_what_follows(at: int, fault: str) -> None:
    trail = Trail((1, 2), 5, 49152, frozenset())
    ids = []
    for _ in range(20):
        ids.append(trail.next())
        trail.add(ids[-1])
    wrong = [*ids]
    if fault == "lost":
        del wrong[at]
    elif fault == "doubled":
        wrong.insert(at, wrong[at])
    else:
        wrong[at] = (wrong[at] + 1) % 49152
    altered = Trail((1, 2), 5, 49152, frozenset())
    for id in wrong:
        altered.add(id)
    assert altered.next() != trail.next()


def test_an_id_cannot_move_between_prompt_and_output() -> None:
    one = Trail((1, 2), 5, 2**60, frozenset())
    one.add(3)
    assert one.next() != Trail((1, 2, 3), 5, 2**60, frozenset()).next()


async def test_silent_ids_are_never_output() -> None:
    engine = EchoEngine(n_vocab=8, silent=frozenset(range(7)))
    assert set(await output(engine, JOB)) == {7}


async def test_score_finds_nothing_on_an_honest_output_and_much_on_another() -> None:
    engine = EchoEngine()
    ids = await output(engine, JOB)
    assert await engine.score(JOB.prompt_ids, ids, SamplerParams(), 9) == ()
    ids[3] += 1
    found = await engine.score(JOB.prompt_ids, ids, SamplerParams(), 9)
    assert [one.position for one in found] == list(range(3, 40))


async def test_a_context_too_small_is_refused_before_the_first_step() -> None:
    with pytest.raises(Problem) as caught:
        await output(EchoEngine(context=42), JOB)
    assert caught.value.code is ProblemCode.CONTEXT_LENGTH_EXCEEDED


async def test_a_cancelled_stream_ends_with_that_word() -> None:
    engine = EchoEngine(tokens_per_s=50)
    steps: list[Step] = []
    async for step in engine.generate(JOB):
        steps.append(step)
        if len(steps) == 2:
            engine.cancel("j", 0)
    assert [step.finish for step in steps] == [None, None, "cancelled"]


async def test_streams_are_paced_in_the_clocks_time() -> None:
    clock = ManualClock()
    engine = EchoEngine(tokens_per_s=2, clock=clock, sleep=clock.sleep)
    made: list[int] = []

    async def read() -> None:
        async for step in engine.generate(msgspec.structs.replace(JOB, max_tokens=3)):
            made.extend(step.ids)

    reading = asyncio.create_task(read())
    for expected in (0, 1, 2, 3):
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(made) == expected
        clock.advance(0.5)
    await reading


async def test_jobs_beyond_the_slots_wait_for_one() -> None:
    engine = EchoEngine(slots=1, tokens_per_s=100)
    first = engine.generate(JOB)
    await anext(first)
    second = asyncio.create_task(
        output(engine, msgspec.structs.replace(JOB, job="k", max_tokens=1))
    )
    await asyncio.sleep(0.05)
    assert not second.done()
    await first.aclose()
    assert len(await second) == 1


def test_the_manual_clock_moves_both_times_and_never_back() -> None:
    clock = ManualClock(now_ms=1000)
    clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (2500, 1.5)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
