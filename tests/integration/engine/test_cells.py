"""llama.cpp's own KV memory: what keeps a sequence's cells in order, and what that is good for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from numpy.typing import NDArray

from parhelion.engines import llama

STREAMS = 4
PROMPT = 40
ROWS = 63


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[llama.Model]:
    llama.start_backend()
    loaded = llama.Model(smollm2, gpu_layers=0)
    yield loaded
    loaded.close()


@pytest.fixture
def context(model: llama.Model) -> Iterator[llama.Context]:
    # One thread: with more, llama.cpp splits a step of one row by cells from 512 on.
    made = llama.Context(model, llama.ContextShape(2048, ROWS, 2 * STREAMS, ROWS, 1))
    yield made
    made.close()


def feed(context: llama.Context, *rows: tuple[int, int, int]) -> NDArray[np.float32]:
    """One step of (sequence, first position, ids); the logits that follow each sequence's last."""
    batch = llama.Batch(ROWS)
    for seq, start, count in rows:
        ids = np.array(
            [1000 + (seq * 977 + i * 131) % 30000 for i in range(start, start + count)], np.int32
        )
        batch.add(seq, start, ids, start + count - 1)
    assert context.decode(batch) == llama.DECODED
    return context.logits(len(rows)).copy()


def state_of(context: llama.Context, seq: int) -> bytes:
    size = int(lib.llama_state_seq_get_size(context.handle, seq))
    held = np.empty(size, np.uint8)
    at: Any = ctypes.cast(held.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
    assert lib.llama_state_seq_get_data(context.handle, at, size, seq) == size
    return held.tobytes()


def positions(context: llama.Context, seq: int) -> list[int]:
    """A sequence's positions in the order of its cells.

    Its state: a magic number, its id, 1 stream, how many cells, and (position, 1, id) for each.
    """
    state = state_of(context, seq)
    count = int(np.frombuffer(state, np.uint32, 1, 12)[0])
    return np.frombuffer(state, np.int32, 3 * count, 16).reshape(count, 3)[:, 0].tolist()


def whole_state_bytes(context: llama.Context) -> int:
    return int(lib.llama_state_get_size(context.handle))


def streams(context: llama.Context, *seqs: int, ids: int) -> None:
    """Prompts one after the other, then a crowd of streams: their cells lie interleaved."""
    for seq in seqs:
        feed(context, (seq, 0, PROMPT))
    for at in range(PROMPT, ids):
        feed(context, *((seq, at, 1) for seq in seqs))


def test_a_streams_bits_do_not_depend_on_who_ends_beside_it(context: llama.Context) -> None:
    streams(context, 2, ids=100)
    alone = feed(context, (2, 100, 1))[0]
    context.clear()
    streams(context, 0, 1, 2, 3, ids=60)
    context.retire(1, 0)
    streams_go_on(context, 60, 80)
    context.compact()
    context.retire(0, 0)
    streams_go_on(context, 80, 100)
    assert positions(context, 2) == list(range(100))
    assert np.array_equal(feed(context, (3, 100, 1), (2, 100, 1))[1], alone)


def streams_go_on(context: llama.Context, first: int, last: int) -> None:
    for at in range(first, last):
        feed(context, (2, at, 1), (3, at, 1))


def test_cells_that_are_freed_at_once_put_a_stream_out_of_order(context: llama.Context) -> None:
    """The cause, as llama.cpp has it; should this fail, retiring cells may be needless."""
    streams(context, 0, 1, 2, 3, ids=60)
    context.drop(1)
    streams_go_on(context, 60, 80)
    assert positions(context, 2) != list(range(80))
    assert sorted(positions(context, 2)) == list(range(80))


def test_compaction_keeps_every_byte_and_every_order(context: llama.Context) -> None:
    streams(context, 0, 1, 2, ids=60)
    before = {seq: state_of(context, seq) for seq in (0, 2)}
    full = whole_state_bytes(context)
    context.retire(1, 0)
    assert whole_state_bytes(context) > full - 1000, "retired cells stay taken"
    context.compact()
    assert {seq: state_of(context, seq) for seq in (0, 2)} == before
    assert whole_state_bytes(context) < 0.7 * full


def test_compaction_keeps_a_shared_prefix_shared(context: llama.Context) -> None:
    streams(context, 0, ids=PROMPT)
    for target in (1, 2):
        assert context.copy_prefix(0, target, PROMPT)
        feed(context, (target, PROMPT, 3))
    before = whole_state_bytes(context)
    context.compact()
    assert whole_state_bytes(context) == before
    assert positions(context, 2) == list(range(PROMPT + 3))


def test_a_compaction_in_small_parts_moves_what_is_shared_and_what_is_not(
    context: llama.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_bytes = 8 * context._cell_bytes
    monkeypatch.setattr(llama, "COPY_LIMIT_BYTES", part_bytes)
    streams(context, 0, 1, 2, ids=60)
    assert context.copy_prefix(1, 4, 50) and context.copy_prefix(4, 5, 45)
    feed(context, (4, 50, 5), (5, 45, 20), (2, 60, 10))
    context.retire(0, 0)
    context.retire(1, 41)
    context.free_retired()
    held = (1, 2, 4, 5)
    before, size = {seq: state_of(context, seq) for seq in held}, whole_state_bytes(context)
    context.compact()
    assert {seq: state_of(context, seq) for seq in held} == before
    assert whole_state_bytes(context) == size, "what was shared is still"
    feed(context, *((seq, context.length(seq), 9) for seq in held))
    assert all(positions(context, seq) == sorted(positions(context, seq)) for seq in held)
    assert context._copy.nbytes < 2 * part_bytes, "no more is copied at once"


def test_a_compaction_that_loses_a_sequence_is_a_fault(
    context: llama.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams(context, 0, 1, ids=50)
    whole = lib.llama_state_seq_set_data
    for broken in (lambda *_: 0, lambda *parts: whole(*parts) and 7):
        monkeypatch.setattr(lib, "llama_state_seq_set_data", broken)
        with pytest.raises(llama.LlamaFault, match="put back"):
            context.compact()
    monkeypatch.undo()


def test_retiring_a_tail_keeps_the_rest(context: llama.Context) -> None:
    streams(context, 0, 1, ids=50)
    context.retire(0, 45)
    assert context.length(0) == 45
    feed(context, (0, 45, 5), (1, 50, 5))
    assert positions(context, 0) == list(range(50))
    assert positions(context, 1) == list(range(55))
