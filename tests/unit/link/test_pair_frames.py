"""What two nodes say to each other once it is unsealed: every rule of the framing."""

from __future__ import annotations

import math
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.link.broken import LinkBroken
from parhelion.link.pair_frames import (
    HEADER_BYTES,
    PAIR_LIMIT_BYTES,
    PIECE_BYTES,
    Joiner,
    Kind,
    Piece,
    pack,
    pong,
    read_pong,
    read_use,
    unpack,
    use,
)
from parhelion.link.pair_rate import Rate


def raw(kind: int, body: bytes, *, length: int | None = None, whole: int | None = None) -> bytes:
    size = len(body) if length is None else length
    total = len(body) if whole is None else whole
    return struct.pack(">B3sIQII", kind, bytes(3), size, 0, total, zlib.crc32(body)) + body


@given(
    kind=st.sampled_from([Kind.DATA, Kind.WARM]),
    sequence=st.integers(0, 2**64 - 1),
    body=st.binary(max_size=300),
    more=st.integers(0, PAIR_LIMIT_BYTES - 300),
)
@settings(max_examples=100, deadline=None)
def test_a_piece_comes_back_as_it_was(kind: Kind, sequence: int, body: bytes, more: int) -> None:
    packed = pack(kind, sequence, len(body) + more, body)
    assert unpack(packed, sequence) == Piece(kind, len(body) + more, body)


@given(body=st.binary(max_size=60), at=st.integers(0, 83), flip=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_no_changed_byte_of_a_piece_is_taken_for_the_same_piece(
    body: bytes, at: int, flip: int
) -> None:
    packed = bytearray(pack(Kind.DATA, 7, len(body), body))
    packed[at % len(packed)] ^= flip
    try:
        piece = unpack(bytes(packed), 7)
    except LinkBroken as cause:
        assert cause.message
    else:
        # Kind and length of the whole are not under the checksum: the seal is there for that.
        assert piece.body == body and at % len(packed) < HEADER_BYTES


@given(garbage=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_garbage_is_refused_with_a_cause(garbage: bytes) -> None:
    with pytest.raises(LinkBroken) as caught:
        unpack(garbage, 3)
    assert caught.value.message


@pytest.mark.parametrize(
    ("packed", "cause"),
    [
        (b"", "no header"),
        (bytes(HEADER_BYTES - 1), "no header"),
        (pack(Kind.DATA, 1, 3, b"abc"), "piece 1 came where 0 was due"),
        (pack(Kind.DATA, 2**64 - 1, 3, b"abc"), "was due"),
        (raw(0, b""), "unknown kind"),
        (raw(7, b""), "unknown kind"),
        (raw(1, b"abc", length=2), "says 2"),
        (raw(1, b"abc", length=4), "says 4"),
        (raw(1, b"abc", whole=2), "of 2"),
        (raw(1, bytes(PIECE_BYTES + 1)), "a piece of"),
        (raw(1, b"abc", whole=PAIR_LIMIT_BYTES + 1), "over"),
        (raw(1, b"abc", whole=2**32 - 1), "over"),
        (raw(3, b"12345678", whole=9), "in parts"),
        (raw(3, bytes(129)), "a piece of 129"),
        (raw(1, b"abc")[:-1] + b"d", "checksum"),
    ],
)
def test_what_breaks_a_rule_is_named(packed: bytes, cause: str) -> None:
    with pytest.raises(LinkBroken, match=cause):
        unpack(packed, 0)


def split(size: int, kind: Kind = Kind.DATA) -> list[Piece]:
    body = bytes(n % 251 for n in range(size % 1000)) + bytes(size - size % 1000)
    starts = range(0, size, PIECE_BYTES) or [0]
    return [Piece(kind, size, body[start : start + PIECE_BYTES]) for start in starts]


@given(size=st.sampled_from([0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 700_001]))
def test_a_frame_is_joined_from_its_pieces_and_only_at_the_last(size: int) -> None:
    joiner, parts = Joiner(), split(size)
    found = [joiner.add(part) for part in parts]
    assert found[:-1] == [None] * (len(parts) - 1)
    assert found[-1] == b"".join(part.body for part in parts)


@pytest.mark.parametrize(
    ("second", "cause"),
    [
        (Piece(Kind.DATA, 3 * PIECE_BYTES, bytes(PIECE_BYTES)), "another frame"),
        (Piece(Kind.WARM, 2 * PIECE_BYTES + 9, bytes(PIECE_BYTES)), "another frame"),
        # Many tiny pieces would cost far more memory than they bring.
        (Piece(Kind.DATA, 2 * PIECE_BYTES + 9, b"x"), "were due"),
        (Piece(Kind.DATA, 2 * PIECE_BYTES + 9, b""), "were due"),
    ],
)
def test_a_piece_that_belongs_elsewhere_ends_the_link(second: Piece, cause: str) -> None:
    joiner = Joiner()
    joiner.add(split(2 * PIECE_BYTES + 9)[0])
    with pytest.raises(LinkBroken, match=cause):
        joiner.add(second)


def test_pings_answers_and_choices_are_of_one_length() -> None:
    assert read_pong(pong(b"12345678", 12.5)) == (b"12345678", 12.5)
    assert read_pong(pong(b"12345678", None)) == (b"12345678", None)
    assert read_use(use(0.002)) == 0.002
    for call, body in (
        (lambda body: pong(body, None), b"1234567"),
        (read_pong, bytes(15)),
        (read_use, bytes(7)),
        (read_use, struct.pack(">d", -1.0)),
        (read_use, struct.pack(">d", math.nan)),
        (read_use, struct.pack(">d", 61.0)),
    ):
        with pytest.raises(LinkBroken):
            call(body)


@pytest.mark.parametrize("told", [math.inf, -math.inf, -3.0, 0.0, math.nan])
def test_a_rate_that_is_no_rate_is_unknown(told: float) -> None:
    assert read_pong(struct.pack(">8sd", b"12345678", told))[1] is None


def test_the_rate_is_that_of_what_follows_a_frames_first_piece() -> None:
    rate = Rate()
    for n in range(11):
        rate.add(PIECE_BYTES, 100.0 + n * 0.1, is_last=n == 10)
    assert rate.mbit_s == pytest.approx(10 * PIECE_BYTES * 8 / 1.0 / 1e6)
    before = rate.mbit_s
    rate.add(9216, 200.0, is_last=True)
    rate.add(PIECE_BYTES, 201.0, is_last=False)
    rate.add(10, 201.0, is_last=True)
    assert rate.mbit_s == before, "short frames, and pieces at one moment, say nothing"
