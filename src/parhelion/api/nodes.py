"""GET /v1/nodes and its live stream: who serves, what was measured, and what changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import NodeList
from parhelion.api.stream import EventStream
from parhelion.api.watch import Watch
from parhelion.api.wire import HEAD, ClientLeft, Reply, json_reply, visit_of
from parhelion.config import ApiConfig
from parhelion.identity import site_of
from parhelion.words import Clock, Problem

if TYPE_CHECKING:
    from parhelion.coordinator import Coordinator, NodesEvent

LAST_EVENT_ID = b"last-event-id"

FEW = 250
"""So many nodes are listed anew for each who asks: 2 ms. Of 5,000 the list takes 45 ms, and anyone
may ask for it two hundred times a second."""

KEPT_S = 0.5
"""How old a longer list may be: what the stream of changes waits, too."""

PIECE_NODES = 64
"""Nodes that are written at once, some 40 kB: of a large pool's snapshot, which is megabytes, a
reader that takes nothing holds one piece."""

OPENING = b"retry: 2000\n: what follows is data: lines with a type\n\n"
"""Goes out at once, so that a page knows that it is connected; browsers come back after 2 s."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the nodes that anyone may read."""
    listing = Listing(rooms.coordinator, rooms.clock)

    @get("/v1/nodes", name="nodes.list")
    async def nodes(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return listing.reply()

    @get("/v1/nodes/stream", name="nodes.stream")
    async def stream(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return NodeStream(rooms.coordinator, rooms.config.api, rooms.clock)

    return [nodes, stream]


class Listing:
    """All nodes as one reply; of many it is made for all who ask within KEPT_S."""

    def __init__(self, coordinator: Coordinator, clock: Clock) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._kept: tuple[Reply, float] | None = None

    def reply(self) -> Reply:
        """The nodes as they are now, or were a moment ago."""
        now_s = self._clock.monotonic_s()
        if self._kept is not None and now_s - self._kept[1] < KEPT_S:
            return self._kept[0]
        nodes = self._coordinator.known_nodes()
        reply = json_reply(NodeList(data=nodes))
        self._kept = (reply, now_s) if len(nodes) > FEW else None
        return reply


class NodeStream:
    """An ASGI app: one reader of the nodes' changes, until it leaves or the coordinator stops.

    A reader holds no more than the piece of the event that is being written: one that is slow gets
    fewer and fuller events, and one that takes nothing for a minute has left.
    """

    def __init__(self, coordinator: Coordinator, config: ApiConfig, clock: Clock) -> None:
        self._coordinator = coordinator
        self._config = config
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write events; a Problem before the first byte is an ordinary error."""
        visit = visit_of(scope)
        stream = EventStream(visit, self._config, self._clock)
        last_id = visit.fields.get(LAST_EVENT_ID, b"").decode("latin-1")
        if scope.get(HEAD):
            await stream.write(b"", more=False)
            return
        try:
            with self._coordinator.feed.follow(last_id or None, site_of(visit.address)) as reader:
                async with Watch(receive, stream.tick_s, stream.tick) as watch:
                    await stream.write(OPENING)
                    async for event in reader:
                        for piece in framed(event):
                            await stream.write(piece)
                        watch.check()
            await stream.write(b"", more=False)
        except ClientLeft:
            return
        except Problem as problem:
            await errors.reply(problem).write(send, ())


def framed(event: NodesEvent) -> Iterator[bytes]:
    """One event, in pieces; its type is inside, so that `EventSource.onmessage` gets them all."""
    kind: Literal["snapshot", "change"] = "snapshot" if event.whole else "change"
    piece = f'id: {event.id}\ndata: {{"type":"{kind}","nodes":['.encode()
    for at in range(0, len(event.nodes), PIECE_NODES):
        if at:
            yield piece
            piece = b","
        piece += b",".join(event.nodes[at : at + PIECE_NODES])
    yield piece + b'],"removed":' + msgspec.json.encode(event.removed) + b"}\n\n"
