"""The slices of the catalogue's artefacts as the coordinator offers them: sizes, digests, bytes.

A slice is never written here: its layout says which new bytes and which ranges of the whole file it
is made of, and it is read from there. What it hashes to is remembered on disk by `slices`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import structs

from parhelion.models import slices
from parhelion.models.catalogue import Model
from parhelion.models.digests import file_digest
from parhelion.models.model_weight import ModelWeight
from parhelion.words import ModelCard, Problem, ProblemCode, Record

T = TypeVar("T")

HASHING_THREADS = 1
"""Files are hashed one after the other: two at once make a disk slower than one."""

REMEMBERED_SLICES = 4096
"""Cards in memory; a model of 61 layers has 1,891 slices, of which planners use a few dozen."""

LISTED_SLICES = 256
"""Of one artefact, beside those that pipelines hold: every plan of a day, in 40 kB of JSON."""


class Files(Protocol):
    """Where the whole files are: the catalogue."""

    def by_digest(self, digest: str) -> Model | None:
        """The model whose file has this sha256."""
        ...


class SliceCard(Record, frozen=True, kw_only=True):
    """What a slice must be when it has arrived: layers [start, end) of the artefact `digest`."""

    digest: str
    start: int
    end: int
    size_bytes: int
    sha256: str


Seen = tuple[int, int, int]
"""Size, time of change and inode of a whole file: how a replaced one is noticed."""


class Slice:
    """A slice that can be read: its card, and where its bytes are."""

    def __init__(self, card: SliceCard, layout: slices.Layout, path: Path, seen: Seen) -> None:
        self.card = card
        self._layout = layout
        self._path = path
        self._seen = seen

    def read(self, start_bytes: int, end_bytes: int, chunk_bytes: int) -> Iterator[bytes]:
        """Bytes [start, end) in chunks of at most so many; it reads the disk as it is asked.

        Problem ARTEFACT_UNAVAILABLE where the file is not what it was when the slice was opened.
        """
        if _seen(self.card.digest, self._path) != self._seen:
            raise _changed(self.card.digest)
        return self._layout.iterate(self._path, start_bytes, end_bytes, chunk_bytes)


class Artefact(Record, frozen=True, kw_only=True):
    """A whole file: its card, what its parts weigh, or why it is served whole only.

    `slices` are those of it whose digests are known: first those that pipelines hold, by their
    layers, then at most LISTED_SLICES others, the one that was asked for last first.
    """

    card: ModelCard
    weight: ModelWeight | None
    refusal: str | None = None
    slices: tuple[SliceCard, ...] = ()


class SliceBook:
    """Describes and opens slices of the catalogue's files, off the event loop."""

    def __init__(self, files: Files, cache: Path) -> None:
        self._files = files
        self._cache = cache
        self._artefacts: dict[str, tuple[Seen, Artefact]] = {}
        self._opening: dict[tuple[str, int, int, Seen], asyncio.Task[Slice]] = {}
        """In the order in which they were asked for last."""
        self._in_use: frozenset[tuple[str, int, int]] = frozenset()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="slices")

    async def artefact(self, digest: str) -> Artefact:
        """A whole file of the catalogue; Problem NOT_FOUND, or ARTEFACT_UNAVAILABLE."""
        card, path = self._found(digest)
        now = await asyncio.to_thread(_seen, digest, path)
        kept = self._artefacts.get(digest)
        if kept is None or kept[0] != now:
            kept = now, await asyncio.to_thread(_weighed, card, path)
            self._artefacts[digest] = kept
        return structs.replace(kept[1], slices=self._known(digest, now))

    def keep(self, in_use: Iterable[tuple[str, int, int]]) -> None:
        """These (digest, start, end) are held by pipelines: never forgotten, and listed first."""
        self._in_use = frozenset(in_use)

    async def describe(self, digest: str, start: int, end: int) -> SliceCard:
        """Size and sha256 of a slice; Problem NOT_FOUND, ARTEFACT_INVALID, ARTEFACT_UNAVAILABLE.

        The first time it is hashed whole, which takes as long as the disk does; not again.
        """
        return (await self.open(digest, start, end)).card

    async def open(self, digest: str, start: int, end: int) -> Slice:
        """The slice, to be read; Problem as `describe` raises it."""
        card, path = self._found(digest)
        if not 0 <= start < end <= card.layers:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"{card.id} has layers 0 to {card.layers - 1}: there is no slice {start}-{end}.",
                hint="write START-END: the first layer, and the one behind the last",
                param="layers",
            )
        now = await asyncio.to_thread(_seen, digest, path)
        key = (digest, start, end, now)
        opening = self._opening.pop(key, None)
        is_new = opening is None or (opening.done() and _failed(opening))
        if opening is None or is_new:
            opening = asyncio.create_task(self._open(key, path), name="slice-open")
        self._opening[key] = opening  # Behind all others: it was asked for last.
        if is_new:
            self._forget_oldest()
        # Shielded: who waits for the same one goes on waiting when another leaves.
        return await asyncio.shield(opening)

    def close(self) -> None:
        """Let go of whoever waits; a file that is being hashed is hashed to its end."""
        for opening in self._opening.values():
            opening.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _found(self, digest: str) -> tuple[ModelCard, Path]:
        model = self._files.by_digest(digest)
        if model is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"There is no artefact {digest[:64]!r} here.",
                hint="GET /v1/models names each model's digest",
                param="digest",
            )
        return model.card, Path(model.path)

    async def _open(self, key: tuple[str, int, int, Seen], path: Path) -> Slice:
        digest, start, end, now = key

        def make() -> Slice:
            if file_digest(path, self._cache) != digest:
                raise _changed(digest)
            layout = slices.layout(path, start, end)
            sha256 = slices.slice_sha256(path, layout, self._cache)
            size_bytes = layout.size_bytes
            card = SliceCard(
                digest=digest, start=start, end=end, size_bytes=size_bytes, sha256=sha256
            )
            return Slice(card, layout, path, now)

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _reading, digest, make)

    def _known(self, digest: str, now: Seen) -> tuple[SliceCard, ...]:
        cards = [
            opening.result().card
            for (whose, _start, _end, seen), opening in reversed(self._opening.items())
            if (whose, seen) == (digest, now) and opening.done() and not _failed(opening)
        ]
        held = [one for one in cards if (digest, one.start, one.end) in self._in_use]
        others = [one for one in cards if (digest, one.start, one.end) not in self._in_use]
        held.sort(key=lambda one: (one.start, one.end))
        return (*held, *others[:LISTED_SLICES])

    def _forget_oldest(self) -> None:
        free = [key for key in self._opening if key[:3] not in self._in_use]
        for key in free[: max(0, len(free) - REMEMBERED_SLICES)]:
            if self._opening[key].done():
                del self._opening[key]


def _weighed(card: ModelCard, path: Path) -> Artefact:
    try:
        return Artefact(card=card, weight=slices.weigh(path))
    except Problem as problem:
        if problem.code is ProblemCode.ARTEFACT_UNAVAILABLE:
            raise
        return Artefact(card=card, weight=None, refusal=problem.message)


def _seen(digest: str, path: Path) -> Seen:
    """What a file looks like now."""
    now = _reading(digest, path.stat)
    return now.st_size, now.st_mtime_ns, now.st_ino


def _failed(opening: asyncio.Task[Slice]) -> bool:
    return opening.cancelled() or opening.exception() is not None


def _reading(digest: str, work: Callable[[], T]) -> T:
    """What `work` gives; what the disk says of it as a Problem that names no path."""
    try:
        return work()
    except OSError as error:
        raise Problem(
            ProblemCode.ARTEFACT_UNAVAILABLE,
            f"the file of the artefact {digest} cannot be read: {error.strerror}",
            hint="its owner puts the file back",
        ) from error


def _changed(digest: str) -> Problem:
    return Problem(
        ProblemCode.ARTEFACT_UNAVAILABLE,
        f"the file of the artefact {digest} is not the one that was added",
        hint="its owner puts the file back, or adds the new one under an id of its own",
    )
