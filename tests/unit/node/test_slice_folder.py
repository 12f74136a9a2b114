"""The slices that a node keeps: verified when taken, fetched once, evicted by age, never in use."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from parhelion.models import SliceCard
from parhelion.node.slice_folder import SliceFolder
from parhelion.node.sources import Arriving
from parhelion.words import Problem, ProblemCode

SIZE = 1000


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        self.ms += 1000
        return self.ms

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class Plain:
    """Has every slice; each is its number again and again."""

    name = "plain"
    by_network = True

    def __init__(self) -> None:
        self.opened = 0
        self.go = asyncio.Event()
        self.go.set()

    @asynccontextmanager
    async def open(self, want: SliceCard, offset_bytes: int) -> AsyncGenerator[Arriving]:
        self.opened += 1
        yield Arriving(offset_bytes, self._blocks(want, offset_bytes))

    async def _blocks(self, want: SliceCard, offset_bytes: int) -> AsyncGenerator[bytes]:
        body = body_of(want.start)[offset_bytes:]
        yield body[:100]
        await self.go.wait()
        yield body[100:]


def body_of(number: int) -> bytes:
    return bytes([number]) * SIZE


def want_of(number: int) -> SliceCard:
    return SliceCard(
        digest="d" * 64,
        start=number,
        end=number + 1,
        size_bytes=SIZE,
        sha256=hashlib.sha256(body_of(number)).hexdigest(),
    )


def folder(path: Path, budget_bytes: int = 10 * SIZE, **more: Any) -> SliceFolder:
    return SliceFolder(
        path / "slices", Clock(), budget_bytes=budget_bytes, jitter=lambda: 0.0, **more
    )


def kept(path: Path) -> set[str]:
    return {one.name for one in (path / "slices").iterdir() if one.suffix in (".gguf", ".part")}


def names(*numbers: int) -> set[str]:
    return {f"{want_of(number).sha256}.gguf" for number in numbers}


async def test_a_slice_is_fetched_once_and_found_by_the_next_process(tmp_path: Path) -> None:
    source = Plain()
    with await folder(tmp_path).take(want_of(1), [source]) as path:
        assert path.read_bytes() == body_of(1)
    with await folder(tmp_path).take(want_of(1), []) as path:
        assert path.read_bytes() == body_of(1)
    assert source.opened == 1
    assert kept(tmp_path) == names(1)


async def test_two_who_want_it_at_once_share_one_fetch(tmp_path: Path) -> None:
    source, slices = Plain(), folder(tmp_path)
    source.go.clear()
    asking = [asyncio.create_task(slices.take(want_of(1), [source])) for _ in range(3)]
    await asyncio.sleep(0.1)
    # One that leaves ends nothing for the others.
    asking[0].cancel()
    await asyncio.sleep(0.05)
    source.go.set()
    held = await asyncio.gather(*asking[1:])
    assert source.opened == 1
    assert {one.path.read_bytes() for one in held} == {body_of(1)}


async def test_a_fetch_that_nobody_waits_for_is_ended_and_goes_on_later(tmp_path: Path) -> None:
    source, slices = Plain(), folder(tmp_path)
    source.go.clear()
    asking = asyncio.create_task(slices.take(want_of(1), [source]))
    await asyncio.sleep(0.1)
    asking.cancel()
    # Who comes as the fetch is being ended gets one of its own.
    again = asyncio.create_task(slices.take(want_of(1), [source]))
    await asyncio.sleep(0.1)
    assert asking.cancelled() and not again.done()
    source.go.set()
    with await again as path:
        assert path.read_bytes() == body_of(1)
    assert source.opened == 2
    await slices.stop()


async def test_a_slice_that_rotted_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    source, slices = Plain(), folder(tmp_path)
    with await slices.take(want_of(1), [source]) as path:
        pass
    path.write_bytes(b"\xff" * SIZE)
    with await slices.take(want_of(1), [source]) as path:
        assert path.read_bytes() == body_of(1)
    assert source.opened == 2


async def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    source, slices = Plain(), folder(tmp_path, budget_bytes=3 * SIZE)
    for number in (1, 2, 3):
        (await slices.take(want_of(number), [source])).release()
    (await slices.take(want_of(1), [source])).release()  # Used again: not the oldest any more.
    (await slices.take(want_of(4), [source])).release()
    assert kept(tmp_path) == names(1, 3, 4)
    assert source.opened == 4


async def test_nothing_in_use_is_evicted_whatever_the_budget_says(tmp_path: Path) -> None:
    source, slices = Plain(), folder(tmp_path, budget_bytes=SIZE)
    held = [await slices.take(want_of(number), [source]) for number in (1, 2, 3)]
    assert kept(tmp_path) == names(1, 2, 3)
    for one in held[:2]:
        one.release()
        one.release()
    (await slices.take(want_of(4), [source])).release()
    assert kept(tmp_path) == names(3, 4)


async def test_a_part_that_nobody_fetches_any_more_is_evicted_too(tmp_path: Path) -> None:
    source, slices = Plain(), folder(tmp_path, budget_bytes=SIZE)
    (tmp_path / "slices").mkdir()
    stale = tmp_path / "slices" / f"{'0' * 64}.part"
    stale.write_bytes(b"x" * 500)
    foreign = tmp_path / "slices" / "notes.txt"
    foreign.write_bytes(b"not ours")
    (await slices.take(want_of(1), [source])).release()
    assert not stale.exists()
    assert foreign.exists()


async def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    source = Plain()
    with pytest.raises(Problem) as refused:
        await folder(tmp_path, free_bytes=2**62).take(want_of(1), [source])
    assert refused.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert "free 1000 bytes" in refused.value.hint
    assert source.opened == 0


async def test_a_folder_that_cannot_be_made_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "slices").write_text("a file stands here")
    with pytest.raises(Problem) as refused:
        await folder(tmp_path).take(want_of(1), [Plain()])
    assert "let this user write" in refused.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": "../../etc/passwd"},
        {"sha256": "A" * 64},
        {"digest": ""},
        {"size_bytes": 0},
        {"size_bytes": 2**50},
        {"start": 4},
        {"start": -1},
    ],
)
async def test_an_order_that_names_no_slice_touches_nothing(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    fields = {name: getattr(want_of(1), name) for name in SliceCard.__struct_fields__}
    with pytest.raises(Problem) as refused:
        await folder(tmp_path).take(SliceCard(**{**fields, **changed}), [Plain()])
    assert refused.value.code is ProblemCode.INVALID_REQUEST
    assert os.listdir(tmp_path) == []
