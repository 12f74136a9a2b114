"""What the catalogue says of slices: those whose digests are known, in an order that is told."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from parhelion.models import Model, SliceBook, inspect, slice_book, slices
from parhelion.words import Problem
from tests.tiny_models import SHAPES, write_tiny

LAYERS = SHAPES["llama"].layers


class Tiny:
    """One tiny model in a book of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = write_tiny(folder / "tiny.gguf", SHAPES["llama"])
        self.model = Model(card=inspect(self.path, "Acme/Tiny"), path=str(self.path))
        self.digest = self.model.card.digest
        self.book = SliceBook(self, folder)

    def by_digest(self, digest: str) -> Model | None:
        return self.model if digest == self.digest else None

    async def ask(self, *ranges: tuple[int, int]) -> None:
        for start, end in ranges:
            await self.book.describe(self.digest, start, end)

    async def listed(self) -> list[tuple[int, int]]:
        artefact = await self.book.artefact(self.digest)
        return [(one.start, one.end) for one in artefact.slices]

    def hold(self, *ranges: tuple[int, int], digest: str = "") -> None:
        self.book.keep((digest or self.digest, start, end) for start, end in ranges)


@pytest_asyncio.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[Tiny]:
    made = Tiny(tmp_path)
    yield made
    made.book.close()


async def test_the_catalogue_names_the_digest_of_each_slice_that_was_asked_for(tiny: Tiny) -> None:
    assert (await tiny.book.artefact(tiny.digest)).slices == ()
    await tiny.ask((0, 2), (2, LAYERS))
    with pytest.raises(Problem):
        await tiny.ask((0, LAYERS + 1))
    for one in (await tiny.book.artefact(tiny.digest)).slices:
        body = b"".join(slices.layout(tiny.path, one.start, one.end).iterate(tiny.path))
        assert (one.digest, one.size_bytes) == (tiny.digest, len(body))
        assert one.sha256 == hashlib.sha256(body).hexdigest()
    assert await tiny.listed() == [(2, LAYERS), (0, 2)]


async def test_the_slice_that_was_asked_for_last_is_listed_first(tiny: Tiny) -> None:
    await tiny.ask((0, 1), (1, 2), (2, 3), (0, 1))
    assert await tiny.listed() == [(0, 1), (2, 3), (1, 2)]
    assert await tiny.listed() == [(0, 1), (2, 3), (1, 2)], "to look is not to ask"


@pytest.mark.parametrize("limit", ["LISTED_SLICES", "REMEMBERED_SLICES"])
async def test_what_pipelines_hold_is_listed_first_however_much_else_is_asked_for(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(slice_book, limit, 2)
    await tiny.ask((3, LAYERS), (0, 3))
    tiny.hold((3, LAYERS), (0, 3))
    await tiny.ask((0, 1), (1, 2), (2, 3), (3, 4))
    assert await tiny.listed() == [(0, 3), (3, LAYERS), (3, 4), (2, 3)]
    # Another model's layers of the same numbers, and what no pipeline has any more, are not kept.
    tiny.hold((0, 3), digest="f" * 64)
    await tiny.ask((4, 5))
    assert await tiny.listed() == [(4, 5), (3, 4)]


async def test_a_slice_of_a_file_that_was_replaced_is_not_listed(tiny: Tiny) -> None:
    await tiny.ask((0, 2))
    body = tiny.path.read_bytes()
    tiny.path.unlink()
    tiny.path.write_bytes(body)
    os.utime(tiny.path, ns=(1, 1))
    assert await tiny.listed() == []
    await tiny.ask((0, 2))
    assert await tiny.listed() == [(0, 2)]


async def test_a_slice_that_is_still_hashed_is_not_listed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Sequence[Any] = ()
    hashed = slices.slice_sha256

    def hashing(*arguments: Any) -> str:
        nonlocal seen
        seen = tuple(tiny.book._known(tiny.digest, next(iter(tiny.book._opening))[3]))
        return hashed(*arguments)

    monkeypatch.setattr(slices, "slice_sha256", hashing)
    await tiny.ask((0, 2))
    assert seen == () and await tiny.listed() == [(0, 2)]
