"""Of several ways to a channel one is kept; whatever is cancelled when, the others are closed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from parhelion.link.pair_channel import Channel
from parhelion.link.pair_race import Race, Tried

SOON_S = 10.0


class FakeChannel:
    """Says its goodbye when it is let."""

    path = "relay"

    def __init__(self, *, slow: bool = False) -> None:
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.closed = False
        if not slow:
            self.may_close.set()

    async def close(self, _cause: Any = None) -> None:
        self.closing.set()
        await self.may_close.wait()
        self.closed = True

    async def way(self) -> Tried:
        return Tried(cast("Channel", self), 0.01)


async def opened(best: FakeChannel, *others: FakeChannel) -> Tried:
    """As `Pairs` opens: the race's context ends with a channel kept."""
    async with Race(best.way(), *(one.way() for one in others)) as race:
        await race.all(SOON_S)
        kept = (await race.first())[0]
        race.kept = kept.channel
        return kept


def closings() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("pair-")]


async def test_the_kept_channel_stays_open_and_the_others_do_not() -> None:
    best, other = FakeChannel(), FakeChannel()
    await opened(best, other)
    assert (best.closed, other.closed) == (False, True)


@pytest.mark.parametrize("times", [1, 2])
async def test_an_opening_that_is_cancelled_while_the_loser_is_closed_leaves_nothing_open(
    times: int,
) -> None:
    best, slow, last = FakeChannel(), FakeChannel(slow=True), FakeChannel()
    opening = asyncio.create_task(opened(best, slow, last))
    async with asyncio.timeout(SOON_S):
        await slow.closing.wait()
        for _ in range(times):
            opening.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert opening.done() == (times == 2), "told twice, it lets go at once"
        slow.may_close.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        while closings():
            await asyncio.wait(closings())
    assert (best.closed, slow.closed, last.closed) == (True, True, True)


async def test_an_opening_that_is_cancelled_while_a_way_winds_up_leaves_nothing_open() -> None:
    """The way has just answered, in spite of being cancelled."""
    best, late = FakeChannel(), FakeChannel()
    winding = asyncio.Event()
    go_on = asyncio.Event()

    async def stubborn() -> Tried:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            winding.set()
            await go_on.wait()
        return await late.way()

    async def open_it() -> Tried:
        async with Race(best.way(), stubborn()) as race:
            kept = (await race.first())[0]
            race.kept = kept.channel
            return kept

    opening = asyncio.create_task(open_it())
    async with asyncio.timeout(SOON_S):
        await winding.wait()
        opening.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert (best.closed, late.closed) == (True, True)
    assert not closings()
