"""Asks and answers of a slice between two nodes: whole parts of it, and only what was asked."""

from __future__ import annotations

import struct

import pytest

from parhelion.link import LinkBroken
from parhelion.node.slice_parts import (
    PART_BYTES,
    Part,
    answer,
    ask,
    part_at,
    read_answer,
    read_ask,
)

SIZE_BYTES = 2 * PART_BYTES + 7


@pytest.mark.parametrize("offset_bytes", [0, 1, PART_BYTES, 2 * PART_BYTES, SIZE_BYTES - 1])
def test_a_part_from_any_byte_is_asked_for_and_read(offset_bytes: int) -> None:
    part = part_at(offset_bytes, SIZE_BYTES)
    assert 0 < part.length_bytes <= PART_BYTES
    assert read_ask(ask(part), SIZE_BYTES) == part
    body = b"x" * part.length_bytes
    assert read_answer(answer(part, body), part) == body


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        ask(Part(0, PART_BYTES)) + b"x",
        ask(Part(0, 1)),
        ask(Part(0, 0)),
        ask(Part(0, PART_BYTES + 1)),
        ask(Part(0, 2**32 - 1)),
        ask(Part(SIZE_BYTES, 0)),
        ask(Part(SIZE_BYTES, PART_BYTES)),
        ask(Part(SIZE_BYTES - 7, PART_BYTES)),
        ask(Part(2**64 - 1, PART_BYTES)),
        b"\xff" * 12,
    ],
)
def test_what_is_no_part_of_the_slice_ends_the_link(frame: bytes) -> None:
    with pytest.raises(LinkBroken):
        read_ask(frame, SIZE_BYTES)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        struct.pack(">Q", 0),
        answer(Part(0, PART_BYTES), bytes(PART_BYTES - 1)),
        answer(Part(0, PART_BYTES), bytes(PART_BYTES + 1)),
        answer(Part(PART_BYTES, PART_BYTES), bytes(PART_BYTES)),
    ],
)
def test_an_answer_to_another_ask_ends_the_link(frame: bytes) -> None:
    with pytest.raises(LinkBroken):
        read_answer(frame, Part(0, PART_BYTES))
