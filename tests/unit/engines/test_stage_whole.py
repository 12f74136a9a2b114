"""A pipeline of one, over an engine whose steps take what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.engines.stage_protocol import StageStats, StageTold
from parhelion.engines.stage_whole import WholeStage
from parhelion.words import Job, StageJob, StageSpec, Step

SPEC = StageSpec(
    digest="d" * 64, start=0, end=30, layers=30, stages=1, slots=2, context=99, kv_tokens=99
)
STEP_S = 0.02


class Engine:
    """Makes an id of a job whenever it is let, which takes STEP_S."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.may_step = asyncio.Semaphore(0)

    def clock_s(self) -> float:
        return self.now_s

    async def generate(self, job: Job) -> AsyncIterator[Step]:
        for at in range(job.max_tokens):
            await self.may_step.acquire()
            self.now_s += STEP_S
            is_last = at + 1 == job.max_tokens
            yield Step(job.job, job.attempt, at, (7,), finish="length" if is_last else None)


class Whole:
    """The stage, and what a node would hear of it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._ended = asyncio.Event()
        self.engine = Engine()
        told = StageTold(
            on_frame=lambda frame: pytest.fail("there is nobody to send a frame to"),
            on_steps=self._hear,
            on_failed=lambda *failure: pytest.fail(str(failure)),
            on_event=lambda event: None,
        )
        self.stage = WholeStage(Path("x"), SPEC, told, self.engine.clock_s)
        engine: Any = self.engine
        self.stage._engine = engine

    async def run(self, name: str, ids: int) -> None:
        """A job from its opening to its close."""
        job = Job(
            job=name,
            attempt=0,
            digest=SPEC.digest,
            cache_scope="",
            prompt_ids=(1,),
            max_tokens=ids,
        )
        stage_job = StageJob(job=name, attempt=0, capacity=9)
        assert await self.stage.open(stage_job, job) == 0
        self.stage.go(name, 0, 0)
        for _ in range(ids):
            self.engine.may_step.release()
        await self._ended.wait()
        self._ended.clear()
        self.stage.close(name, 0)

    def _hear(self, steps: tuple[Step, ...]) -> None:
        self.steps.extend(steps)
        if steps[-1].finish is not None:
            self._ended.set()


async def test_a_whole_model_is_busy_only_while_it_has_a_job() -> None:
    whole = Whole()
    await whole.run("job_a", 3)
    whole.engine.now_s += 3600.0
    await whole.run("job_b", 2)
    assert [(step.job, step.ids) for step in whole.steps] == [("job_a", (7,))] * 3 + [
        ("job_b", (7,))
    ] * 2
    stats = whole.stage.stats()
    assert (stats.steps, stats.rows) == (5, 5)
    assert stats.busy_ms == pytest.approx(5 * STEP_S * 1e3)
    assert stats.usual_step_ms == pytest.approx(STEP_S * 1e3)


def test_a_hiccup_changes_little_of_what_is_usual() -> None:
    stats = StageStats().after(1, 10.0)
    for _ in range(20):
        stats = stats.after(1, 10.0)
    assert stats.usual_step_ms == pytest.approx(10.0)
    assert stats.after(1, 60.0).usual_step_ms == pytest.approx(15.0)
