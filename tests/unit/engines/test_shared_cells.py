from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.engines.shared_cells import Run, SharedCells

SEQS = 5

steps = st.lists(
    st.tuples(
        st.sampled_from(["grow", "copy", "cut", "drop"]),
        st.integers(0, SEQS - 1),
        st.integers(0, SEQS - 1),
        st.integers(1, 12),
    ),
    max_size=40,
)


def test_what_two_sequences_share_is_moved_once_and_the_rest_of_each_by_itself() -> None:
    shared = SharedCells()
    shared.copied(1, 0, 4)
    assert list(shared.runs([6, 9])) == [Run((0, 1), 0, 4), Run((0,), 4, 6), Run((1,), 4, 9)]
    shared.cut(1, 3)
    assert list(shared.runs([6, 5])) == [
        Run((0, 1), 0, 3), Run((0,), 3, 6), Run((1,), 3, 5),
    ]  # fmt: skip
    shared.cut(0, 0)
    assert list(shared.runs([2, 5])) == [Run((0,), 0, 2), Run((1,), 0, 5)]


@settings(max_examples=300)
@given(steps)
def test_every_cell_is_moved_once_with_all_who_read_it_and_in_each_ones_order(
    done: list[tuple[str, int, int, int]],
) -> None:
    shared, cells, fresh = SharedCells(), [list[int]() for _ in range(SEQS)], iter(range(10_000))
    for what, one, other, count in done:
        if what == "grow":
            cells[one] += [next(fresh) for _ in range(count)]
        elif what == "copy" and cells[one] and one != other:
            length = min(count, len(cells[one]))
            shared.cut(other, 0)
            cells[other] = cells[one][:length]
            shared.copied(one, other, length)
        elif what in ("cut", "drop"):
            kept = min(count, len(cells[one])) if what == "cut" else 0
            del cells[one][kept:]
            shared.cut(one, kept)
    moved: list[int] = []
    for run in shared.runs([len(held) for held in cells]):
        part = cells[run.seqs[0]][run.start : run.end]
        moved += part
        assert all(cells[seq][run.start : run.end] == part for seq in run.seqs)
        readers = {seq for seq, held in enumerate(cells) if set(held) & set(part)}
        assert readers == set(run.seqs)
    assert len(moved) == len(set(moved)) and set(moved) == {cell for held in cells for cell in held}
    place = {cell: at for at, cell in enumerate(moved)}
    for held in cells:
        assert [place[cell] for cell in held] == sorted(place[cell] for cell in held)
