"""Who has which sequence of the KV memory: running work, and finished prefixes kept for reuse.

Every sequence is accounted with all its ids, shared or not, so the memory can never run out in
the middle of a step. Finished sequences stay parked until their room is needed, oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from parhelion.engines.cells import Cells, FreedAtOnce, KeptInOrder, Sequences
from parhelion.engines.plan import SHORTEST_REUSE, Held, Reuse, reusable

CROWD_STREAMS = 4
"""Beside more streams than this, what kept prefixes cost every step outweighs what they save."""


class Tenant(Protocol):
    """Whom a sequence can be given (see work.Work); `ids` may be stand-ins that compare alike."""

    scope: str
    ids: NDArray[Any]
    size: int
    capacity: int
    fed: int
    cached: int
    seq: int

    def held(self) -> NDArray[Any]:
        """The ids in the KV memory."""
        ...


class Bounds(Protocol):
    """What a loop may use of its context's memory, and how that frees."""

    @property
    def kv_tokens(self) -> int:
        """Ids over all sequences."""
        ...

    @property
    def parked_tokens(self) -> int:
        """Of them kept for reuse."""
        ...

    @property
    def crowded_tokens(self) -> int:
        """The same while many streams run."""
        ...

    @property
    def sequences(self) -> int:
        """Of the context."""
        ...

    @property
    def keeps_order(self) -> bool:
        """Cells are used in order, and freed at the end only."""
        ...


class KvMemory:
    """Seats work in sequences, within `kv_tokens` ids over all of them.

    At most `parked_tokens` are kept for reuse, `crowded_tokens` of them while more than
    CROWD_STREAMS run, and the latest sequence however long it is.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        kv_tokens: int,
        parked_tokens: int,
        crowded_tokens: int,
        sequences: int,
        can_rewind: bool,
    ) -> None:
        self._cells = cells
        self._parked_limit = parked_tokens
        self._crowded_limit = crowded_tokens
        self._kv_tokens = kv_tokens
        self._can_rewind = can_rewind
        self._free = list(range(sequences - 1, -1, -1))
        self._running: dict[int, Tenant] = {}
        self._parked: OrderedDict[int, Held] = OrderedDict()

    @classmethod
    def within(cls, bounds: Bounds, decoder: Sequences, *, can_rewind: bool) -> Self:
        """The memory of `decoder`'s context."""
        in_order = bounds.keeps_order
        return cls(
            KeptInOrder(decoder, bounds.kv_tokens) if in_order else FreedAtOnce(decoder),
            kv_tokens=bounds.kv_tokens,
            parked_tokens=bounds.parked_tokens,
            crowded_tokens=bounds.crowded_tokens,
            sequences=bounds.sequences,
            can_rewind=can_rewind,
        )

    def seat(self, work: Tenant) -> bool:
        """Give `work` a sequence, with what of its ids is there already; False: not now."""
        reserved = sum(one.capacity for one in self._running.values())
        if reserved + work.capacity > self._kv_tokens:
            return False
        reuse = self._find(work)
        if reuse is not None and not reuse.take_over and not self._fits(work, reserved, reuse.seq):
            # Keeping the source beside its copy would not fit: the parked one gives way.
            parked = reuse.seq in self._parked
            reuse = Reuse(reuse.seq, reuse.length, True) if parked else None
        if reuse is not None and reuse.take_over:
            self._take_over(work, reuse)
        self._evict(work.capacity + reserved, reuse.seq if reuse is not None else -1)
        if work.seq < 0:
            work.seq = self._free.pop()
            if reuse is not None and not reuse.take_over:
                self._copy(work, reuse)
        self._running[work.seq] = work
        self._trim()
        return True

    def cut(self, work: Tenant, length: int) -> bool:
        """Keep only the first `length` ids of running work; False where the memory cannot."""
        if work.fed == length:
            return True
        if work.fed < length or not self._cells.cut(work.seq, length):
            return False
        work.fed = length
        return True

    def release(self, work: Tenant) -> None:
        """The work has ended: park its ids for reuse, or forget them."""
        del self._running[work.seq]
        if work.scope and self._can_rewind and work.fed >= SHORTEST_REUSE:
            held = Held(work.seq, work.scope, work.held().copy(), parked=True)
            self._parked[work.seq] = held
            self._trim()
            return
        self._forget(work.seq)

    def tidy(self, rows: int) -> None:
        """Make sure that a step of `rows` ids finds its cells, and not too many that are unread."""
        running = sum(one.fed for one in self._running.values())
        self._cells.tidy(running + self.parked_tokens(), rows)

    def evict_all(self) -> None:
        """Forget every parked sequence, and free what no running one holds."""
        while self._parked:
            self._forget(self._parked.popitem(last=False)[0])
        self.tidy(self._kv_tokens)

    def parked_tokens(self) -> int:
        """Ids kept for reuse."""
        return sum(len(held.ids) for held in self._parked.values())

    def _trim(self) -> None:
        """Keep what may be kept beside so many streams, the latest in any case."""
        crowded = len(self._running) > CROWD_STREAMS
        limit = self._crowded_limit if crowded else self._parked_limit
        while len(self._parked) > 1 and self.parked_tokens() > limit:
            self._forget(self._parked.popitem(last=False)[0])

    def _find(self, work: Tenant) -> Reuse | None:
        if not work.scope or not self._can_rewind:
            return None
        return reusable(work.ids[: work.size], work.scope, tuple(self._all_held()))

    def _all_held(self) -> Iterable[Held]:
        yield from self._parked.values()
        for seq, one in self._running.items():
            yield Held(seq, one.scope, one.held(), parked=False)

    def _fits(self, work: Tenant, reserved: int, source: int) -> bool:
        kept = self._parked.get(source)
        return reserved + work.capacity + (len(kept.ids) if kept else 0) <= self._kv_tokens

    def _take_over(self, work: Tenant, reuse: Reuse) -> None:
        del self._parked[reuse.seq]
        if self._cells.cut(reuse.seq, reuse.length):
            work.seq, work.fed, work.cached = reuse.seq, reuse.length, reuse.length
        else:
            self._forget(reuse.seq)

    def _copy(self, work: Tenant, reuse: Reuse) -> None:
        if self._cells.copy_prefix(reuse.seq, work.seq, reuse.length):
            work.fed = work.cached = reuse.length
            if reuse.seq in self._parked:
                self._parked.move_to_end(reuse.seq)
        else:
            self._cells.drop(work.seq)

    def _evict(self, needed: int, spared: int) -> None:
        """Forget parked sequences, oldest first, until ids and a sequence are there."""
        for seq in list(self._parked):
            enough = needed + self.parked_tokens() <= self._kv_tokens and self._free
            if enough:
                return
            if seq != spared:
                del self._parked[seq]
                self._forget(seq)

    def _forget(self, seq: int) -> None:
        self._cells.drop(seq)
        self._free.append(seq)
