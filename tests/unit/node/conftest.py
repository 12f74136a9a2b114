"""An engine whose every step a test writes, and a node's desk around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from parhelion.engines import EngineCard
from parhelion.identity import NodeKey
from parhelion.words import Job, Problem, Step

DIGEST = "d" * 64


class ScriptedEngine:
    """Steps come when the test gives them; a cancel is noted and answered at the next step."""

    def __init__(self, slots: int = 2, digest: str = DIGEST) -> None:
        self.card = EngineCard(
            digest=digest,
            backend="scripted",
            device="none",
            slots=slots,
            kv_tokens=1000,
            context=500,
            n_vocab=100,
        )
        self.cancelled: list[tuple[str, int]] = []
        self.running: set[tuple[str, int]] = set()
        self.stubborn = False
        self._queues: dict[tuple[str, int], asyncio.Queue[Any]] = {}
        self._made: dict[tuple[str, int], int] = {}

    def describe(self) -> EngineCard:
        return self.card

    async def generate(self, job: Job) -> AsyncIterator[Step]:
        key = (job.job, job.attempt)
        self.running.add(key)
        assert len(self.running) <= self.card.slots, "more jobs than seats"
        self._made.setdefault(key, len(job.output_ids))
        try:
            while True:
                item = await self._queue(key).get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    return
                yield item
                if item.finish:
                    return
        finally:
            self.running.discard(key)

    def cancel(self, job: str, attempt: int) -> None:
        self.cancelled.append((job, attempt))
        if not self.stubborn:
            made = self._made.get((job, attempt), 0)
            self._queue((job, attempt)).put_nowait(
                Step(job, attempt, made, (99,), finish="cancelled")
            )

    async def stop(self) -> None:
        return

    async def score(self, *_: object) -> tuple[()]:
        return ()

    async def embed(self, ids: object) -> tuple[float, ...]:
        return ()

    def give(self, job: Job, *ids: int, finish: str | None = None) -> None:
        """The engine's next step for `job`."""
        key = (job.job, job.attempt)
        start = self._made.setdefault(key, len(job.output_ids))
        self._made[key] = start + len(ids)
        self._queue(key).put_nowait(Step(job.job, job.attempt, start, ids, finish=finish))

    def end(self, job: Job, error: Problem | Exception | None) -> None:
        """The engine raises, or just stops when there is no error."""
        self._queue((job.job, job.attempt)).put_nowait(error)

    def _queue(self, key: tuple[str, int]) -> asyncio.Queue[Any]:
        return self._queues.setdefault(key, asyncio.Queue())


class StillClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


def make_job(
    name: str = "job_a", *, attempt: int = 1, output: tuple[int, ...] = (), **more: Any
) -> Job:
    fields: dict[str, Any] = {
        "digest": DIGEST,
        "cache_scope": "acct",
        "prompt_ids": (1, 2, 3),
        "output_ids": output,
        "max_tokens": 64,
        "opening": b"o" * 32,
        **more,
    }
    return Job(job=name, attempt=attempt, **fields)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def scripted() -> type[ScriptedEngine]:
    return ScriptedEngine


@pytest.fixture
def job() -> Callable[..., Job]:
    return make_job


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def key() -> NodeKey:
    return NodeKey(b"n" * 32)
