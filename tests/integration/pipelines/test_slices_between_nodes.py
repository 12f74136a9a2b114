"""One slice over a real sealed link between two nodes, and a coordinator that counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from parhelion.bootstrap.ready import SystemClock
from parhelion.identity import NodeKey
from parhelion.link import LoadStage, PairTicket, ServeSlice, parse_address
from parhelion.models import SliceCard, slices
from parhelion.models.digests import file_digest
from parhelion.node.doors import Doors
from parhelion.node.pipes import OpenPipe
from parhelion.node.slice_finder import SliceFinder
from parhelion.node.slice_folder import SliceFolder
from parhelion.node.slice_parts import PART_BYTES
from parhelion.node.slice_server import Lent, SliceServer
from parhelion.words import StageSpec

FETCHER, HOLDER = NodeKey(b"f" * 32), NodeKey(b"h" * 32)
START, END, LAYERS = 5, 9, 30
SOON_S = 20.0


class Wanted:
    """One slice of the packaged model: its card and its bytes."""

    def __init__(self, model: Path) -> None:
        layout = slices.layout(model, START, END)
        self.body = b"".join(layout.iterate(model))
        self.card = SliceCard(
            digest=file_digest(model),
            start=START,
            end=END,
            size_bytes=len(self.body),
            sha256=slices.slice_sha256(model, layout),
        )


class Coordinator:
    """Serves the slice by HTTP, and counts what it sends."""

    def __init__(self, wanted: Wanted) -> None:
        self.sent_bytes = 0
        self.url = ""
        self._wanted = wanted

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Coordinator]:
        app = web.Application()
        card = self._wanted.card
        path = f"/v1/artefacts/{card.digest}/slices/{card.start}-{card.end}"
        app.router.add_get(path, self._send)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _send(self, request: web.Request) -> web.Response:
        card, body = self._wanted.card, self._wanted.body
        first = int(request.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        self.sent_bytes += len(body) - first
        headers = {"ETag": f'"{card.sha256}"'}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        return web.Response(body=body[first:], headers=headers, status=206 if first else 200)


@pytest.fixture(scope="module")
def wanted(smollm2: Path) -> Wanted:
    return Wanted(smollm2)


@pytest.fixture
async def coordinator(wanted: Wanted) -> AsyncIterator[Coordinator]:
    async with Coordinator(wanted).serving() as made:
        yield made


class Two:
    """A node that fetches, and one that has the slice."""

    def __init__(self, folder: Path, wanted: Wanted, url: str, whole: dict[str, Path]) -> None:
        self.card = wanted.card
        address = parse_address(url)
        self._doors = [Doors(key, address, listens=True) for key in (FETCHER, HOLDER)]
        self._finders: list[SliceFinder] = []
        for name, files in (("fetcher", {}), ("holder", whole)):
            (folder / name).mkdir()
            kept = SliceFolder(folder / name, SystemClock())
            self._finders.append(SliceFinder(kept, files, folder, address))
        self.server = SliceServer(self._finders[1].lend, lambda: False)

    async def fetch(self) -> Path:
        """Fetch as a LoadStage says, after the ServeSlice to the other node."""
        fetcher, (holder, direct) = [await one.open_at("127.0.0.1") for one in self._doors]
        dials = PairTicket(
            link="link", secret=b"s" * 32, peer=HOLDER.peer, role="dial", direct=direct
        )
        self.begin(holder, msgspec.structs.replace(dials, peer=FETCHER.peer, role="accept"))
        spec = StageSpec(
            digest=self.card.digest,
            start=START,
            end=END,
            layers=LAYERS,
            stages=3,
            slots=1,
            context=256,
            kv_tokens=256,
        )
        order = LoadStage(
            stage="s",
            spec=spec,
            size_bytes=self.card.size_bytes,
            sha256=self.card.sha256,
            holders=(dials,),
            token="fetch_x",
        )
        async with asyncio.timeout(SOON_S):
            found = await self._finders[0].find(order, fetcher[0])
        found.release()
        assert found.fetched_bytes >= self.card.size_bytes - 2 * PART_BYTES
        return found.path

    def begin(self, open_pipe: OpenPipe, ticket: PairTicket) -> None:
        self.server.begin(open_pipe)
        card = self.card
        self.server.obey(
            ServeSlice(
                ticket=ticket,
                digest=card.digest,
                start=card.start,
                end=card.end,
                size_bytes=card.size_bytes,
                sha256=card.sha256,
            )
        )

    def lends(self, change: Callable[[int, bytes], bytes]) -> None:
        """Change what the holder reads from its disk."""
        lend = self.server._lend

        async def other(order: ServeSlice) -> Lent:
            lent = await lend(order)
            return Lent(lambda at, count: change(at, lent.read(at, count)), lent.release)

        self.server._lend = other

    async def close(self) -> None:
        await self.server.end()
        for one in self._doors:
            await one.close()


@pytest.fixture
async def two(
    tmp_path: Path, wanted: Wanted, coordinator: Coordinator, smollm2: Path
) -> AsyncIterator[Two]:
    made = Two(tmp_path, wanted, coordinator.url, {wanted.card.digest: smollm2})
    yield made
    await made.close()


async def test_the_coordinator_sends_nothing_where_a_neighbour_has_the_model(
    two: Two, wanted: Wanted, coordinator: Coordinator
) -> None:
    path = await two.fetch()
    assert await asyncio.to_thread(path.read_bytes) == wanted.body
    # The link is let go as soon as it has brought the slice, long before anybody's deadline.
    async with asyncio.timeout(2):
        while two.server.sent_bytes == 0:  # noqa: ASYNC110 - it has no event for a test
            await asyncio.sleep(0.01)
    assert (two.server.sent_bytes, coordinator.sent_bytes) == (len(wanted.body), 0)


async def test_who_has_only_the_slice_serves_it_too(
    tmp_path: Path, wanted: Wanted, coordinator: Coordinator
) -> None:
    two = Two(tmp_path, wanted, coordinator.url, {})
    (tmp_path / "holder" / f"{wanted.card.sha256}.gguf").write_bytes(wanted.body)
    try:
        path = await two.fetch()
        assert await asyncio.to_thread(path.read_bytes) == wanted.body
    finally:
        await two.close()
    assert (two.server.sent_bytes, coordinator.sent_bytes) == (len(wanted.body), 0)


async def test_one_wrong_byte_of_a_neighbour_is_found_and_the_coordinator_asked(
    two: Two, wanted: Wanted, coordinator: Coordinator
) -> None:
    wrong_at = 7 * PART_BYTES
    two.lends(lambda at, body: body if at != wrong_at else bytes([body[0] ^ 1]) + body[1:])
    path = await two.fetch()
    assert await asyncio.to_thread(path.read_bytes) == wanted.body
    assert coordinator.sent_bytes == len(wanted.body)


async def test_a_neighbour_that_fails_half_way_costs_no_byte_twice(
    two: Two, wanted: Wanted, coordinator: Coordinator
) -> None:
    failed_at = 9 * PART_BYTES
    two.lends(lambda at, body: body if at < failed_at else b"")
    path = await two.fetch()
    assert await asyncio.to_thread(path.read_bytes) == wanted.body
    assert coordinator.sent_bytes == len(wanted.body) - failed_at


async def test_a_neighbour_without_the_slice_costs_a_moment(
    tmp_path: Path, wanted: Wanted, coordinator: Coordinator
) -> None:
    two = Two(tmp_path, wanted, coordinator.url, {})
    try:
        path = await two.fetch()
        assert await asyncio.to_thread(path.read_bytes) == wanted.body
    finally:
        await two.close()
    assert (two.server.sent_bytes, coordinator.sent_bytes) == (0, len(wanted.body))
