from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.engines.hidden import (
    ENTRIES_LIMIT,
    FRAME_LIMIT_BYTES,
    HEADER,
    ROWS_LIMIT,
    WIDTH_LIMIT,
    Entry,
    FrameBroken,
    Kind,
    decode,
    encode_hidden,
    encode_ids,
    from_bf16,
    rows_limit,
    to_bf16,
)

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
entries = st.lists(
    st.builds(
        Entry,
        job=names,
        attempt=st.integers(0, 2**32 - 1),
        start=st.integers(0, 2**30),
        rows=st.integers(1, 6),
        flag=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda entry: entry.key,
)


def states(count: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(seed).standard_normal((count, width)) * 100
    return noise.astype(np.float32)


@given(entries, st.integers(1, 9), st.sampled_from(["fp32", "bf16"]), st.integers(0, 99))
def test_what_is_encoded_comes_back(
    given_entries: list[Entry], width: int, wire: Any, seed: int
) -> None:
    rows = states(sum(entry.rows for entry in given_entries), width, seed)
    frame = decode(encode_hidden(given_entries, rows, wire))
    assert (frame.kind, list(frame.entries)) == (Kind.HIDDEN, given_entries)
    expected = rows if wire == "fp32" else from_bf16(to_bf16(rows))
    assert frame.hidden.shape == rows.shape and (frame.hidden == expected).all()


@given(entries, st.data())
def test_ids_come_back_and_none_is_a_report(given_entries: list[Entry], data: Any) -> None:
    silent = [Entry(e.job, e.attempt, e.start, i % 2, e.flag) for i, e in enumerate(given_entries)]
    total = sum(entry.rows for entry in silent)
    ids = data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=total, max_size=total))
    frame = decode(encode_ids(silent, ids))
    assert (frame.kind, list(frame.entries), frame.ids.tolist()) == (Kind.IDS, silent, ids)


def sound() -> bytes:
    given_entries = [Entry("job_a", 0, 5, 2, True), Entry("job_b", 1, 0, 1, False)]
    return encode_hidden(given_entries, states(3, 4), "fp32")


@settings(max_examples=150)
@given(st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_is_refused(at: int, bit: int) -> None:
    body = bytearray(sound())
    body[at % len(body)] ^= 1 << bit
    with pytest.raises(FrameBroken):
        decode(bytes(body))


@given(st.integers(0, 200), st.binary(max_size=40))
def test_a_cut_or_longer_frame_is_refused(size: int, more: bytes) -> None:
    body = sound()
    changed = body[:size] + more
    if changed != body:
        with pytest.raises(FrameBroken):
            decode(changed)


@settings(max_examples=150)
@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_noise_is_refused_and_nothing_else_is_raised(noise: bytes, seed: int) -> None:
    with pytest.raises(FrameBroken):
        decode(noise)
    # A peer that knows the format gets its check sum right.
    chance = random.Random(seed)
    body = bytearray(sound())
    for _ in range(chance.randint(1, 6)):
        body[chance.randrange(4, len(body))] = chance.randrange(256)
    try:
        frame = decode(resealed(bytes(body)))
    except FrameBroken:
        return
    assert sum(entry.rows for entry in frame.entries) == len(frame.hidden) + len(frame.ids)


def resealed(body: bytes) -> bytes:
    head = body[: HEADER.size - 4]
    crc = zlib.crc32(body[HEADER.size :], zlib.crc32(head + bytes(4)))
    return head + struct.pack("<I", crc) + body[HEADER.size :]


def forged(
    *,
    magic: bytes = b"PhHF",
    version: int = 1,
    kind: int = 1,
    dtype: int = 1,
    width: int = 4,
    rows: int = 1,
    count: int = 1,
    entry: bytes | None = None,
    body: bytes = bytes(16),
) -> bytes:
    """A frame with a right check sum that says what it likes."""
    head = HEADER.pack(magic, version, kind, dtype, width, rows, count, 0)
    table = entry if entry is not None else struct.pack("<BBxxIII", 1, 0, 0, 0, 1) + b"a"
    return resealed(head + table + body)


def one_entry(
    size: int = 1, flags: int = 0, start: int = 0, rows: int = 1, job: bytes = b"a"
) -> bytes:
    return struct.pack("<BBxxIII", size, flags, 0, start, rows) + job


FORGERIES = {
    "magic": forged(magic=b"XXXX"),
    "version": forged(version=2),
    "kind": forged(kind=3),
    "dtype": forged(dtype=9),
    "ids as floats": forged(kind=2, dtype=1, width=0),
    "states as ids": forged(kind=1, dtype=3),
    "no width": forged(width=0, body=b""),
    "too wide": forged(width=WIDTH_LIMIT + 1, body=bytes(4 * (WIDTH_LIMIT + 1))),
    "ids with a width": forged(kind=2, dtype=3, width=1, body=bytes(4)),
    "no entry": forged(count=0, rows=0, entry=b"", body=b""),
    "too many entries": forged(count=ENTRIES_LIMIT + 1),
    "all entries in the world": forged(count=2**32 - 1),
    "too many rows": forged(rows=ROWS_LIMIT + 1),
    "all rows in the world": forged(rows=2**32 - 1),
    "other rows than the entries": forged(rows=2, body=bytes(32)),
    "too little data": forged(body=bytes(15)),
    "too much data": forged(body=bytes(17)),
    "more entries than there are": forged(count=2),
    "a job without a name": forged(entry=one_entry(0, job=b"")),
    "a job with a long name": forged(entry=one_entry(65, job=b"a" * 65)),
    "a name that ends too late": forged(entry=one_entry(40), body=bytes(4)),
    "a name with a newline": forged(entry=one_entry(job=b"\n")),
    "a name that is no ascii": forged(entry=one_entry(job=b"\xff")),
    "an unknown flag": forged(entry=one_entry(flags=2)),
    "the flag of the other kind": forged(
        kind=2, dtype=3, width=0, entry=one_entry(flags=1), body=bytes(4)
    ),
    "a position past the last": forged(entry=one_entry(start=2**31 - 1)),
    "states of no row": forged(rows=0, entry=one_entry(rows=0), body=b""),
    "a job twice": forged(rows=2, count=2, entry=2 * one_entry(), body=bytes(32)),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_frame_is_refused(name: str) -> None:
    with pytest.raises(FrameBroken) as caught:
        decode(FORGERIES[name])
    assert "check sum" not in caught.value.cause


def test_the_forger_can_make_a_sound_frame() -> None:
    assert decode(forged()) is not None
    assert decode(forged(kind=2, dtype=3, width=0, body=bytes(4))).ids.tolist() == [0]


def test_a_frame_beyond_the_limit_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(FrameBroken, match="at most"):
        decode(bytes(FRAME_LIMIT_BYTES + 1))


@pytest.mark.parametrize("width", [64, 576, 8192, WIDTH_LIMIT])
@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_as_many_rows_as_a_frame_may_have_fit_into_it(width: int, wire: Any) -> None:
    rows = rows_limit(width, wire)
    assert rows >= 31
    body = encode_hidden(
        [Entry("a" * 64, 0, 0, rows, False)], np.zeros((rows, width), np.float32), wire
    )
    assert len(decode(body).hidden) == rows


def test_a_row_in_fp32_is_its_bytes_and_a_small_table() -> None:
    body = encode_hidden([Entry("job_" + "x" * 26, 0, 9, 1, True)], states(1, 576), "fp32")
    assert len(body) == 4 * 576 + HEADER.size + 16 + 30


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, min_size=1, max_size=20))
def test_bf16_is_the_nearest_and_ties_go_to_even(values: list[float]) -> None:
    rows = np.array(values, np.float32)
    halves = to_bf16(rows)
    for value, half in zip(rows, halves, strict=True):
        bits = int(value.view(np.uint32))
        low, upper = bits & 0xFFFF, bits >> 16
        up = low > 0x8000 or (low == 0x8000 and upper & 1)
        assert int(half) == upper + up


def test_bf16_keeps_what_it_can_write_and_what_is_no_number() -> None:
    exact = np.array([0.0, -0.0, 1.0, -2.5, 1e30, 2.0**-126], np.float32)
    exact = from_bf16(to_bf16(exact))
    assert (from_bf16(to_bf16(exact)) == exact).all()
    strange = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)
    strange.view(np.uint32)[1] = 0xFFFFFFFF  # Rounded as a number it would become zero.
    back = from_bf16(to_bf16(strange))
    assert np.isnan(back[:2]).all() and (back[2:] == strange[2:]).all()
