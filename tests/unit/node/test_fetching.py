"""One slice from several sources: resumed, verified, never more than promised."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parhelion.models import SliceCard
from parhelion.node import fetching
from parhelion.node.fetching import Progress, Standing, chosen, fetch_slice
from parhelion.node.sources import Arriving, SourceBroken, SourceWrong
from parhelion.words import Problem, ProblemCode

BODY = bytes(range(256)) * 40
BLOCK = 1000
WANT = SliceCard(
    digest="d" * 64,
    start=3,
    end=7,
    size_bytes=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
)


class Clock:
    """Real seconds; the waits of these tests are none."""

    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class Scripted:
    """A source that does at each opening what its script says."""

    by_network = True

    def __init__(self, name: str, *script: tuple[bytes, int | None, Exception | None]) -> None:
        self.name = name
        self.script = list(script)
        self.opened: list[int] = []

    @asynccontextmanager
    async def open(self, want: SliceCard, offset_bytes: int) -> AsyncGenerator[Arriving]:
        self.opened.append(offset_bytes)
        body, count, error = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        # None: it knows no ranges, and sends all of it again.
        first = 0 if count is None else offset_bytes
        sent = body[first : len(body) if count is None else first + count]
        yield Arriving(first, self._blocks(sent, error))

    async def _blocks(self, sent: bytes, error: Exception | None) -> AsyncGenerator[bytes]:
        for at in range(0, len(sent), BLOCK):
            yield sent[at : at + BLOCK]
        if error is not None:
            raise error


ALL = 10**9
GOOD = (BODY, ALL, None)
WRONG = (bytes(len(BODY)), ALL, None)
BROKEN = SourceBroken("the cable")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "backoff_s", lambda failures, jitter: 0.001 * failures)


async def fetch(path: Path, *sources: Scripted, deadline_s: float = 5.0) -> list[Progress]:
    seen: list[Progress] = []
    await fetch_slice(
        sources,
        WANT,
        path,
        clock=Clock(),
        jitter=lambda: 0.5,
        deadline_s=deadline_s,
        on_progress=seen.append,
    )
    assert await asyncio.to_thread(path.read_bytes) == BODY
    return seen


async def test_a_whole_slice_from_one_source(tmp_path: Path) -> None:
    source = Scripted("a", GOOD)
    seen = await fetch(tmp_path / "part", source)
    assert source.opened == [0]
    counts = [one.have_bytes for one in seen]
    assert counts == sorted(counts) and counts[-1] == len(BODY)
    assert {one.source for one in seen} == {"a"}


async def test_a_break_goes_on_where_it_ended_with_the_next_source(tmp_path: Path) -> None:
    first = Scripted("a", (BODY, 2500, BROKEN))
    second = Scripted("b", (BODY, 3000, BROKEN), GOOD)
    await fetch(tmp_path / "part", first, second)
    assert first.opened[0] == 0
    assert second.opened[0] == 2500
    assert 5500 in first.opened + second.opened, "bytes that were here came again"


async def test_a_source_that_ends_early_without_a_word_is_asked_for_the_rest(
    tmp_path: Path,
) -> None:
    source = Scripted("a", (BODY, 1, None), (BODY, 4000, None), GOOD)
    await fetch(tmp_path / "part", source)
    assert source.opened == [0, 1, 4001]


async def test_what_an_earlier_process_left_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(BODY[:7777])
    source = Scripted("a", GOOD)
    await fetch(tmp_path / "part", source)
    assert source.opened == [7777]


@pytest.mark.parametrize("left", [b"\xff" * 5000, b"\xff" * len(BODY), b"\xff" * (len(BODY) + 1)])
async def test_what_was_left_wrong_is_dropped_and_nobody_is_blamed(
    tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "part").write_bytes(left)
    source = Scripted("a", GOOD)
    await fetch(tmp_path / "part", source)
    assert source.opened[-1] == 0


async def test_a_source_without_ranges_sends_again_and_it_is_not_doubled(tmp_path: Path) -> None:
    source = Scripted("a", (BODY, 2500, BROKEN), (BODY, None, None))
    await fetch(tmp_path / "part", source)
    assert source.opened == [0, 2500]


async def test_wrong_bytes_are_never_used_and_their_source_is_left(tmp_path: Path) -> None:
    liar, honest = Scripted("liar", WRONG), Scripted("honest", GOOD)
    await fetch(tmp_path / "part", liar, honest)
    assert liar.opened == [0]
    assert honest.opened == [0]


class Slow(Scripted):
    """It takes longer than another's wait."""

    async def _blocks(self, sent: bytes, error: Exception | None) -> AsyncGenerator[bytes]:
        for at in range(0, len(sent), BLOCK):
            await asyncio.sleep(0.002)
            yield sent[at : at + BLOCK]


async def test_one_byte_from_a_liar_costs_one_more_transfer_and_not_the_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MOVED_BYTES", 1)
    monkeypatch.setattr(fetching, "backoff_s", lambda failures, jitter: 0.005)
    # Whose byte was wrong cannot be told of a mixture: then each gives a file of its own. The liar
    # is first again each time, and breaks again.
    liar = Scripted("liar", (b"\xff" * len(BODY), 1, BROKEN))
    honest = Slow("honest", GOOD)
    await fetch(tmp_path / "part", liar, honest)
    assert honest.opened == [1, 0]


async def test_more_bytes_than_promised_are_not_taken(tmp_path: Path) -> None:
    more = Scripted("more", (BODY + b"x" * 10**6, ALL, None))
    with pytest.raises(Problem) as refused:
        await fetch(tmp_path / "part", more)
    assert refused.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert "more bytes" in refused.value.message
    assert (tmp_path / "part").stat().st_size <= len(BODY)


async def test_where_no_source_has_it_each_says_why(tmp_path: Path) -> None:
    sources = [Scripted("a", (b"", 0, SourceWrong("it answers 404"))), Scripted("b", WRONG)]
    with pytest.raises(Problem) as refused:
        await fetch(tmp_path / "part", *sources)
    assert "a: it answers 404" in refused.value.message
    assert "b: what it sends is not the slice" in refused.value.message
    with pytest.raises(Problem) as refused:
        await fetch(tmp_path / "part")
    assert "no source was named" in refused.value.message


async def test_the_deadline_ends_it_and_what_came_stays(tmp_path: Path) -> None:
    source = Scripted("a", (BODY, 3000, BROKEN), (BODY, 0, BROKEN))
    with pytest.raises(Problem) as refused:
        await fetch(tmp_path / "part", source, deadline_s=0.2)
    assert "0.2 s" in refused.value.message and "the cable" in refused.value.message
    assert (tmp_path / "part").read_bytes() == BODY[:3000]


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free 10240 bytes"), (errno.EACCES, "let this user write")]
)
async def test_a_disk_that_does_not_take_it_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def refuse(self: object, block: bytes) -> None:
        raise OSError(number, "the disk says no")

    monkeypatch.setattr(fetching._Partial, "add", refuse)
    with pytest.raises(Problem) as refused:
        await fetch(tmp_path / "part", Scripted("a", GOOD))
    assert refused.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert "the disk says no" in refused.value.message
    assert hint in refused.value.hint


async def test_a_cancelled_fetch_leaves_what_came(tmp_path: Path) -> None:
    hang = asyncio.Event()

    class Hanging(Scripted):
        async def _blocks(self, sent: bytes, error: Exception | None) -> AsyncGenerator[bytes]:
            yield sent[:BLOCK]
            await hang.wait()

    task = asyncio.create_task(fetch(tmp_path / "part", Hanging("a", GOOD)))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (tmp_path / "part").read_bytes() == BODY[:BLOCK]


def test_the_next_source_is_the_first_that_may_be_asked() -> None:
    def standing(name: str, not_before_s: float, wrong: str | None = None) -> Standing:
        return Standing(Scripted(name), wrong=wrong, not_before_s=not_before_s)

    def name_of(*standings: Standing) -> str | None:
        one = chosen(standings, 10.0)
        return None if one is None else one.source.name

    assert name_of(standing("a", 0), standing("b", 5)) == "a"
    assert name_of(standing("a", 11), standing("b", 5)) == "b"
    assert name_of(standing("a", 12), standing("b", 11)) == "b"
    assert name_of(standing("a", 0, "wrong"), standing("b", 99)) == "b"
    assert name_of(standing("a", 0, "wrong")) is None
