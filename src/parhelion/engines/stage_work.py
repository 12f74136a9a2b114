"""One job's place in a stage: what it holds, how far it is read, and until when it may stay."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parhelion.engines.hidden import Entry
from parhelion.engines.work import Generation
from parhelion.words import TAG_BLOCK_IDS, StageJob

TAG_BYTES = 8

TAGGED = "tagged"
"""Tags are keyed per account already, so they need no scope of their own."""

NOT_YET, NOWHERE = 0, 1
"""Stand-ins for ids that no tag names: of those that are asked for, and of those that are held.
A tag is as likely to be one of them as two tags are to be equal by chance."""

PAST_LIMIT = 4096
"""Closed jobs that are remembered, so that a late frame of theirs is no stranger's."""

GRACE_S = 5.0
"""A frame may overtake its job's opening by what two links differ in delay."""

GRACE_ENTRIES = 64
GRACE_BYTES = 16 * 1024 * 1024
"""A few jobs' first rows; an honest pipeline has opened a job everywhere before it begins."""


class StageWork:
    """A job as a KvMemory's tenant whose ids need not be known: their blocks' tags stand for them.

    `fed` rows are in the KV memory. `generation` has the ids at the first and the last stage.
    """

    def __init__(self, job: StageJob, generation: Generation | None, now_s: float) -> None:
        self.key = (job.job, job.attempt)
        self.generation = generation
        self.capacity = job.capacity
        self.scope = ""
        self.ids: NDArray[np.uint64] = np.empty(job.capacity + 1, np.uint64)
        self.tag(job.tags)
        self.size = TAG_BLOCK_IDS * len(job.tags) + 1
        self.ids[self.size - 1] = NOT_YET
        self.fed = 0
        self.cached = 0
        self.seq = -1
        self.begun = False
        self.ended = False
        self.turn = 0
        self.queued_to = 0
        self.stepped_s = now_s
        # The first stage's: when its latest step as a decoding sequence began, and how it was cut.
        self.left_s = now_s
        self.left: tuple[int, int] | None = None

    def tag(self, tags: tuple[bytes, ...]) -> None:
        """What is held goes by these tags from now on."""
        named = TAG_BLOCK_IDS * len(tags)
        self.scope = TAGGED if tags else ""
        self.ids[:named] = np.repeat(np.frombuffer(b"".join(tags), "<u8"), TAG_BLOCK_IDS)
        self.ids[named:] = NOWHERE

    def held(self) -> NDArray[np.uint64]:
        """The stand-ins of what is in the KV memory."""
        return self.ids[: self.fed]

    def holds_of_prefix(self) -> int:
        """How many leading ids need not be read again: whole blocks, never the last id."""
        known = self.fed if self.generation is None else min(self.fed, self.generation.size - 1)
        return known - known % TAG_BLOCK_IDS

    def resume(self, now_s: float) -> None:
        """The job begins, behind what is held of it."""
        self.begun = True
        self.cached = self.fed
        self.advance(0, now_s)
        if self.generation is not None:
            self.generation.cached = self.fed

    @property
    def remaining(self) -> int:
        """At a stage that knows the ids: how many are not yet in the KV memory."""
        assert self.generation is not None
        return self.generation.size - self.fed

    def advance(self, count: int, now_s: float) -> None:
        """So many rows more are in the KV memory: the job goes on, and so does its lease."""
        self.fed += count
        self.stepped_s = now_s
        if self.generation is not None:
            self.generation.fed = self.fed


@dataclass(slots=True)
class Piece:
    """What one step does for one job: `rows` are hidden states, or none where ids are known."""

    work: StageWork
    count: int
    wants: bool
    rows: list[NDArray[np.float32]] = field(default_factory=lambda: [])

    def entry(self) -> Entry:
        """Before the step, as it will stand in the frame behind it."""
        return Entry(*self.work.key, self.work.fed, self.count, self.wants)


@dataclass(slots=True)
class Flight:
    """A micro-batch that is on its way round the ring: until where each job is to come back.

    `left_s` is when its step began here; `streams` how many sequences decoded in it, `bare` that
    there was nothing beside them.
    """

    decoding: dict[tuple[str, int], int]
    prefilling: dict[tuple[str, int], int]
    left_s: float
    streams: int = field(init=False)
    bare: bool = field(init=False)

    def __post_init__(self) -> None:
        self.streams, self.bare = len(self.decoding), not self.prefilling

    def land(self, key: tuple[str, int], position: int) -> None:
        """The last stage has read so far."""
        for part in (self.decoding, self.prefilling):
            if part.get(key, POSITION_BEYOND) <= position:
                del part[key]

    @property
    def out(self) -> bool:
        """Sequences decode in it, none of which is back: they come back together.

        One of them that failed on the way, and is not closed here yet, must not hold up the others.
        """
        return len(self.decoding) == self.streams > 0

    @property
    def landed(self) -> bool:
        """Nothing of it is under way."""
        return not self.decoding and not self.prefilling


POSITION_BEYOND = 2**31
"""Past every position that a frame can name (hidden.POSITION_LIMIT)."""


class Past:
    """The latest keys that are over, at most PAST_LIMIT."""

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[str, int], None] = OrderedDict()

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._keys

    def add(self, key: tuple[str, int]) -> None:
        """It is over."""
        self._keys[key] = None
        while len(self._keys) > PAST_LIMIT:
            self._keys.popitem(last=False)


Early = tuple[float, Entry, NDArray[np.float32]]


class Grace:
    """Rows of jobs that are not open yet: few, and not for long."""

    def __init__(self) -> None:
        self._early: deque[Early] = deque()
        self._bytes = 0

    def put(self, entry: Entry, rows: NDArray[np.float32], now_s: float) -> bool:
        """Keep them for a while; False where there is no room."""
        if len(self._early) >= GRACE_ENTRIES or self._bytes + rows.nbytes > GRACE_BYTES:
            return False
        # A copy: a view would keep the whole frame, also its neighbours' rows.
        self._early.append((now_s, entry, rows.copy()))
        self._bytes += rows.nbytes
        return True

    def take(self, key: tuple[str, int]) -> list[Early]:
        """The job is open now: its rows, in their order."""
        return self._remove(one for one in self._early if one[1].key == key)

    def expire(self, now_s: float) -> list[Early]:
        """Whose job was not opened in time."""
        return self._remove(one for one in self._early if now_s - one[0] > GRACE_S)

    def _remove(self, chosen: Iterable[Early]) -> list[Early]:
        found = list(chosen)
        for one in found:
            self._bytes -= one[2].nbytes
        gone = {id(one) for one in found}
        self._early = deque(one for one in self._early if id(one) not in gone)
        return found
