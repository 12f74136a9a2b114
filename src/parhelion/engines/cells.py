"""Which KV cells the next ids may fill: those of ended sequences at once, or after compaction.

llama.cpp puts new ids into the lowest empty cells, and on a CPU it sums attention over a sequence's
cells in the order in which they lie. Were a cell below a running sequence's last one freed, that
sequence's next id would go there, and the last bits of its logits would differ from those of the
same text made alone. So on a CPU an ended sequence's cells stay taken (retired) until they are so
many that they slow the steps down; then all that is held moves together, in the same order.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

RETIRED_CELLS = 512
"""Retired cells are masked, but every row looks at them: 512 cost about 1 ms of a step of 55 ms at
8 streams. Moving 2,400 held cells costs 20 ms, once for about 60 such steps."""

RETIRED_SHARE = 0.25
"""Beyond 2,048 held ids moving costs more, so a freed cell pays for 4 moved ones at most."""


class Tidying(Enum):
    """What to do with the retired cells before the next step."""

    WAIT = "wait"
    FREE = "free"
    COMPACT = "compact"


def tidying(retired: int, held: int, rows: int, kv_tokens: int) -> Tidying:
    """The decision, before a step that adds `rows` ids to the `held` ones."""
    if retired == 0:
        return Tidying.WAIT
    if held == 0:
        return Tidying.FREE  # There is no sequence whose order could suffer.
    if held + retired + rows > kv_tokens:
        return Tidying.COMPACT
    is_costly = retired > max(RETIRED_CELLS, RETIRED_SHARE * held)
    return Tidying.COMPACT if is_costly else Tidying.WAIT


class Sequences(Protocol):
    """The KV operations of a context (see llama.Context)."""

    def drop(self, seq: int) -> None:
        """Forget a whole sequence; its cells are filled next."""
        ...

    def cut(self, seq: int, length: int) -> bool:
        """Keep only the first `length` ids; False where the memory cannot."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Share the first `length` ids with an empty sequence; False if that failed."""
        ...

    def length(self, seq: int) -> int:
        """How many ids of a sequence the memory holds."""
        ...

    def retire(self, seq: int, start: int) -> None:
        """Forget a sequence's ids from `start` on; their cells stay taken."""
        ...

    def free_retired(self) -> None:
        """The retired cells may be filled."""
        ...

    def compact(self) -> None:
        """Free the retired cells and close the gaps; each sequence's cells keep their order."""
        ...


class Cells(Protocol):
    """What becomes of cells that nobody reads any more: a rule over `Sequences`."""

    def drop(self, seq: int) -> None:
        """Forget a whole sequence."""
        ...

    def cut(self, seq: int, length: int) -> bool:
        """Keep only the first `length` ids; False where the memory cannot."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Share the first `length` ids with an empty sequence; False if that failed."""
        ...

    def tidy(self, held: int, rows: int) -> None:
        """Before a step that adds `rows` ids to the `held` ones."""
        ...


class FreedAtOnce:
    """For a GPU, whose sums depend on the batch's shape anyway: cells are filled as they come."""

    def __init__(self, sequences: Sequences) -> None:
        self.drop = sequences.drop
        self.cut = sequences.cut
        self.copy_prefix = sequences.copy_prefix

    def tidy(self, held: int, rows: int) -> None:
        """There is nothing to do."""


class KeptInOrder:
    """For a CPU: a sequence's cells always lie in the order of its ids, without empty ones below.

    A shared cell that one of its sequences gives up is counted as retired although it is not: the
    count is never too low, so the memory cannot run out.
    """

    def __init__(self, sequences: Sequences, kv_tokens: int) -> None:
        self._sequences = sequences
        self._kv_tokens = kv_tokens
        self._retired = 0
        self.copy_prefix = sequences.copy_prefix

    def drop(self, seq: int) -> None:
        """Forget a whole sequence."""
        self.cut(seq, 0)

    def cut(self, seq: int, length: int) -> bool:
        """Keep only the first `length` ids."""
        lost = self._sequences.length(seq) - length
        if lost > 0:
            self._sequences.retire(seq, length)
            self._retired += lost
        return self._sequences.length(seq) == length

    def tidy(self, held: int, rows: int) -> None:
        """Free or compact when it is time; raises if the memory did not come back whole."""
        decision = tidying(self._retired, held, rows, self._kv_tokens)
        if decision is Tidying.WAIT:
            return
        if decision is Tidying.FREE:
            self._sequences.free_retired()
        else:
            self._sequences.compact()
        self._retired = 0
