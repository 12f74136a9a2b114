"""The slices that this node keeps: found, cut or fetched once, held while in use, evicted by age.

Files are named by what they must hash to. One is verified each time it is taken: what it hashed to
is remembered by size, time of change and inode, so it is read once. What is wrong is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from parhelion.models import SliceCard
from parhelion.models.digests import file_digest
from parhelion.node.fetching import DEADLINE_S, Progress, disk_problem, fetch_slice
from parhelion.node.sources import Source
from parhelion.words import Clock, Problem, ProblemCode

log = logging.getLogger("parhelion.node")

BUDGET_BYTES = 64 * 1024**3
"""What slices that nobody uses may take of the disk: two or three of the largest that machines with
64 GiB hold, so that a re-planned pipeline finds its former layers."""

FREE_BYTES = 512 * 1024**2
"""What a fetch leaves free of the disk: the data folder's database and logs are on it too."""

SIZE_LIMIT_BYTES = 1024**4
"""The largest open models have less in all their layers."""

WHOLE, PART = ".gguf", ".part"
_DIGEST = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{64}\.(gguf|part)")


class Held:
    """A slice in use: its file stays until `release`, or the end of a `with`."""

    def __init__(self, path: Path, let_go: Callable[[], None]) -> None:
        self.path = path
        self._let_go: Callable[[], None] | None = let_go

    def release(self) -> None:
        """It is not used any more; a second call changes nothing."""
        if self._let_go is not None:
            self._let_go()
        self._let_go = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class SliceFolder:
    """Slices in one folder of one node; two processes must not share it (identity.lock_node)."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        budget_bytes: int = BUDGET_BYTES,
        free_bytes: int = FREE_BYTES,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._budget_bytes = budget_bytes
        self._free_bytes = free_bytes
        self._jitter = jitter
        self._used: Counter[str] = Counter()
        self._making: dict[str, asyncio.Task[None]] = {}

    async def take(
        self,
        want: SliceCard,
        sources: Sequence[Source],
        *,
        deadline_s: float = DEADLINE_S,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Held:
        """The slice's file, verified, from here or from the sources; Problem as `fetch_slice`.

        Who asks for one that is being fetched waits for that fetch: its sources and its deadline
        count. A fetch that nobody waits for any more is ended; what came stays for the next.
        """
        check_card(want)
        name = want.sha256
        self._used[name] += 1
        try:
            while True:
                making = self._making.get(name)
                if making is None:
                    work = self._make(want, sources, deadline_s, on_progress)
                    making = self._making[name] = asyncio.create_task(work, name="slice-fetch")
                    making.add_done_callback(lambda done: self._made(name, done))
                await asyncio.wait([making])
                if not making.cancelled():
                    making.result()
                    return Held(self._path(name), lambda: self._let_go(name))
                # Whoever asked before left as we came: ours is another fetch.
        except BaseException as error:
            self._let_go(name)
            making = self._making.get(name)
            if isinstance(error, asyncio.CancelledError) and making and not self._used[name]:
                making.cancel()
            raise

    async def lend(self, want: SliceCard) -> Held | None:
        """The slice's file where it is here; Problem for what no slice can be.

        It is not hashed again: whoever it is for would wait for that, and hashes it in any case.
        """
        check_card(want)
        name = want.sha256
        held = Held(self._path(name), lambda: self._let_go(name))
        self._used[name] += 1
        try:
            if await asyncio.to_thread(_size_bytes, held.path) == want.size_bytes:
                return held
        except BaseException:
            held.release()
            raise
        held.release()
        return None

    async def stop(self) -> None:
        """End every fetch."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        if making:
            await asyncio.wait(making)

    async def _make(
        self,
        want: SliceCard,
        sources: Sequence[Source],
        deadline_s: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        whole, part = self._path(want.sha256), self._path(want.sha256, PART)
        try:
            if await asyncio.to_thread(self._verified, whole, want):
                return
            await asyncio.to_thread(self._make_room, want, frozenset(self._used))
        except OSError as error:
            raise disk_problem(self._folder, want, error) from error
        await fetch_slice(
            sources,
            want,
            part,
            clock=self._clock,
            jitter=self._jitter,
            deadline_s=deadline_s,
            on_progress=on_progress,
        )
        try:
            await asyncio.to_thread(os.replace, part, whole)
            await asyncio.to_thread(_touch, whole, self._clock.now_ms())
        except OSError as error:
            raise disk_problem(self._folder, want, error) from error

    def _verified(self, whole: Path, want: SliceCard) -> bool:
        """Whether it is here and right; deletes one that is not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not whole.exists():
            return False
        if file_digest(whole, self._folder) == want.sha256:
            _touch(whole, self._clock.now_ms())
            return True
        log.warning("a slice on this disk has changed: deleted", extra={"sha256": want.sha256})
        whole.unlink()
        return False

    def _make_room(self, want: SliceCard, used: frozenset[str]) -> None:
        """Delete what was not used for longest, until budget and disk have room; OSError ENOSPC."""
        needed_bytes = want.size_bytes - _size_bytes(self._path(want.sha256, PART))
        kept = sorted(
            (path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)),
            key=lambda path: path.stat().st_atime_ns,
        )
        kept_bytes = sum(_size_bytes(path) for path in kept)
        for path in kept:
            free_bytes = shutil.disk_usage(self._folder).free - self._free_bytes
            if kept_bytes + needed_bytes <= self._budget_bytes and needed_bytes <= free_bytes:
                return
            if path.stem in used:
                continue
            kept_bytes -= _size_bytes(path)
            path.unlink()
            log.info("a slice was deleted for another", extra={"sha256": path.stem})
        if needed_bytes > shutil.disk_usage(self._folder).free - self._free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _made(self, name: str, done: asyncio.Task[None]) -> None:
        if self._making.get(name) is done:
            del self._making[name]
        if not done.cancelled():
            done.exception()  # Whoever waits is told; where nobody does, nobody needs to know.

    def _let_go(self, name: str) -> None:
        self._used[name] -= 1
        if not self._used[name]:
            del self._used[name]

    def _path(self, name: str, suffix: str = WHOLE) -> Path:
        return self._folder / f"{name}{suffix}"


def check_card(want: SliceCard) -> None:
    """Problem INVALID_REQUEST for what no slice can be: its sha256 becomes a file's name."""
    digests = (want.digest, want.sha256)
    if not all(_DIGEST.fullmatch(digest) for digest in digests) or not (
        0 <= want.start < want.end and 0 < want.size_bytes <= SIZE_LIMIT_BYTES
    ):
        raise Problem(ProblemCode.INVALID_REQUEST, "this order names no slice that there can be")


def _touch(path: Path, now_ms: int) -> None:
    """Note that it is used now. Its time of change stays: by that its digest is remembered."""
    os.utime(path, ns=(now_ms * 1_000_000, path.stat().st_mtime_ns))


def _size_bytes(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
