"""GET /v1/nodes and its live stream: who serves, what was measured, and what changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import NodeList, NodesChange
from parhelion.api.stream import EventStream
from parhelion.api.watch import Watch
from parhelion.api.wire import HEAD, ClientLeft, json_reply, visit_of
from parhelion.config import ApiConfig
from parhelion.words import Clock, Problem

if TYPE_CHECKING:
    from parhelion.coordinator import Coordinator, NodesEvent

LAST_EVENT_ID = b"last-event-id"

OPENING = b"retry: 2000\n: what follows is data: lines with a type\n\n"
"""Goes out at once, so that a page knows that it is connected; browsers come back after 2 s."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the nodes that anyone may read."""

    @get("/v1/nodes", name="nodes.list")
    async def nodes(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return json_reply(NodeList(data=rooms.coordinator.known_nodes()))

    @get("/v1/nodes/stream", name="nodes.stream")
    async def stream(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return NodeStream(rooms.coordinator, rooms.config.api, rooms.clock)

    return [nodes, stream]


class NodeStream:
    """An ASGI app: one reader of the nodes' changes, until it leaves or the coordinator stops.

    A reader holds no more than the event that is being written: one that is slow gets fewer and
    fuller events, and one that takes nothing for a minute has left.
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
            with self._coordinator.feed.follow(last_id or None) as reader:
                async with Watch(receive, stream.tick_s, stream.tick) as watch:
                    await stream.write(OPENING)
                    async for event in reader:
                        await stream.write(framed(event))
                        watch.check()
            await stream.write(b"", more=False)
        except ClientLeft:
            return
        except Problem as problem:
            await errors.reply(problem).write(send, ())


def framed(event: NodesEvent) -> bytes:
    """One event as bytes; its type is inside, so that `EventSource.onmessage` gets them all."""
    kind: Literal["snapshot", "change"] = "snapshot" if event.whole else "change"
    body = NodesChange(type=kind, nodes=event.nodes, removed=event.removed)
    return b"id: " + event.id.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
