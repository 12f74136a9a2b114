from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.engines.cells import (
    RETIRED_CELLS,
    RETIRED_SHARE,
    FreedAtOnce,
    KeptInOrder,
    Tidying,
    tidying,
)

counts = st.integers(0, 20_000)


@given(counts, counts, st.integers(0, 63), counts)
def test_a_step_always_finds_its_cells_once_it_is_tidied(
    retired: int, held: int, rows: int, kv_tokens: int
) -> None:
    waits = tidying(retired, held, rows, kv_tokens) is Tidying.WAIT
    assert not waits or retired == 0 or held + retired + rows <= kv_tokens


@given(counts, counts)
def test_retired_cells_stay_few_beside_what_is_held(retired: int, held: int) -> None:
    if tidying(retired, held, 1, 100_000) is Tidying.WAIT:
        assert retired <= max(RETIRED_CELLS, RETIRED_SHARE * held)


@pytest.mark.parametrize(
    ("retired", "held", "expected"),
    [
        (0, 5000, Tidying.WAIT),
        (RETIRED_CELLS, 100, Tidying.WAIT),
        (RETIRED_CELLS + 1, 100, Tidying.COMPACT),
        (RETIRED_CELLS + 1, 8000, Tidying.WAIT),
        (2001, 8000, Tidying.COMPACT),
        (1, 0, Tidying.FREE),
        (RETIRED_CELLS + 1, 0, Tidying.FREE),
    ],
)
def test_cells_are_moved_when_it_pays_and_freed_when_nobody_can_suffer(
    retired: int, held: int, expected: Tidying
) -> None:
    assert tidying(retired, held, 8, 16_384) is expected


class Recorded:
    """Sequences that only count; what was asked of them stands in `asked`."""

    def __init__(self, **lengths: int) -> None:
        self.lengths = {int(name[1:]): length for name, length in lengths.items()}
        self.asked: list[str] = []

    def drop(self, seq: int) -> None:
        self.asked.append(f"drop {seq}")

    def cut(self, seq: int, length: int) -> bool:
        self.asked.append(f"cut {seq} at {length}")
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        self.asked.append(f"copy {length} of {source} to {target}")
        return True

    def length(self, seq: int) -> int:
        return self.lengths.get(seq, 0)

    def retire(self, seq: int, start: int) -> None:
        self.asked.append(f"retire {seq} from {start}")
        self.lengths[seq] = start

    def free_retired(self) -> None:
        self.asked.append("free")

    def compact(self) -> None:
        self.asked.append("compact")


def test_on_a_cpu_nothing_is_freed_while_something_is_held() -> None:
    sequences = Recorded(s1=300, s2=400)
    cells = KeptInOrder(sequences, 1000)
    cells.drop(1)
    assert cells.cut(2, 390)
    cells.drop(3)
    cells.tidy(390, 8)
    assert sequences.asked == ["retire 1 from 0", "retire 2 from 390"]
    cells.tidy(390, 301)
    cells.tidy(390, 301)
    assert sequences.asked[2:] == ["compact"], "310 cells are there again, and nothing to free"
    cells.drop(2)
    cells.tidy(0, 8)
    assert sequences.asked[3:] == ["retire 2 from 0", "free"]


def test_on_a_gpu_cells_are_freed_as_they_come() -> None:
    sequences = Recorded(s1=300, s2=400)
    cells = FreedAtOnce(sequences)
    cells.drop(1)
    assert cells.cut(2, 390)
    cells.tidy(390, 900)
    assert sequences.asked == ["drop 1", "cut 2 at 390"]
