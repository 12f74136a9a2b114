"""How one node reads a slice from another over their link: where, how much, and the bytes; pure.

An ask is an offset u64 and a length u32, big-endian; its answer is the same offset and the bytes.
Every part but a slice's last one has PART_BYTES, so that nobody is kept busy with single bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from parhelion.link import LinkBroken
from parhelion.words import ProblemCode

PART_BYTES = 256 * 1024
"""Two pieces of a link: a frame of the ring beside it waits a few milliseconds at most."""

WINDOW = 4
"""Parts that are asked for ahead: on a LAN the link never waits for the disk at its other end."""

_ASK = struct.Struct(">QI")
_OFFSET = struct.Struct(">Q")


class Part(NamedTuple):
    """Bytes [offset, offset + length) of a slice."""

    offset_bytes: int
    length_bytes: int


def part_at(offset_bytes: int, size_bytes: int) -> Part:
    """The part that begins here."""
    return Part(offset_bytes, min(PART_BYTES, size_bytes - offset_bytes))


def ask(part: Part) -> bytes:
    """The frame that asks for a part."""
    return _ASK.pack(*part)


def read_ask(frame: bytes, size_bytes: int) -> Part:
    """The part that is asked for; LinkBroken where a slice of this size has no such part."""
    if len(frame) != _ASK.size:
        raise _broken(f"an ask of {len(frame)} bytes")
    asked = Part(*_ASK.unpack(frame))
    if asked.offset_bytes >= size_bytes or asked != part_at(asked.offset_bytes, size_bytes):
        raise _broken(f"no part of {size_bytes} bytes is {asked[1]} long at {asked[0]}")
    return asked


def answer(part: Part, body: bytes) -> bytes:
    """The frame that brings a part."""
    return _OFFSET.pack(part.offset_bytes) + body


def read_answer(frame: bytes, part: Part) -> bytes:
    """The bytes of the part that was asked for; LinkBroken where it is another one."""
    if len(frame) != _OFFSET.size + part.length_bytes:
        raise _broken(f"a part of {len(frame) - _OFFSET.size} bytes, not {part.length_bytes}")
    if _OFFSET.unpack_from(frame) != (part.offset_bytes,):
        raise _broken("another part came than was asked for")
    return frame[_OFFSET.size :]


def _broken(message: str) -> LinkBroken:
    return LinkBroken(ProblemCode.LINK_BROKEN, message)
