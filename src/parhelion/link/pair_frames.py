"""What travels between two nodes once it is unsealed: pieces under a fixed header; pure.

Header, big-endian: kind u8, three zero bytes, bytes of this piece u32, sequence u64, bytes of the
whole frame u32, CRC-32 of this piece u32. One sequence counts every piece of a direction, whatever
its kind. A frame longer than one piece comes in pieces of exactly PIECE_BYTES and a rest, with
nothing of another frame between; pings may stand there.
"""

from __future__ import annotations

import math
import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

from parhelion.link.broken import broken
from parhelion.link.seal import OVERHEAD_BYTES

PIECE_BYTES = 128 * 1024
"""Sealing one takes 0.2 ms: a ping, and everybody else of the event loop, waits no longer."""

PAIR_LIMIT_BYTES = 32 * 1024 * 1024
"""A frame of the application: a micro-batch of 512 rows of 7,168 fp32 numbers has 14.7 MB."""

_HEADER = struct.Struct(">B3sIQII")
HEADER_BYTES = _HEADER.size
SEALED_LIMIT_BYTES = PIECE_BYTES + HEADER_BYTES + OVERHEAD_BYTES
"""No frame on the wire is larger: a WebSocket of ours takes 1 MiB, a relay holds many."""

CONTROL_LIMIT_BYTES = 128
"""A ping, its answer, or a last word."""

_PAD = bytes(3)
_ECHO = struct.Struct(">8sd")

TOKEN_BYTES = 8

_RTT = struct.Struct(">d")
RTT_LIMIT_S = 60.0


class Kind(IntEnum):
    """What a piece is."""

    DATA = 1
    WARM = 2
    """Nothing but length: sent at set-up, so that the path is measured and awake."""
    PING = 3
    PONG = 4
    USE = 5
    """The dialling side's choice, where there is more than one path."""
    BYE = 6


_KINDS = frozenset(Kind)
_WITH_PARTS = frozenset({Kind.DATA, Kind.WARM})


class Piece(NamedTuple):
    """One piece, checked; `whole_bytes` is the length of the frame that it belongs to."""

    kind: Kind
    whole_bytes: int
    body: bytes


def pack(kind: Kind, sequence: int, whole_bytes: int, body: bytes) -> bytes:
    """A piece as it is sealed."""
    head = _HEADER.pack(kind, _PAD, len(body), sequence, whole_bytes, zlib.crc32(body))
    return head + body


def unpack(data: bytes, sequence: int) -> Piece:
    """The piece with this sequence number, and no other; LinkBroken says what is wrong."""
    if len(data) < HEADER_BYTES:
        raise broken(f"a piece of {len(data)} bytes has no header")
    number, pad, length, seen, whole_bytes, crc = _HEADER.unpack_from(data)
    if seen != sequence:
        raise broken(f"piece {seen} came where {sequence} was due")
    if number not in _KINDS or pad != _PAD:
        raise broken(f"a piece of an unknown kind ({number})")
    kind, body = Kind(number), data[HEADER_BYTES:]
    limit = PIECE_BYTES if kind in _WITH_PARTS else CONTROL_LIMIT_BYTES
    if length != len(body) or length > limit or length > whole_bytes:
        raise broken(f"a piece of {len(body)} bytes says {length} of {whole_bytes}")
    if whole_bytes > PAIR_LIMIT_BYTES:
        raise broken(f"a frame of {whole_bytes} bytes, over {PAIR_LIMIT_BYTES}")
    if kind not in _WITH_PARTS and whole_bytes != length:
        raise broken(f"a {kind.name} in parts")
    if zlib.crc32(body) != crc:
        raise broken("a piece does not match its checksum")
    return Piece(kind, whole_bytes, body)


class Joiner:
    """Puts frames together; one frame's pieces at most are kept."""

    def __init__(self) -> None:
        self._kind = Kind.DATA
        self._whole_bytes = 0
        self._have_bytes = 0
        self._parts: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._parts)

    def add(self, piece: Piece) -> bytes | None:
        """The whole frame if this piece ends it; LinkBroken if it belongs to no such frame."""
        if not self._parts:
            self._kind, self._whole_bytes, self._have_bytes = piece.kind, piece.whole_bytes, 0
        elif piece.kind is not self._kind or piece.whole_bytes != self._whole_bytes:
            raise broken("a piece of another frame came before the last one's end")
        due = min(PIECE_BYTES, self._whole_bytes - self._have_bytes)
        if len(piece.body) != due:
            raise broken(f"a piece of {len(piece.body)} bytes came where {due} were due")
        self._have_bytes += due
        self._parts.append(piece.body)
        if self._have_bytes < self._whole_bytes:
            return None
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)


def pong(ping: bytes, mbit_s: float | None) -> bytes:
    """The answer to a ping, with what this side measures of what comes in."""
    if len(ping) != TOKEN_BYTES:
        raise broken(f"a ping of {len(ping)} bytes")
    return _ECHO.pack(ping, math.nan if mbit_s is None else mbit_s)


def read_pong(body: bytes) -> tuple[bytes, float | None]:
    """Which ping is answered, and the rate at which our own frames arrive there."""
    if len(body) != _ECHO.size:
        raise broken(f"a pong of {len(body)} bytes")
    token, mbit_s = _ECHO.unpack(body)
    return token, mbit_s if math.isfinite(mbit_s) and mbit_s > 0 else None


def use(rtt_s: float) -> bytes:
    """The choice of a path, with the round trip that the dialling side measured on it."""
    return _RTT.pack(rtt_s)


def read_use(body: bytes) -> float:
    """That round trip in seconds."""
    if len(body) != _RTT.size:
        raise broken(f"a choice of {len(body)} bytes")
    (rtt_s,) = _RTT.unpack(body)
    if not 0 <= rtt_s <= RTT_LIMIT_S:  # Not so for NaN either.
        raise broken("a choice with no round trip")
    return rtt_s
