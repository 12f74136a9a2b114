"""What a node serves to others: what it has, to whom it was told, slowly beside its own work."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.link import Address, LinkBroken, PairTicket, ServeSlice
from parhelion.models import SliceCard, slices
from parhelion.models.digests import file_digest
from parhelion.node import slice_server
from parhelion.node.holder_source import PART_DEADLINE_S, HolderSource
from parhelion.node.slice_finder import SliceFinder
from parhelion.node.slice_folder import SliceFolder
from parhelion.node.slice_parts import PART_BYTES, Part, answer, ask, part_at
from parhelion.node.slice_server import (
    BUSY,
    ORDERS_LIMIT,
    REST_LIMIT_S,
    SERVED_LIMIT,
    Lent,
    SliceServer,
    rest_s,
)
from parhelion.words import Problem, ProblemCode
from tests.tiny_models import SHAPES, write_tiny
from tests.unit.node.lending import BODY, WANT, End, Lan, order
from tests.unit.node.staging import Scene, settle, ticket

FIRST = part_at(0, len(BODY))


class Shelf:
    """A node that has one slice."""

    def __init__(self) -> None:
        self.lan = Lan()
        self.busy = False
        self.asked: list[ServeSlice] = []
        self.released = 0
        self.fails: Exception | None = None
        self.server = SliceServer(self.lend, lambda: self.busy)
        self.server.begin(self.lan.open)

    async def lend(self, order: ServeSlice) -> Lent:
        self.asked.append(order)
        if self.fails is not None:
            raise self.fails
        return Lent(lambda offset, length: BODY[offset : offset + length], self.release)

    def release(self) -> None:
        self.released += 1

    async def link(self, name: str = "link") -> End:
        """Serve over a link, and its other end."""
        self.server.obey(order(ticket=ticket("accept", name)))
        await settle()
        return await self.lan.open(ticket(link=name))

    @property
    def tasks(self) -> int:
        return len(self.server._tasks)


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    shelf = Shelf()
    yield shelf
    await shelf.server.end()
    assert shelf.tasks == 0


async def cause_of(end: End) -> str:
    async with asyncio.timeout(2):
        while True:
            try:
                await end.receive()
            except LinkBroken as broken:
                return broken.message


async def test_a_slice_is_read_to_its_end_and_the_link_let_go(shelf: Shelf) -> None:
    shelf.server.obey(order())
    one = HolderSource(ticket(), shelf.lan.open)
    async with one.open(WANT, 1000) as arriving:
        assert b"".join([block async for block in arriving.blocks]) == BODY[1000:]
    await one.close()
    await settle(lambda: shelf.tasks == 0)
    assert shelf.server.sent_bytes == len(BODY) - 1000
    assert (shelf.released, shelf.tasks) == (1, 0)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"GET / HTTP/1.1",
        ask(Part(0, 1)),
        ask(Part(0, 2**32 - 1)),
        ask(Part(len(BODY), 0)),
        ask(Part(len(BODY) - 8, PART_BYTES)),
        ask(Part(2**64 - 1, PART_BYTES)),
    ],
)
async def test_who_asks_for_anything_else_gets_nothing(shelf: Shelf, frame: bytes) -> None:
    end = await shelf.link()
    await end.send(frame)
    cause = await cause_of(end)
    assert "no part of" in cause or "an ask of" in cause
    await settle(lambda: shelf.tasks == 0)
    assert (shelf.server.sent_bytes, shelf.released, shelf.tasks) == (0, 1, 0)


async def test_nobody_reads_a_slice_again_and_again(shelf: Shelf) -> None:
    end = await shelf.link()
    for _ in range(3 * len(BODY) // PART_BYTES):
        await end.send(ask(FIRST))
    assert "again and again" in await cause_of(end)
    await settle(lambda: shelf.tasks == 0)
    assert shelf.server.sent_bytes <= 2 * len(BODY)


async def test_two_are_served_at_once_and_the_third_is_told_to_go_elsewhere(shelf: Shelf) -> None:
    reading = [await shelf.link(f"link{number}") for number in range(SERVED_LIMIT)]
    for end in reading:
        await end.send(ask(FIRST))
        await end.receive()
    third = await shelf.link("third")
    await third.send(ask(FIRST))
    assert await cause_of(third) == BUSY
    await reading[0].close("enough")
    await settle()
    fourth = await shelf.link("fourth")
    await fourth.send(ask(FIRST))
    assert await fourth.receive() == answer(FIRST, BODY[:PART_BYTES])


async def test_who_never_comes_or_never_asks_is_not_waited_for(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAIR_DEADLINE_S", "FIRST_ASK_S", "NEXT_ASK_S"):
        monkeypatch.setattr(slice_server, name, 0.05)

    async def never(_ticket: PairTicket) -> Any:
        await asyncio.Event().wait()

    shelf.server.begin(never)
    shelf.server.obey(order())
    shelf.server.begin(shelf.lan.open)
    silent, stops = await shelf.link("silent"), await shelf.link("stops")
    await stops.send(ask(FIRST))
    for end in (silent, stops):
        assert "in time" in await cause_of(end)
    await settle(lambda: shelf.tasks == 0)
    assert (shelf.tasks, shelf.released) == (0, 1)


async def test_orders_are_bounded_and_end_with_the_session(shelf: Shelf) -> None:
    for number in range(ORDERS_LIMIT + 3):
        shelf.server.obey(order(ticket=ticket("accept", f"link{number}")))
    await settle()
    assert shelf.tasks == ORDERS_LIMIT == len(shelf.lan.opened)
    await shelf.server.end()
    assert shelf.tasks == 0
    assert all(far.closed is not None for _, far in shelf.lan.made.values())
    shelf.server.obey(order())
    assert shelf.tasks == 0, "without a session there is nobody to serve"


async def test_a_slice_that_is_not_here_any_more_costs_the_other_node_one_word(
    shelf: Shelf,
) -> None:
    shelf.fails = Problem(ProblemCode.ARTEFACT_UNAVAILABLE, "this node has no such slice any more")
    end = await shelf.link()
    await end.send(ask(FIRST))
    assert "no such slice" in await cause_of(end)


def test_beside_jobs_a_slice_gets_a_quarter_of_its_link() -> None:
    assert rest_s(PART_BYTES, 80.0, is_busy=False) == 0.0
    takes_s = PART_BYTES * 8 / 80e6
    assert rest_s(PART_BYTES, 80.0, is_busy=True) == pytest.approx(3 * takes_s)
    # Of what the other end claims nothing makes us faster than a LAN, or gone.
    for claimed in (1e12, float("inf")):
        assert rest_s(PART_BYTES, claimed, is_busy=True) >= 3 * PART_BYTES * 8 / 1e9
    for claimed in (1e-12, 0.0, None):
        assert 0 < rest_s(PART_BYTES, claimed, is_busy=True) <= REST_LIMIT_S < PART_DEADLINE_S


async def test_a_busy_node_rests_between_parts(shelf: Shelf) -> None:
    shelf.lan.mbit_s = 20.0
    rest = rest_s(PART_BYTES, 20.0, is_busy=True)
    end = await shelf.link()
    took_s: list[float] = []
    loop = asyncio.get_running_loop()
    for busy in (False, True):
        shelf.busy = busy
        began_s = loop.time()
        for _ in range(2):
            await end.send(ask(FIRST))
            await end.receive()
        took_s.append(loop.time() - began_s)
    assert took_s[0] < rest / 2 and took_s[1] > 0.9 * rest


# --- from the stages' side, and from the disk's ---------------------------------------------------


async def test_stages_serve_while_their_session_lasts_and_not_while_they_leave(
    clock: Any,
) -> None:
    scene = Scene(clock)
    await scene.obey(order(ticket=ticket("accept", "a")))
    assert list(scene.pipes) == ["a"]
    scene.pipes["a"].bring(ask(FIRST))
    await settle(lambda: bool(scene.pipes["a"].sent))
    assert scene.pipes["a"].sent == [answer(FIRST, bytes(PART_BYTES))]
    assert scene.lent == [order(ticket=ticket("accept", "a"))]
    scene.stages.refuse_new("its operator stopped it")
    await scene.obey(order(ticket=ticket("accept", "b")))
    assert list(scene.pipes) == ["a"]
    await scene.stages.end()
    assert scene.pipes["a"].closed is not None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "whole.gguf", SHAPES["llama"])


def cut(model: Path) -> tuple[SliceCard, bytes]:
    layout = slices.layout(model, 1, 3)
    body = b"".join(layout.iterate(model))
    sha256 = hashlib.sha256(body).hexdigest()
    return (
        SliceCard(digest=file_digest(model), start=1, end=3, size_bytes=len(body), sha256=sha256),
        body,
    )


def ordered(card: SliceCard, **more: Any) -> ServeSlice:
    return order(
        **{
            "digest": card.digest,
            "start": card.start,
            "end": card.end,
            "size_bytes": card.size_bytes,
            "sha256": card.sha256,
            **more,
        }
    )


def finder(tmp_path: Path, clock: Any, whole: dict[str, Path]) -> SliceFinder:
    folder = SliceFolder(tmp_path / "slices", clock)
    return SliceFinder(folder, whole, tmp_path, Address(url="http://pool.example"))


async def test_a_slice_is_read_from_its_own_file_or_from_the_whole_models(
    model: Path, tmp_path: Path, clock: Any
) -> None:
    card, body = cut(model)
    search = finder(tmp_path, clock, {card.digest: model})
    lent = await search.lend(ordered(card))
    assert lent.read(0, len(body)) == body and lent.read(100, 7) == body[100:107]
    lent.release()
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / f"{card.sha256}.gguf").write_bytes(body)
    kept = finder(tmp_path, clock, {})
    lent = await kept.lend(ordered(card))
    assert lent.read(100, 7) == body[100:107]
    assert kept._folder._used[card.sha256] == 1, "it might be deleted while it is read"
    lent.release()
    assert not kept._folder._used


async def test_nothing_else_of_this_disk_can_be_read(
    model: Path, tmp_path: Path, clock: Any
) -> None:
    card, body = cut(model)
    search = finder(tmp_path, clock, {card.digest: model})
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / f"{'e' * 64}.gguf").write_bytes(body + b"longer")
    (tmp_path / "slices" / f"{'f' * 64}.part").write_bytes(body)
    for wrong in (
        {"sha256": "../node.key"},
        {"digest": "0" * 64},
        {"digest": "0" * 64, "sha256": "e" * 64},
        {"digest": "0" * 64, "sha256": "f" * 64},
        {"end": 99},
        {"start": -1},
        {"start": 3, "end": 3},
        {"size_bytes": len(body) + 1},
        {"size_bytes": 0},
        {"size_bytes": 2**62},
    ):
        with pytest.raises(Problem):
            await search.lend(ordered(card, **wrong))
    assert not search._folder._used
