"""The keeper of an engine host gives up for no reason at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from parhelion.config import EngineConfig
from parhelion.engines import EngineEvent, EngineHost
from parhelion.words import Problem, ProblemCode


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
