"""Changes of the nodes as numbered events: one bounded record, and any number of readers of it.

A reader holds only its place in the record, so one that is slow costs nothing: when its place has
been overwritten it gets everything anew. While nobody reads, nothing is recorded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from parhelion.coordinator.readers import STRANGER, Readers, Seat
from parhelion.coordinator.views import NodeView, PipelineView
from parhelion.identity import Caller

LOOK_S = 0.5
"""Changes within this are one event: with thousands of nodes there are thousands a second."""

RECORD_EVENTS = 512
"""At one a LOOK_S, four minutes and more."""

RECORD_NODES = 8192
"""Node views over all events kept, about half a kilobyte each."""

LINGER_S = 60.0
"""How long changes are still recorded after the last reader left: a page that reloads or loses
its connection for a moment then gets what it missed."""


@dataclass(frozen=True, slots=True)
class NodesEvent:
    """What changed since the event before; with `whole`, all there is.

    `nodes` are node views as JSON, made once for all readers. `removed` are the peers that are not
    shown any more. `pipelines` are all of them, where one has changed.
    """

    number: int
    id: str
    whole: bool
    nodes: tuple[bytes, ...]
    removed: tuple[str, ...] = ()
    pipelines: bytes | None = None


class Shown(NamedTuple):
    """A node as readers see it."""

    view: NodeView
    json: bytes


class Reader(Seat):
    """One reader's place in the record: `async for event in reader`, inside `with reader`."""

    def __init__(self, feed: NodeFeed, place: int | None, caller: Caller) -> None:
        super().__init__(caller)
        self._feed = feed
        self._place = place

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.leave(self)

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> NodesEvent:
        """The next event, when it comes; the end when the coordinator stops."""
        while not self._feed.closed:
            event = self._feed.after(self._place)
            if event is not None:
                self._place = event.number
                return event
            self.woken.clear()
            await self.woken.wait()
        raise StopAsyncIteration


class NodeFeed:
    """The record. `look` gives all nodes as they are now, `pipelines` those; `epoch` tells one
    process's ids from another's."""

    def __init__(
        self,
        look: Callable[[], tuple[NodeView, ...]],
        epoch: str,
        pipelines: Callable[[], tuple[PipelineView, ...]] = lambda: (),
    ) -> None:
        self._look = look
        self._pipelines = pipelines
        self._shown_pipelines = b"[]"
        self._epoch = epoch
        self._number = 0
        self._shown: dict[str, Shown] = {}
        self._record: deque[NodesEvent] = deque()
        self._recorded_nodes = 0
        self._readers = Readers("the nodes' changes", "GET /v1/nodes")
        self._lingers_until_s = 0.0
        self._looked_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._is_stale = True
        self.closed = False

    def touch(self) -> None:
        """Something about a node may have changed."""
        loop = asyncio.get_running_loop()
        if not self._readers and loop.time() >= self._lingers_until_s:
            self._is_stale = True
        elif self._timer is None and not self.closed:
            wait_s = max(0.0, self._looked_s + LOOK_S - loop.time())
            self._timer = loop.call_later(wait_s, self._take_down)

    def follow(self, last_id: str | None, caller: Caller = STRANGER) -> Reader:
        """A reader of what came after the event `last_id`; of everything, when that is not known.

        Problem OVERLOADED when too many read already, in all or of this caller.
        """
        self._readers.check(caller)
        self._refresh()
        reader = Reader(self, self._place_of(last_id), caller)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """It reads no more."""
        self._readers.discard(reader)
        self._lingers_until_s = asyncio.get_running_loop().time() + LINGER_S

    def close(self) -> None:
        """End all readers: the coordinator stops."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._readers.wake()

    def _refresh(self) -> None:
        """Begin anew where changes went unrecorded: whoever was here before gets everything."""
        if not self._is_stale:
            return
        self._is_stale = False
        self._number += 1
        self._record.clear()
        self._recorded_nodes = 0
        self._shown = {view.peer: _shown(None, view) for view in self._look()}
        self._shown_pipelines = msgspec.json.encode(self._pipelines())

    def _place_of(self, last_id: str | None) -> int | None:
        """The number of an id of ours; None for anything else."""
        epoch, _, number = (last_id or "").rpartition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit():
            return None
        # No id has that many digits, and int() of a longer one is work for nothing.
        place = int(number) if len(number) < 19 else -1
        return place if 0 < place <= self._number else None

    def after(self, place: int | None) -> NodesEvent | None:
        """The event that a reader at this place gets next; None when it has all."""
        if place == self._number:
            return None
        first = self._number - len(self._record) + 1
        if place is None or place + 1 < first:
            nodes = tuple(shown.json for shown in self._shown.values())
            pipelines = self._shown_pipelines
            return NodesEvent(
                self._number, self._id(), whole=True, nodes=nodes, pipelines=pipelines
            )
        return self._record[place + 1 - first]

    def _take_down(self) -> None:
        """Compare all nodes with what they were, and record what changed."""
        self._timer = None
        self._looked_s = asyncio.get_running_loop().time()
        before = self._shown
        # What has not changed stays the same object: a slow reader's old event shares it.
        now = {view.peer: _shown(before.get(view.peer), view) for view in self._look()}
        changed = tuple(one.json for peer, one in now.items() if before.get(peer) is not one)
        removed = tuple(peer for peer in before if peer not in now)
        self._shown = now
        pipelines = msgspec.json.encode(self._pipelines())
        dealt = None if pipelines == self._shown_pipelines else pipelines
        self._shown_pipelines = pipelines
        if not changed and not removed and dealt is None:
            return
        self._number += 1
        event = NodesEvent(
            self._number,
            self._id(),
            whole=False,
            nodes=changed,
            removed=removed,
            pipelines=dealt,
        )
        self._record.append(event)
        self._recorded_nodes += len(changed)
        while len(self._record) > RECORD_EVENTS or self._recorded_nodes > RECORD_NODES:
            self._recorded_nodes -= len(self._record.popleft().nodes)
        self._readers.wake()

    def _id(self) -> str:
        return f"{self._epoch}-{self._number}"


def _shown(before: Shown | None, view: NodeView) -> Shown:
    if before is not None and before.view == view:
        return before
    return Shown(view, msgspec.json.encode(view))
