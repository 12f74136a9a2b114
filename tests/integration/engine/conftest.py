"""A real engine host over the packaged model, and jobs for it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from parhelion.config import EngineConfig
from parhelion.engines import EngineEvent, EngineHost
from parhelion.words import Job, SamplerParams

DIGEST = "d" * 64

_names = itertools.count(1)


@pytest.fixture(scope="session")
def new_job() -> Callable[..., Job]:
    """Makes a job of its own name: `new_job(prompt_ids, max_tokens, temperature=0.0, ...)`."""

    def make(
        prompt_ids: tuple[int, ...], max_tokens: int, temperature: float = 0.0, **more: Any
    ) -> Job:
        fields: dict[str, Any] = {
            "job": f"job_{next(_names)}",
            "attempt": 0,
            "digest": DIGEST,
            "cache_scope": "",
            "prompt_ids": prompt_ids,
            "max_tokens": max_tokens,
            "params": SamplerParams(temperature=temperature),
            "seed": 11,
            **more,
        }
        return Job(**fields)

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Path) -> AsyncIterator[EngineHost]:
    """One engine for a module's tests."""
    host = await EngineHost.start(smollm2, DIGEST, EngineConfig(), lambda event: None)
    yield host
    await host.stop()


@pytest_asyncio.fixture
async def mortal(smollm2: Path) -> AsyncIterator[tuple[EngineHost, list[EngineEvent]]]:
    """An engine that a test may kill, and what it told of itself."""
    events: list[EngineEvent] = []
    host = await EngineHost.start(
        smollm2, DIGEST, EngineConfig(slots=4, kv_tokens=4096), events.append
    )
    yield host, events
    await host.stop()
