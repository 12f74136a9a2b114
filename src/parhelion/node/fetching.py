"""Fetching one slice: from several sources in turn, resumed where it broke, used only if right.

No source is believed. Never more bytes are taken than the slice has, and none is used before all
of them hash to what the coordinator promised. Where they do not, all are dropped: a source that
gave them alone is not asked again, and where several had a part each then gets a file of its own.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from parhelion.hosts import backoff_s
from parhelion.models import OffLoop, SliceCard
from parhelion.node.sources import Arriving, Source, SourceBroken, SourceWrong
from parhelion.words import Clock, Problem, ProblemCode

log = logging.getLogger("parhelion.node")

DEADLINE_S = 3600.0
"""As long as a fetch token is good: later nobody would serve it any more."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

REHASH_BYTES = 1024 * 1024

MOVED_BYTES = 1024 * 1024
"""A source that breaks after so much is asked again soon; one that brings less, ever later."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch has come, and from where the latest bytes came."""

    want: SliceCard
    have_bytes: int
    source: str
    by_network: bool


@dataclass(slots=True)
class Standing:
    """What is known of one source: why it is not asked again, or when it may be."""

    source: Source
    wrong: str | None = None
    failures: int = 0
    not_before_s: float = 0.0
    last_cause: str = ""


def chosen(standings: Sequence[Standing], now_s: float) -> Standing | None:
    """Who is asked next: of those not found wrong the one that may be asked first, in order."""
    left = [one for one in standings if one.wrong is None]
    return min(left, key=lambda one: max(now_s, one.not_before_s), default=None)


async def fetch_slice(
    sources: Sequence[Source],
    want: SliceCard,
    path: Path,
    *,
    clock: Clock,
    jitter: Callable[[], float],
    deadline_s: float = DEADLINE_S,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Let the file at `path` become the slice, whole and verified, from whatever is in it already.

    Problem ARTEFACT_UNAVAILABLE when no source has it, the deadline has passed, or the disk will
    not take it; what came stays there for the next try.
    """
    fetch = _Fetch(want, [Standing(one) for one in sources], clock, jitter, on_progress)
    limit = asyncio.timeout(deadline_s)
    try:
        async with limit:
            await fetch.run(path)
    except OSError as error:  # A TimeoutError is one too.
        if limit.expired():
            raise _unavailable(want, f"not all came within {deadline_s:g} s", fetch) from error
        raise disk_problem(path.parent, want, error) from error


class _Fetch:
    """One fetch under way: its file, and what is known of each source."""

    def __init__(
        self,
        want: SliceCard,
        standings: list[Standing],
        clock: Clock,
        jitter: Callable[[], float],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.standings = standings
        self._want = want
        self._clock = clock
        self._jitter = jitter
        self._on_progress = on_progress
        self._givers: list[Standing | None] = []
        """Who gave the bytes that are in the file; None is whoever did before this fetch."""
        self._alone = False
        """After a mixture was wrong: whose the bytes are must be plain."""

    async def run(self, path: Path) -> None:
        """Until the file is right; OSError is the disk's word."""
        thread = OffLoop()
        file = await thread.do(lambda: _Partial(path, self._want.size_bytes))
        try:
            self._givers = [None] if file.have_bytes else []
            while True:
                if file.have_bytes == self._want.size_bytes:
                    if file.sha256() == self._want.sha256:
                        await thread.do(file.keep)
                        return
                    self._blame()
                    await thread.do(file.drop)
                    self._givers = []
                await self._try_one(file, thread)
        finally:
            thread.end(file.close)

    async def _try_one(self, file: _Partial, thread: OffLoop) -> None:
        now_s = self._clock.monotonic_s()
        one = chosen(self.standings, now_s)
        if one is None:
            raise _unavailable(self._want, "no source has it", self)
        await asyncio.sleep(max(0.0, one.not_before_s - now_s))
        if self._alone and self._givers not in ([], [one]):
            await thread.do(file.drop)
            self._givers = []
        before_bytes = file.have_bytes
        try:
            async with one.source.open(self._want, before_bytes) as arriving:
                await self._take(one, arriving, file, thread)
            cause, retry_after_s = "it ended early", 0.0
        except SourceWrong as error:
            one.wrong = one.last_cause = error.cause
            log.warning("a source of a slice is left", extra=self._about(one))
            return
        except SourceBroken as error:
            cause, retry_after_s = error.cause, error.retry_after_s
        if file.have_bytes == self._want.size_bytes:
            return
        moved = file.have_bytes - before_bytes >= MOVED_BYTES
        one.failures = 0 if moved else one.failures + 1
        one.last_cause = cause
        wait_s = max(retry_after_s, backoff_s(one.failures, self._jitter()))
        one.not_before_s = self._clock.monotonic_s() + wait_s
        log.info("a source of a slice broke", extra=self._about(one))

    async def _take(
        self, one: Standing, arriving: Arriving, file: _Partial, thread: OffLoop
    ) -> None:
        # A source that knows no ranges sends again what is here.
        skip_bytes = file.have_bytes - arriving.offset_bytes
        async for whole in arriving.blocks:
            block = whole[skip_bytes:] if skip_bytes > 0 else whole
            skip_bytes -= len(whole) - len(block)
            if file.have_bytes + len(block) > self._want.size_bytes:
                raise SourceWrong("it sends more bytes than the slice has")
            if not block:
                continue
            if one not in self._givers:
                self._givers.append(one)
            await thread.do(partial(file.add, block))
            if self._on_progress is not None:
                self._on_progress(
                    Progress(self._want, file.have_bytes, one.source.name, one.source.by_network)
                )

    def _blame(self) -> None:
        """All bytes are here, and they are not the slice."""
        if len(self._givers) == 1 and (one := self._givers[0]) is not None:
            one.wrong = one.last_cause = "what it sends is not the slice"
            log.warning("a source of a slice is left", extra=self._about(one))
        self._alone = True

    def _about(self, one: Standing) -> dict[str, object]:
        return {"sha256": self._want.sha256, "source": one.source.name, "cause": one.last_cause}


class _Partial:
    """The bytes that have come, in a file, and the hash over them; it does its work in threads."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.have_bytes = 0
        # Without a buffer of its own: what is counted is in the file, also when we are killed.
        self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        self._hash = hashlib.sha256()
        try:
            while block := self._file.read(REHASH_BYTES):
                self._hash.update(block)
                self.have_bytes += len(block)
            if self.have_bytes > limit_bytes:
                self.drop()
        except BaseException:
            self._file.close()
            raise

    def sha256(self) -> str:
        """Of the bytes that are here."""
        return self._hash.hexdigest()

    def add(self, block: bytes) -> None:
        """Put a block behind the others."""
        left = memoryview(block)
        while left:
            count = self._file.write(left)
            self._hash.update(left[:count])
            self.have_bytes += count
            left = left[count:]

    def drop(self) -> None:
        """Forget all of it."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.have_bytes = 0

    def keep(self) -> None:
        """See that it is on the disk and not only on its way there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def disk_problem(folder: Path, want: SliceCard, error: OSError) -> Problem:
    """What the disk says, and what to do about it."""
    hint = f"let this user write to {folder}, or name another data folder with --data"
    if error.errno in FULL:
        hint = f"free {want.size_bytes} bytes on the disk of {folder}"
    return Problem(
        ProblemCode.ARTEFACT_UNAVAILABLE,
        f"layers {want.start}-{want.end - 1} cannot be kept: {error.strerror or error}",
        hint=hint,
    )


def _unavailable(want: SliceCard, why: str, fetch: _Fetch) -> Problem:
    causes = "; ".join(
        f"{one.source.name}: {one.last_cause or 'not asked yet'}" for one in fetch.standings
    )
    return Problem(
        ProblemCode.ARTEFACT_UNAVAILABLE,
        f"layers {want.start}-{want.end - 1} of the artefact {want.digest[:12]} cannot be fetched: "
        f"{why} ({causes or 'no source was named'})",
        hint="the coordinator's log says more; a file of the whole model here is a source too",
    )
