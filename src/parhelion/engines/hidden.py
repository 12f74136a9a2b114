"""Frames between stages: one micro-batch of hidden states, or the ids that the last stage chose.

A frame comes from another operator's machine. `decode` checks all that can be checked without
knowing the jobs: what it returns has the sizes that it says, and nothing of it was changed on the
way by accident. Whether a job is known, at that position, is the stage's to say, job by job.

Little-endian. Header: magic, version, kind, dtype, width (n_embd; 0 for ids), rows, entries, CRC-32
of all else. Then an entry each: job id, attempt, start, rows, flags. Then the rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MAGIC = b"PhHF"
VERSION = 1

FRAME_LIMIT_BYTES = 16 * 1024 * 1024
"""A step of 512 rows 8,192 wide, as a GPU makes it; a wider model's steps have fewer rows."""

ROWS_LIMIT = 4096
ENTRIES_LIMIT = 1024
WIDTH_LIMIT = 65_536
"""Several times what any engine's batch, number of sequences and model have."""

POSITION_LIMIT = 2**31 - 1
"""llama.cpp's positions are 32-bit."""

JOB_LIMIT_BYTES = 64
"""Ours are 30."""

HEADER = struct.Struct("<4sBBBxIIII")
ENTRY = struct.Struct("<BBxxIII")

WANTS, ENDS = 1, 2
"""Flags: the entry's last row is to become an id; the job has ended."""

Wire = Literal["fp32", "bf16"]


class FrameBroken(Exception):
    """What came is no frame of ours; `cause` says why, for the log and for the other side."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"broken frame: {cause}")
        self.cause = cause


class Kind(IntEnum):
    """What the rows are."""

    HIDDEN = 1
    IDS = 2


class Dtype(IntEnum):
    """How one number of a row is written."""

    FP32 = 1
    BF16 = 2
    INT32 = 3


WIDTH_BYTES = {Dtype.FP32: 4, Dtype.BF16: 2, Dtype.INT32: 4}
WIRES: dict[Wire, Dtype] = {"fp32": Dtype.FP32, "bf16": Dtype.BF16}


@dataclass(frozen=True, slots=True)
class Entry:
    """`rows` rows of one job from position `start` on.

    In a HIDDEN frame `flag` says that an id is wanted of the last one. In an IDS frame the rows are
    ids that follow the first `start` ones, which the last stage has read; none is a report of that,
    and `flag` ends the job.
    """

    job: str
    attempt: int
    start: int
    rows: int
    flag: bool

    @property
    def key(self) -> tuple[str, int]:
        """What names the job's attempt."""
        return self.job, self.attempt

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.start + self.rows


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame; `hidden` (rows, width) or `ids` (rows,) are views of it or copies."""

    kind: Kind
    entries: tuple[Entry, ...]
    hidden: NDArray[np.float32]
    ids: NDArray[np.int32]


# --- writing ----------------------------------------------------------------------------------


def encode_hidden(entries: Sequence[Entry], hidden: NDArray[np.float32], wire: Wire) -> bytes:
    """A HIDDEN frame; `hidden` has the rows of all entries in their order."""
    dtype = WIRES[wire]
    rows = hidden if dtype is Dtype.FP32 else to_bf16(hidden)
    return _encode(Kind.HIDDEN, dtype, hidden.shape[1], entries, rows.tobytes())


def encode_ids(entries: Sequence[Entry], ids: Sequence[int]) -> bytes:
    """An IDS frame; `ids` are those of all entries in their order."""
    return _encode(Kind.IDS, Dtype.INT32, 0, entries, np.asarray(ids, "<i4").tobytes())


def _encode(kind: Kind, dtype: Dtype, width: int, entries: Sequence[Entry], rows: bytes) -> bytes:
    total = sum(entry.rows for entry in entries)
    flag = WANTS if kind is Kind.HIDDEN else ENDS
    table = b"".join(_encode_entry(entry, flag) for entry in entries)
    assert len(rows) == total * max(1, width) * WIDTH_BYTES[dtype], "rows as the entries say"
    assert len(entries) <= ENTRIES_LIMIT and total <= ROWS_LIMIT, "a step is never so large"

    def header(crc: int) -> bytes:
        return HEADER.pack(MAGIC, VERSION, kind, dtype, width, total, len(entries), crc)

    crc = zlib.crc32(rows, zlib.crc32(table, zlib.crc32(header(0))))
    return b"".join((header(crc), table, rows))


def _encode_entry(entry: Entry, flag: int) -> bytes:
    job = entry.job.encode()
    head = ENTRY.pack(len(job), flag * entry.flag, entry.attempt, entry.start, entry.rows)
    return head + job


def rows_limit(width: int, wire: Wire) -> int:
    """How many rows of `width` one frame can carry."""
    table_bytes = ENTRIES_LIMIT * (ENTRY.size + JOB_LIMIT_BYTES) + HEADER.size
    return min(ROWS_LIMIT, (FRAME_LIMIT_BYTES - table_bytes) // (width * WIDTH_BYTES[WIRES[wire]]))


# --- reading ----------------------------------------------------------------------------------


def decode(body: bytes) -> Frame:
    """The frame in `body`; FrameBroken for anything but a whole and unchanged one."""
    if len(body) < HEADER.size:
        raise FrameBroken(f"{len(body)} bytes are no header")
    if len(body) > FRAME_LIMIT_BYTES:
        raise FrameBroken(f"{len(body)} bytes, of {FRAME_LIMIT_BYTES} at most")
    magic, version, kind_code, dtype_code, width, rows, count, crc = HEADER.unpack_from(body)
    if magic != MAGIC or version != VERSION:
        raise FrameBroken("another magic or version")
    kind, dtype = _kind(kind_code, dtype_code, width)
    if not 0 < count <= ENTRIES_LIMIT or rows > ROWS_LIMIT:
        raise FrameBroken(f"{count} entries, {rows} rows")
    if crc != _crc(body):
        raise FrameBroken("its check sum is another")
    entries, at = _entries(body, kind, count)
    if sum(entry.rows for entry in entries) != rows:
        raise FrameBroken("the entries have another number of rows")
    if len(body) - at != rows * max(1, width) * WIDTH_BYTES[dtype]:
        raise FrameBroken(f"{len(body) - at} bytes of rows")
    return Frame(kind, entries, *_rows(body, at, dtype, width))


def decode_at(body: bytes, is_first: bool, n_embd: int) -> Frame:
    """The frame, if it is one that this stage can get; FrameBroken otherwise."""
    frame = decode(body)
    expected = Kind.IDS if is_first else Kind.HIDDEN
    if frame.kind is not expected:
        raise FrameBroken(f"a frame of {frame.kind.name} at this stage")
    if frame.kind is Kind.HIDDEN and frame.hidden.shape[1] != n_embd:
        raise FrameBroken(f"rows of width {frame.hidden.shape[1]}, not {n_embd}")
    return frame


def _kind(kind_code: int, dtype_code: int, width: int) -> tuple[Kind, Dtype]:
    try:
        kind, dtype = Kind(kind_code), Dtype(dtype_code)
    except ValueError:
        raise FrameBroken("an unknown kind or dtype") from None
    if (kind is Kind.IDS) != (dtype is Dtype.INT32):
        raise FrameBroken("rows of the other kind")
    if (width > WIDTH_LIMIT or width == 0) if kind is Kind.HIDDEN else width != 0:
        raise FrameBroken(f"rows of width {width}")
    return kind, dtype


def _crc(body: bytes) -> int:
    """Of all but the last field of the header, which counts as zero."""
    view = memoryview(body)
    head = bytes(view[: HEADER.size - 4]) + bytes(4)
    return zlib.crc32(view[HEADER.size :], zlib.crc32(head))


def _entries(body: bytes, kind: Kind, count: int) -> tuple[tuple[Entry, ...], int]:
    entries: list[Entry] = []
    known_flag = WANTS if kind is Kind.HIDDEN else ENDS
    at = HEADER.size
    for _ in range(count):
        if at + ENTRY.size > len(body):
            raise FrameBroken("it ends in its entries")
        size, flags, attempt, start, rows = ENTRY.unpack_from(body, at)
        at += ENTRY.size
        job = body[at : at + size]
        at += size
        if not 0 < size <= JOB_LIMIT_BYTES or len(job) != size or not _is_name(job):
            raise FrameBroken("an entry's job is no id")
        if flags & ~known_flag:
            raise FrameBroken("an unknown flag")
        if start + rows > POSITION_LIMIT or (kind is Kind.HIDDEN and rows == 0):
            raise FrameBroken(f"{rows} rows from {start} on")
        entries.append(Entry(job.decode("ascii"), attempt, start, rows, bool(flags)))
    if len({entry.key for entry in entries}) != count:
        raise FrameBroken("a job has two entries")
    return tuple(entries), at


def _is_name(job: bytes) -> bool:
    return all(33 <= byte <= 126 for byte in job)


def _rows(
    body: bytes, at: int, dtype: Dtype, width: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    no_hidden, no_ids = np.empty((0, width), np.float32), np.empty(0, np.int32)
    if dtype is Dtype.INT32:
        return no_hidden, np.frombuffer(body, "<i4", offset=at)
    if dtype is Dtype.FP32:
        return np.frombuffer(body, "<f4", offset=at).reshape(-1, width), no_ids
    return from_bf16(np.frombuffer(body, "<u2", offset=at)).reshape(-1, width), no_ids


# --- bf16 -------------------------------------------------------------------------------------


def to_bf16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each number, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    halves = (rounded >> np.uint32(16)).astype("<u2")
    # A NaN's bits may carry over into another number's.
    halves[np.isnan(rows)] = 0x7FC0
    return halves


def from_bf16(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers themselves: each bf16 is a float32."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
