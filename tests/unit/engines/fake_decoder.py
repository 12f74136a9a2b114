"""A decoder without a model: the next id is a hash of the sequence's whole KV content.

It checks what llama.cpp would abort on: positions without gaps, and the size of its memory.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 64


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
        self.cells = cells
        self.content: dict[int, list[int]] = {}
        self.broken_seq = -1
        self.decoded = 0
        self._rows: list[NDArray[np.float32]] = []

    def decode(self, batch: FakeBatch) -> int:
        self._rows = []
        for seq, position, id, wanted in batch.rows:
            ids = self.content.setdefault(seq, [])
            assert position == len(ids), f"sequence {seq} goes on at {position}, not {len(ids)}"
            ids.append(id)
            if wanted:
                self._rows.append(self._row(seq, ids))
        self.decoded += len(batch.rows)
        assert sum(map(len, self.content.values())) <= self.cells, "out of KV cells"
        return 0

    def logits(self, rows: int) -> NDArray[np.float32]:
        assert rows == len(self._rows)
        return np.stack(self._rows)

    def drop(self, seq: int) -> None:
        self.content.pop(seq, None)

    def cut(self, seq: int, length: int) -> bool:
        del self.content[seq][length:]
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        assert not self.content.get(target)
        self.content[target] = self.content[source][:length]
        return True

    def _row(self, seq: int, ids: list[int]) -> NDArray[np.float32]:
        row = np.zeros(VOCABULARY, np.float32)
        row[expected_next(ids)] = 1.0
        return row if seq != self.broken_seq else np.full(VOCABULARY, np.nan, np.float32)


def expected_next(ids: list[int]) -> int:
    """Never 0, which is end-of-text in these tests."""
    return 1 + zlib.crc32(bytes(ids)) % (VOCABULARY - 1)
