from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from parhelion.config import EngineConfig
from parhelion.engines import EngineEvent, EngineHost
from parhelion.words import Job, Problem, ProblemCode, SamplerParams

NewJob = Callable[..., Job]
Mortal = tuple[EngineHost, list[EngineEvent]]

ENDLESS = SamplerParams(temperature=0.8, logit_bias=((0, -100.0), (2, -100.0)))
PROMPT = tuple(range(1000, 1020))


def nothing() -> None:
    """Let it run."""


async def ids_until(engine: EngineHost, job: Job, act: Callable[[], None], at: int) -> list[int]:
    ids: list[int] = []
    async for step in engine.generate(job):
        ids += step.ids
        if step.ids and len(ids) == at:
            act()
    return ids


async def test_a_killed_host_fails_its_job_at_once_and_serves_again(
    mortal: Mortal, new_job: NewJob
) -> None:
    engine, events = mortal
    killed_s = 0.0

    def kill() -> None:
        nonlocal killed_s
        killed_s = time.monotonic()
        os.kill(engine.pid, signal.SIGKILL)

    with pytest.raises(Problem) as caught:
        await ids_until(engine, new_job(PROMPT, 2000, params=ENDLESS), kill, at=5)
    assert caught.value.code is ProblemCode.ENGINE_CRASHED
    assert time.monotonic() - killed_s < 2.5
    again = await ids_until(engine, new_job(PROMPT, 5, params=ENDLESS), lambda: None, at=1)
    assert len(again) == 5
    assert [event.kind for event in events] == ["ready", "crashed", "restarting", "ready"]


@pytest.mark.slow
async def test_a_hung_host_is_found_killed_and_replaced(mortal: Mortal, new_job: NewJob) -> None:
    engine, events = mortal
    first = engine.pid
    with pytest.raises(Problem) as caught:
        await ids_until(
            engine,
            new_job(PROMPT, 2000, params=ENDLESS),
            lambda: os.kill(first, signal.SIGSTOP),
            at=5,
        )
    assert caught.value.code is ProblemCode.ENGINE_FAILED
    again = await ids_until(engine, new_job(PROMPT, 5, params=ENDLESS), lambda: None, at=1)
    assert len(again) == 5
    assert engine.pid != first
    assert [event.kind for event in events] == ["ready", "hung", "restarting", "ready"]


@pytest.mark.slow
async def test_a_host_that_stands_still_while_idle_is_replaced_before_the_next_job(
    mortal: Mortal, new_job: NewJob
) -> None:
    engine, events = mortal
    assert len(await ids_until(engine, new_job(PROMPT, 5, params=ENDLESS), nothing, at=1)) == 5
    first, stopped_s = engine.pid, time.monotonic()
    os.kill(first, signal.SIGSTOP)
    while [event.kind for event in events] != ["ready", "hung", "restarting", "ready"]:
        await asyncio.sleep(0.02)
        assert time.monotonic() - stopped_s < 20, events
        if events[-1].kind == "hung":
            assert 3.5 < time.monotonic() - stopped_s < 7.5
    assert "idle" in events[1].reason and engine.pid != first
    assert not psutil.pid_exists(first)
    asked_s = time.monotonic()
    assert len(await ids_until(engine, new_job(PROMPT, 5, params=ENDLESS), nothing, at=1)) == 5
    assert time.monotonic() - asked_s < 2.0


@pytest.mark.slow
async def test_an_idle_host_that_was_held_up_for_a_moment_is_kept(
    mortal: Mortal, new_job: NewJob
) -> None:
    engine, events = mortal
    first = engine.pid
    for _ in range(2):
        os.kill(first, signal.SIGSTOP)
        await asyncio.sleep(3.0)
        os.kill(first, signal.SIGCONT)
        await asyncio.sleep(0.5)
    # And its parent's own loop, for longer than any silence that counts.
    time.sleep(7.0)  # noqa: ASYNC251
    await asyncio.sleep(1.0)
    assert len(await ids_until(engine, new_job(PROMPT, 5, params=ENDLESS), nothing, at=1)) == 5
    assert engine.pid == first and [event.kind for event in events] == ["ready"]


async def test_a_reader_that_leaves_frees_its_slots_for_others(
    mortal: Mortal, new_job: NewJob
) -> None:
    engine, _ = mortal
    for _ in range(3 * engine.describe().slots):
        stream = engine.generate(new_job(PROMPT, 900, params=ENDLESS))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
    ids = await asyncio.wait_for(
        ids_until(engine, new_job(PROMPT, 3, params=ENDLESS), lambda: None, at=1), 20
    )
    assert len(ids) == 3


async def test_jobs_beyond_the_slots_wait_and_are_all_served(
    mortal: Mortal, new_job: NewJob
) -> None:
    engine, _ = mortal
    jobs = [new_job((*PROMPT, n), 4, params=ENDLESS) for n in range(10)]
    made = await asyncio.gather(*(ids_until(engine, job, lambda: None, at=1) for job in jobs))
    assert [len(ids) for ids in made] == [4] * 10


async def test_a_score_in_flight_fails_with_the_host(mortal: Mortal) -> None:
    engine, _ = mortal
    # A host that stands still cannot have answered, however fast the machine is.
    os.kill(engine.pid, signal.SIGSTOP)
    scoring = asyncio.create_task(engine.score(PROMPT, list(range(3000)), ENDLESS, 1))
    await asyncio.sleep(0.1)
    assert not scoring.done()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(Problem) as caught:
        await scoring
    assert caught.value.code is ProblemCode.ENGINE_CRASHED


async def test_the_host_ends_with_its_parents_pipe_also_in_mid_decode(
    mortal: Mortal, new_job: NewJob
) -> None:
    engine, _ = mortal
    process = psutil.Process(engine.pid)
    stream = engine.generate(new_job(tuple(range(100, 3100)), 10, params=ENDLESS))
    await anext(stream)  # A long prefill has begun.
    assert engine._child is not None
    stdin = engine._child._process.stdin
    assert stdin is not None
    stdin.close()
    await asyncio.to_thread(process.wait, 2.0)


async def test_a_file_that_is_no_model_is_a_problem_and_not_a_hang(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(Problem) as caught:
        await EngineHost.start(broken, "d", EngineConfig(), lambda event: None)
    assert caught.value.code is ProblemCode.ENGINE_FAILED
    assert "cannot be loaded" in caught.value.message
