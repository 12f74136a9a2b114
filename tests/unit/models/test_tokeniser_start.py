"""A tokeniser host that is started again and never becomes ready must not be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from parhelion.hosts import ChildGone
from parhelion.models import tokeniser
from parhelion.models.frames import ReadyFrame
from parhelion.models.tokeniser import TokeniserHost

READY = msgspec.msgpack.encode(ReadyFrame())


class Silent:
    """A child that says nothing of its own accord, and ends when it is killed."""

    started: list[Silent]

    def __init__(self, on_frame: Callable[[bytes], None], on_exit: Callable[[ChildGone], None]):
        self.pid = len(self.started) + 1
        self.on_frame = on_frame
        self.kill = lambda: asyncio.get_running_loop().call_soon(
            on_exit, ChildGone("tokeniser", -9, "")
        )
        self.started.append(self)

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: object,
        *,
        on_frame: Callable[[bytes], None],
        on_exit: Callable[[ChildGone], None],
        env: object,
    ) -> Silent:
        return cls(on_frame, on_exit)

    def send(self, body: bytes) -> None:
        """It takes all and answers nothing."""

    async def stop(self) -> None:
        """It ends at once."""


async def test_a_restarted_host_that_never_says_that_it_is_ready_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Silent.started = []
    monkeypatch.setattr(tokeniser, "Child", Silent)
    monkeypatch.setattr(tokeniser, "START_LIMIT_S", 0.1)
    host = TokeniserHost(jitter=lambda: 0.0)
    starting = asyncio.create_task(host.start())
    await asyncio.sleep(0)
    Silent.started[0].on_frame(READY)
    await starting
    await asyncio.sleep(0.2)
    assert len(Silent.started) == 1, "one that was ready in time is left alone"

    Silent.started[0].kill()
    # The second one is ended, and another one tried.
    async with asyncio.timeout(5):
        while len(Silent.started) <= 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await host.stop()
