"""Another node as a source: read part by part, and left at the first word that is not right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from parhelion.link import LinkBroken, PairTicket
from parhelion.node import holder_source
from parhelion.node.fetching import fetch_slice
from parhelion.node.holder_source import HolderSource
from parhelion.node.slice_parts import PART_BYTES, WINDOW, Part, answer, read_ask
from parhelion.node.sources import Source, SourceBroken, SourceWrong
from parhelion.words import Problem, ProblemCode
from tests.unit.node.lending import BODY, WANT, End, ends
from tests.unit.node.staging import settle, ticket
from tests.unit.node.test_fetching import Clock, Scripted

SOON_S = 0.1
LONG_S = 5.0

Speak = Callable[[End], Awaitable[None]]


def source(end: End, part_s: float = LONG_S) -> HolderSource:
    async def open_pipe(_ticket: PairTicket) -> End:
        return end

    return HolderSource(ticket(), open_pipe, dial_s=SOON_S, part_s=part_s)


async def honest(end: End, body: bytes = BODY) -> None:
    with contextlib.suppress(LinkBroken):
        while True:
            part = read_ask(await end.receive(), len(body))
            await end.send(answer(part, body[part.offset_bytes :][: part.length_bytes]))


@asynccontextmanager
async def served(
    speak: Speak, path: str = "direct", part_s: float = LONG_S
) -> AsyncIterator[tuple[HolderSource, End]]:
    near, far = ends(path)
    speaking = asyncio.create_task(speak(far))  # type: ignore[arg-type]
    try:
        yield source(near, part_s), near
    finally:
        speaking.cancel()
        await asyncio.wait([speaking])


async def read(source: Source, offset_bytes: int = 0) -> bytes:
    came = b""
    async with source.open(WANT, offset_bytes) as arriving:
        async for block in arriving.blocks:
            came += block
    assert arriving.offset_bytes == offset_bytes
    return came


async def fetched(tmp_path: Path, *sources: Source) -> bytes:
    path = tmp_path / "slice.part"
    await fetch_slice(sources, WANT, path, clock=Clock(), jitter=lambda: 0.0, deadline_s=5)
    return await asyncio.to_thread(path.read_bytes)


@pytest.mark.parametrize("offset_bytes", [0, 1000, 3 * PART_BYTES, len(BODY) - 1, len(BODY)])
async def test_all_of_it_from_any_byte_on(offset_bytes: int) -> None:
    async with served(honest) as (one, near):
        assert await read(one, offset_bytes) == BODY[offset_bytes:]
        assert await read(one, 0) == BODY, "a link whose answers are all read is good for more"
        assert near.closed is None
        await one.close()
        assert near.closed is not None


async def test_a_few_parts_are_asked_for_ahead_and_no_more() -> None:
    near, far = ends()
    one = source(near)
    async with one.open(WANT, 0) as arriving:
        reading = asyncio.create_task(anext(aiter(arriving.blocks)))  # type: ignore[arg-type]
        await settle()
        assert far.coming.qsize() == WINDOW
        reading.cancel()
        await asyncio.wait([reading])
    assert near.closed is not None, "its answers would be taken for others"


async def silent(end: End) -> None:
    await asyncio.Event().wait()


async def stops(end: End) -> None:
    await end.send(answer(Part(0, PART_BYTES), BODY[:PART_BYTES]))
    await asyncio.Event().wait()


async def another(end: End) -> None:
    await end.send(answer(Part(PART_BYTES, PART_BYTES), BODY[:PART_BYTES]))


async def too_much(end: End) -> None:
    await end.send(answer(Part(0, PART_BYTES), BODY[: PART_BYTES + 1]))


async def too_little(end: End) -> None:
    await end.send(answer(Part(0, PART_BYTES), b""))


async def no_word_of_ours(end: End) -> None:
    await end.send(b"HTTP/1.1 200 OK")


async def busy(end: End) -> None:
    await end.receive()
    await end.close("this node serves as many slices as it may")


@pytest.mark.parametrize(
    ("speak", "why"),
    [
        (silent, "no part came"),
        (stops, "no part came"),
        (another, "another part"),
        (too_much, "bytes, not"),
        (too_little, "bytes, not"),
        (no_word_of_ours, "bytes, not"),
        (busy, "as many slices"),
    ],
)
async def test_who_stalls_or_says_anything_else_is_left_and_the_next_one_asked(
    speak: Speak, why: str, tmp_path: Path
) -> None:
    async with asyncio.timeout(LONG_S):
        async with served(speak, part_s=SOON_S) as (one, near):
            with pytest.raises(SourceWrong, match=why):
                await read(one)
            assert near.closed is not None
            with pytest.raises(SourceWrong, match="over"):
                await read(one)
        async with served(speak, part_s=SOON_S) as (one, _), served(honest) as (next_one, _):
            assert await fetched(tmp_path, one, next_one) == BODY


async def test_a_neighbour_that_dribbles_does_not_keep_us_from_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_source, "SLOW_AFTER_S", 0.02)
    monkeypatch.setattr(holder_source, "RELAY_WAIT_S", 0.0)

    async def dribbles(end: End) -> None:
        with contextlib.suppress(LinkBroken):
            while True:
                part = read_ask(await end.receive(), len(BODY))
                await asyncio.sleep(0.02)
                await end.send(answer(part, BODY[part.offset_bytes :][: part.length_bytes]))

    monkeypatch.setattr(holder_source, "SLOW_BYTES_S", 10**9)
    async with served(dribbles) as (one, near), served(honest) as (next_one, _):
        assert await fetched(tmp_path, one, next_one) == BODY
        assert near.closed is not None
    async with served(dribbles, "relay") as (one, _):
        with pytest.raises(SourceBroken):
            await read(one)
        assert await read(one) == BODY, "there is nobody else"
    monkeypatch.setattr(holder_source, "SLOW_BYTES_S", 1)
    async with served(dribbles) as (one, _):
        assert await read(one) == BODY


async def test_what_came_before_a_link_broke_is_not_fetched_again(tmp_path: Path) -> None:
    asked: list[int] = []

    async def noted(end: End) -> None:
        with contextlib.suppress(LinkBroken):
            while True:
                part = read_ask(await end.receive(), len(BODY))
                asked.append(part.offset_bytes)
                await end.send(answer(part, BODY[part.offset_bytes :][: part.length_bytes]))

    async with served(stops, part_s=SOON_S) as (one, _), served(noted) as (next_one, _):
        assert await fetched(tmp_path, one, next_one) == BODY
    assert asked[0] == PART_BYTES


async def test_what_came_just_before_the_end_of_a_link_is_read(tmp_path: Path) -> None:
    async def leaves(end: End) -> None:
        for _ in range(WINDOW):
            part = read_ask(await end.receive(), len(BODY))
            await end.send(answer(part, BODY[part.offset_bytes :][: part.length_bytes]))
        await end.close("this node is stopped")

    rest = Scripted("rest", (BODY, len(BODY), None))
    async with served(leaves) as (one, _):
        assert await fetched(tmp_path, one, rest) == BODY
    assert rest.opened == [WINDOW * PART_BYTES]


async def test_who_sends_another_slice_is_found_out_and_left(tmp_path: Path) -> None:
    async def lies(end: End) -> None:
        await honest(end, bytes(len(BODY)))

    async with served(lies) as (liar, _), served(honest) as (one, _):
        assert await fetched(tmp_path, liar, one) == BODY


async def test_who_cannot_be_dialled_costs_its_deadline_and_no_more() -> None:
    async def never(_ticket: PairTicket) -> Any:
        await asyncio.Event().wait()

    async def refused(_ticket: PairTicket) -> Any:
        raise LinkBroken(ProblemCode.LINK_BROKEN, "nobody answers")

    async def unreachable(_ticket: PairTicket) -> Any:
        raise OSError("no route")

    for open_pipe, why in ((never, "no link"), (refused, "nobody"), (unreachable, "no route")):
        one = HolderSource(ticket(), open_pipe, dial_s=SOON_S)
        async with asyncio.timeout(LONG_S):
            with pytest.raises(SourceWrong, match=why):
                await read(one)
        await one.close()


async def test_nobody_is_dialled_before_the_slice_is_needed() -> None:
    async def open_pipe(_ticket: PairTicket) -> Any:
        raise AssertionError("dialled")

    await HolderSource(ticket(), open_pipe).close()


async def test_where_only_the_relay_leads_to_it_the_coordinator_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_source, "RELAY_WAIT_S", 0.05)
    async with served(honest, "relay") as (one, near):
        with pytest.raises(SourceBroken, match="relay"):
            await read(one)
        assert near.closed is None
        assert await read(one) == BODY, "who else has nobody takes it by the relay"
    wrong = Scripted("coordinator", (b"", 0, SourceWrong("it answers 404")))
    async with served(honest, "relay") as (one, _):
        assert await fetched(tmp_path, one, wrong) == BODY
    assert wrong.opened == [0]


async def test_a_problem_of_ours_on_the_way_is_a_cause_too() -> None:
    async def open_pipe(_ticket: PairTicket) -> Any:
        raise Problem(ProblemCode.OVERLOADED, "too many links")

    with pytest.raises(SourceWrong, match="too many links"):
        await read(HolderSource(ticket(), open_pipe))
