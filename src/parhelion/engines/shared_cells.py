"""Which sequences have KV cells in common, so that these can be moved together; pure.

Sequences share whole prefixes only: one is begun as a copy of another's first ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Run(NamedTuple):
    """Ids [start, end), whose cells all of these sequences read, and nobody else."""

    seqs: tuple[int, ...]
    start: int
    end: int


class SharedCells:
    """How many leading ids two sequences have in common cells."""

    def __init__(self) -> None:
        self._lengths: dict[int, dict[int, int]] = {}

    def copied(self, source: int, target: int, length: int) -> None:
        """The empty sequence `target` reads the first `length` ids of `source`."""
        self.cut(target, 0)
        for other, common in [*self._lengths.get(source, {}).items(), (source, length)]:
            if min(common, length) > 0:
                self._lengths.setdefault(target, {})[other] = min(common, length)
                self._lengths.setdefault(other, {})[target] = min(common, length)

    def cut(self, seq: int, length: int) -> None:
        """It keeps its first `length` ids at most."""
        for other, common in list(self._lengths.get(seq, {}).items()):
            if length > 0:
                self._lengths[seq][other] = self._lengths[other][seq] = min(common, length)
            else:
                del self._lengths[seq][other], self._lengths[other][seq]
        self._lengths = {one: others for one, others in self._lengths.items() if others}

    def clear(self) -> None:
        """All are empty."""
        self._lengths.clear()

    def runs(self, lengths: Sequence[int]) -> Iterator[Run]:
        """All that is held by sequences of these lengths, once; of each in the order of its ids."""
        for seq, length in enumerate(lengths):
            common = self._lengths.get(seq, {})
            start = 0
            for end in sorted({*common.values(), length}):
                sharing = sorted((seq, *(one for one in common if common[one] >= end)))
                # The lowest of those that share it moves it, before it comes to what is its own.
                if start < end <= length and sharing[0] == seq:
                    yield Run(tuple(sharing), start, end)
                start = end
