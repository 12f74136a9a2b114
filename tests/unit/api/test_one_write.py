"""A response's head and body leave together, in order, and nothing is ever kept back for long."""

from __future__ import annotations

import asyncio
from typing import Any

from parhelion.api.server import OneWrite

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.seen.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def corked() -> tuple[Any, Wire]:
    wire = Wire()
    transport: Any = wire
    return OneWrite(transport, asyncio.get_running_loop()), wire


async def test_a_head_leaves_with_its_body_and_later_parts_at_once() -> None:
    transport, wire = corked()
    transport.write(HEAD)
    assert wire.seen == []
    transport.write(b"body")
    transport.write(b"more")
    assert wire.seen == [HEAD + b"body", b"more"]
    await asyncio.sleep(0)
    assert len(wire.seen) == 2, "nothing is sent twice"


async def test_a_head_alone_leaves_at_the_end_of_the_turn_and_before_a_close() -> None:
    transport, wire = corked()
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert wire.seen == [HEAD]
    transport.write(HEAD)
    transport.close()
    assert wire.seen == [HEAD, HEAD] and wire.closed
