"""A decoder without a model: the next id is a hash of the sequence's whole KV content.

It places ids as llama.cpp does, in the lowest empty cells, and counts every id that came to lie
below an earlier one of its sequence. It checks what llama.cpp would abort on: positions without
gaps, and the size of its memory.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 64

NOBODY = -1
"""The sequence that holds retired cells."""


class FakeBatch:
    def __init__(self, capacity: int = 512) -> None:
        self.capacity = capacity
        self.size = 0
        self.rows: list[tuple[int, int, int, bool]] = []

    def clear(self) -> None:
        self.size = 0
        self.rows = []

    def add(self, seq: int, start: int, ids: NDArray[np.int32] | int, wanted_from: int) -> None:
        many = [ids] if isinstance(ids, int) else ids.tolist()
        for offset, id in enumerate(many):
            self.rows.append((seq, start + offset, id, start + offset >= wanted_from))
        self.size = len(self.rows)
        assert self.size <= self.capacity


class FakeDecoder:
    def __init__(self, cells: int = 10_000) -> None:
        self.cells: list[set[int]] = [set() for _ in range(cells)]
        self.at: dict[int, list[int]] = {}
        self.content: dict[int, list[int]] = {}
        self.broken_seq = -1
        self.decoded = 0
        self.disordered = 0
        self.compactions = 0
        self.settled = 0
        self._rows: list[NDArray[np.float32]] = []

    @property
    def retired(self) -> int:
        return sum(NOBODY in readers for readers in self.cells)

    def decode(self, batch: FakeBatch) -> int:
        self._rows = []
        empty = iter([cell for cell, readers in enumerate(self.cells) if not readers])
        for seq, position, id, wanted in batch.rows:
            ids = self.content.setdefault(seq, [])
            assert position == len(ids), f"sequence {seq} goes on at {position}, not {len(ids)}"
            ids.append(id)
            self._place(seq, next(empty, None))
            if wanted:
                self._rows.append(self._row(seq, ids))
        self.decoded += len(batch.rows)
        return 0

    def logits(self, rows: int) -> NDArray[np.float32]:
        assert rows == len(self._rows)
        return np.stack(self._rows)

    def settle(self) -> None:
        self.settled += 1

    def drop(self, seq: int) -> None:
        self._leave(seq, 0)

    def cut(self, seq: int, length: int) -> bool:
        self._leave(seq, length)
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        assert not self.content.get(target)
        self.content[target] = self.content[source][:length]
        self.at[target] = self.at[source][:length]
        for cell in self.at[target]:
            self.cells[cell].add(target)
        return True

    def length(self, seq: int) -> int:
        return len(self.content.get(seq, ()))

    def retire(self, seq: int, start: int) -> None:
        for cell in self.at.get(seq, [])[start:]:
            self.cells[cell].add(NOBODY)
        self._leave(seq, start)

    def free_retired(self) -> None:
        for readers in self.cells:
            readers.discard(NOBODY)

    def compact(self) -> None:
        self.free_retired()
        taken = [cell for cell, readers in enumerate(self.cells) if readers]
        moved = {old: new for new, old in enumerate(taken)}
        readers = [self.cells[old] for old in taken]
        self.cells = readers + [set() for _ in range(len(self.cells) - len(taken))]
        self.at = {seq: [moved[cell] for cell in cells] for seq, cells in self.at.items()}
        self.compactions += 1

    def _place(self, seq: int, cell: int | None) -> None:
        assert cell is not None, "out of KV cells"
        cells = self.at.setdefault(seq, [])
        self.disordered += bool(cells and cell < cells[-1])
        cells.append(cell)
        self.cells[cell].add(seq)

    def _leave(self, seq: int, length: int) -> None:
        for cell in self.at.get(seq, [])[length:]:
            self.cells[cell].discard(seq)
        for held in (self.at, self.content):
            del held.get(seq, [])[length:]
            if not held.get(seq):
                held.pop(seq, None)

    def _row(self, seq: int, ids: list[int]) -> NDArray[np.float32]:
        row = np.zeros(VOCABULARY, np.float32)
        row[expected_next(ids)] = 1.0
        return row if seq != self.broken_seq else np.full(VOCABULARY, np.nan, np.float32)


def expected_next(ids: list[int]) -> int:
    """Never 0, which is end-of-text in these tests."""
    return 1 + zlib.crc32(bytes(ids)) % (VOCABULARY - 1)
