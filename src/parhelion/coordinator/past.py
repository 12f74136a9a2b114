"""What was seen of each node, by its proven peer id: coming back washes nobody clean; no I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from parhelion.coordinator.room import Room

PAST_LIMIT = 4096
"""Nodes that left; only those of which something was seen, so that keys which merely come and go
push nobody out."""


@dataclass(slots=True)
class History:
    """One node over all its sessions: the same object in each, so late words count as well."""

    served: int = 0
    """Jobs that it answered, whole or until their client left, since the coordinator started."""
    failed: int = 0
    """Jobs that it failed, lost or left standing."""
    rooms: dict[str, Room] = field(default_factory=dict[str, Room])
    """Of each model that it ever offered and the pool knows, as it was last."""

    @property
    def is_blank(self) -> bool:
        """Whether nothing was seen yet."""
        seen = any(room.was_seen for room in self.rooms.values())
        return not (self.served or self.failed or seen)

    def meet(self, rooms: Mapping[str, Room]) -> None:
        """The node offers these from now on; they go on from what was seen before."""
        for digest, room in rooms.items():
            before = self.rooms.get(digest)
            if before is not None and before is not room:
                room.adopt(before)
            self.rooms[digest] = room


class Past:
    """The histories of nodes that left, the latest last."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, History] = OrderedDict()

    def left(self, peer: str, history: History) -> None:
        """A node left; nothing is kept of one that did nothing."""
        if history.is_blank:
            return
        self._left[peer] = history
        self._left.move_to_end(peer)
        if len(self._left) > PAST_LIMIT:
            self._left.popitem(last=False)

    def back(self, peer: str) -> History | None:
        """A node is here: what was seen of it, if anything is known."""
        return self._left.pop(peer, None)
