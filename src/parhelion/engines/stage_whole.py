"""A pipeline of one: the whole model behind a stage's face, run by the ordinary engine.

There is nobody to send hidden states to, so no frame comes or goes; all else is as with other
stages, so that node and coordinator need not tell them apart.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from msgspec import structs

from parhelion.config import EngineConfig
from parhelion.engines.hidden import FrameBroken
from parhelion.engines.stage_protocol import StageCard, StageStats, StageTold
from parhelion.engines.supervised import EngineHost
from parhelion.hosts import resident_bytes
from parhelion.words import Job, Problem, ProblemCode, StageJob, StageSpec

Key = tuple[str, int]

TIMED_PROMPT = (1, 2, 3, 4)
"""Ids that every vocabulary has: what they say is nobody's."""


class WholeStage:
    """All layers of a model as one stage; see `stage_supervised.StageHost` for the face."""

    def __init__(
        self,
        path: Path,
        spec: StageSpec,
        told: StageTold,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path = path
        self._spec = spec
        self._told = told
        self._engine: EngineHost | None = None
        self._jobs: dict[Key, Job] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._stats = StageStats()
        self._clock_s = clock_s
        self._stepped_s = 0.0
        self._under_way = 0
        self._timings = 0

    @classmethod
    async def start(
        cls, path: Path, spec: StageSpec, config: EngineConfig, told: StageTold
    ) -> Self:
        """Load the model in a host of its own; Problem ENGINE_FAILED if it cannot be."""
        stage = cls(path, spec, told)
        own = structs.replace(config, slots=spec.slots, kv_tokens=spec.kv_tokens)
        stage._engine = await EngineHost.start(path, spec.digest, own, told.on_event)
        return stage

    @property
    def pid(self) -> int:
        """The child's process id; 0 while there is none."""
        return 0 if self._engine is None else self._engine.pid

    def describe(self) -> StageCard:
        """What is loaded; hidden states it has none."""
        card = self._running.describe()
        return StageCard(
            spec=self._spec,
            n_embd=0,
            n_vocab=card.n_vocab,
            backend=card.backend,
            device=card.device,
            kv_tokens=card.kv_tokens,
            resident_bytes=resident_bytes(self.pid, (self._path,)) or 0,
            rows=card.slots,
        )

    def stats(self) -> StageStats:
        """What was done since it was started."""
        return self._stats

    async def open(self, job: StageJob, ids: Job | None = None) -> int:
        """Expect a job; what the engine holds of it already it finds by itself."""
        key = (job.job, job.attempt)
        if ids is None:
            raise Problem(ProblemCode.INVALID_REQUEST, "a whole model needs the job's ids")
        if key in self._jobs:
            raise Problem(ProblemCode.CONFLICT, "this attempt is already open")
        self._jobs[key] = ids
        return 0

    def go(self, job: str, attempt: int, reused: int) -> None:
        """Begin; unknown jobs are ignored, as by every stage."""
        ids = self._jobs.get((job, attempt))
        if ids is not None and (job, attempt) not in self._tasks:
            task = asyncio.create_task(self._run(ids), name="whole-stage")
            self._tasks[job, attempt] = task

    def feed(self, frame: bytes) -> None:
        """No other stage has anything to say to this one."""
        raise FrameBroken("a pipeline of one takes no frames")

    def close(self, job: str, attempt: int, tags: tuple[bytes, ...] = ()) -> None:
        """The job is over here."""
        self._jobs.pop((job, attempt), None)
        task = self._tasks.pop((job, attempt), None)
        if task is not None:
            # Leaving the iteration cancels the job at the engine's next step.
            task.cancel()

    async def time(self, rows: int, repeats: int) -> float:
        """Milliseconds of a step of one row, the median of `repeats`, by a job of nobody's."""
        self._timings += 1
        job = Job(
            job=f"timing_{self._timings}",
            attempt=1,
            digest=self._spec.digest,
            cache_scope="",
            prompt_ids=TIMED_PROMPT,
            max_tokens=repeats + 1,
        )
        times: list[float] = []
        before_s = 0.0
        async for step in self._running.generate(job):
            now_s = time.perf_counter()
            if step.ids and before_s:
                times.append((now_s - before_s) * 1e3)
            before_s = now_s if step.ids else before_s
        if not times:
            raise Problem(ProblemCode.ENGINE_FAILED, "the model ends its answer at once")
        return statistics.median(times)

    async def stop(self) -> None:
        """End the engine; open jobs are over."""
        for key in list(self._jobs):
            self.close(*key)
        if self._engine is not None:
            await self._engine.stop()

    # --- inside -------------------------------------------------------------------------------

    @property
    def _running(self) -> EngineHost:
        assert self._engine is not None, "start() returns only after it runs"
        return self._engine

    async def _run(self, job: Job) -> None:
        if not self._under_way:
            # Until now nothing was to do: that time is no step's.
            self._stepped_s = self._clock_s()
        self._under_way += 1
        try:
            async for step in self._running.generate(job):
                self._count(len(step.ids))
                self._told.on_steps((step,))
        except Problem as problem:
            self._jobs.pop((job.job, job.attempt), None)
            self._told.on_failed(job.job, job.attempt, problem.code, problem.message)
        finally:
            self._under_way -= 1

    def _count(self, rows: int) -> None:
        """Fold one step in; of those that came together the first one has it all."""
        now_s = self._clock_s()
        took_ms, self._stepped_s = (now_s - self._stepped_s) * 1e3, now_s
        self._stats = self._stats.after(rows, took_ms)
