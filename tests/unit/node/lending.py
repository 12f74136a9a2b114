"""A link in memory between a node that fetches a slice and one that has it."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from parhelion.link import LinkBroken, PairTicket, ServeSlice
from parhelion.models import SliceCard
from parhelion.node.slice_parts import PART_BYTES
from parhelion.words import ProblemCode
from tests.unit.node.staging import Seen, ticket

BODY = bytes(range(256)) * (5 * PART_BYTES // 256) + b"the rest"
WANT = SliceCard(
    digest="d" * 64,
    start=3,
    end=7,
    size_bytes=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
)


def order(**more: Any) -> ServeSlice:
    fields: dict[str, Any] = {
        "ticket": ticket("accept"),
        "digest": WANT.digest,
        "start": WANT.start,
        "end": WANT.end,
        "size_bytes": WANT.size_bytes,
        "sha256": WANT.sha256,
        **more,
    }
    return ServeSlice(**fields)


class End:
    """One end of the link; what is closed at one is closed at both."""

    def __init__(self, path: str = "direct", mbit_s: float | None = None) -> None:
        self.seen = Seen(path=path, mbit_s=mbit_s)
        self.coming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed: str | None = None
        self.other: End = self

    async def send(self, frame: bytes) -> None:
        if self.closed is not None:
            raise LinkBroken(ProblemCode.LINK_BROKEN, self.closed)
        self.other.coming.put_nowait(frame)

    async def receive(self) -> bytes:
        frame = await self.coming.get()
        if frame is None:
            assert self.closed is not None
            self.coming.put_nowait(None)
            raise LinkBroken(ProblemCode.LINK_BROKEN, self.closed)
        return frame

    def view(self) -> Seen:
        return self.seen

    async def close(self, reason: str) -> None:
        for one in (self, self.other):
            if one.closed is None:
                one.closed = reason
                one.coming.put_nowait(None)


def ends(path: str = "direct", mbit_s: float | None = None) -> tuple[End, End]:
    """The fetching and the serving end."""
    one, other = End(path, mbit_s), End(path, mbit_s)
    one.other, other.other = other, one
    return one, other


class Lan:
    """Opens both ends of a link by its id, whoever comes first."""

    def __init__(self, path: str = "direct", mbit_s: float | None = None) -> None:
        self.path, self.mbit_s = path, mbit_s
        self.made: dict[str, tuple[End, End]] = {}
        self.opened: list[str] = []

    async def open(self, ticket: PairTicket) -> End:
        self.opened.append(ticket.role)
        if ticket.link not in self.made:
            self.made[ticket.link] = ends(self.path, self.mbit_s)
        return self.made[ticket.link][ticket.role == "accept"]
