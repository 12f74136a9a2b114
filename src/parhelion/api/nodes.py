"""GET /v1/nodes, its live stream, and /v1/plan: who serves, what was measured, what changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.follow import Followed
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import NodeList
from parhelion.api.wire import Reply, Visit, json_reply
from parhelion.identity import Caller
from parhelion.words import Clock

if TYPE_CHECKING:
    from parhelion.coordinator import Coordinator, NodesEvent, PlanView
    from parhelion.coordinator.feed import Reader

LAST_EVENT_ID = b"last-event-id"

FEW = 250
"""So many nodes are listed anew for each who asks: 2 ms. Of 5,000 the list takes 45 ms, and anyone
may ask for it two hundred times a second."""

KEPT_S = 0.5
"""How old a longer list may be: what the stream of changes waits, too."""

PIECE_NODES = 64
"""Nodes that are written at once, some 40 kB: of a large pool's snapshot, which is megabytes, a
reader that takes nothing holds one piece."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the nodes that anyone may read."""
    listing = Listing(rooms.coordinator, rooms.clock)
    plans = Plans(rooms.coordinator)

    @get("/v1/nodes", name="nodes.list")
    async def nodes(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return listing.reply()

    @get("/v1/nodes/stream", name="nodes.stream")
    async def stream(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return Followed(rooms, follow, framed)

    def follow(visit: Visit, caller: Caller) -> Reader:
        last_id = visit.fields.get(LAST_EVENT_ID, b"").decode("latin-1")
        return rooms.coordinator.feed.follow(last_id or None, caller)

    @get("/v1/plan", name="plan")
    async def plan(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return await plans.reply()

    return [nodes, stream, plan]


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
        reply = json_reply(NodeList(data=nodes, pipelines=self._coordinator.pipeline_views()))
        self._kept = (reply, now_s) if len(nodes) > FEW else None
        return reply


class Plans:
    """The plan as one reply, written once for all who get the same."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._kept: tuple[PlanView, Reply] | None = None

    async def reply(self) -> Reply:
        """The plan as it is now, or was a moment ago (coordinator.plan_view.KEPT_S)."""
        view = await self._coordinator.plan()
        if self._kept is None or self._kept[0] is not view:
            self._kept = (view, json_reply(view))
        return self._kept[1]


def framed(event: NodesEvent) -> Iterator[bytes]:
    """One event, in pieces; its type is inside, so that `EventSource.onmessage` gets them all."""
    kind: Literal["snapshot", "change"] = "snapshot" if event.whole else "change"
    piece = f'id: {event.id}\ndata: {{"type":"{kind}","nodes":['.encode()
    for at in range(0, len(event.nodes), PIECE_NODES):
        if at:
            yield piece
            piece = b","
        piece += b",".join(event.nodes[at : at + PIECE_NODES])
    piece += b'],"removed":' + msgspec.json.encode(event.removed)
    if event.pipelines is not None:
        piece += b',"pipelines":' + event.pipelines
    yield piece + b"}\n\n"
