"""The nodes of each model, and those with a slot free, so that a decision looks at few; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parhelion.coordinator.registry import Node


class Ring:
    """Nodes in a rotating order: each look begins where the one before it ended."""

    __slots__ = ("_at", "_nodes", "_places")

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._places: dict[Node, int] = {}
        self._at = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: Node) -> None:
        """Have it in the ring."""
        if node not in self._places:
            self._places[node] = len(self._nodes)
            self._nodes.append(node)

    def discard(self, node: Node) -> None:
        """Have it no more; the last one takes its place."""
        place = self._places.pop(node, None)
        if place is None:
            return
        last = self._nodes.pop()
        if last is not node:
            self._nodes[place] = last
            self._places[last] = place

    def __iter__(self) -> Iterator[Node]:
        """All nodes once, from where the last look ended; the ring must not change meanwhile."""
        nodes = self._nodes
        for _ in range(len(nodes)):
            self._at = (self._at + 1) % len(nodes)
            yield nodes[self._at]


_NOBODY = Ring()
"""The nodes of a model that none offers; nothing is ever added."""


class Index:
    """Nodes by the digests that they offer; `free` holds those that may have a slot."""

    def __init__(self) -> None:
        self._all: dict[str, Ring] = {}
        self._free: dict[str, Ring] = {}

    def all(self, digest: str) -> Ring:
        """The nodes that offer a model."""
        return self._all.get(digest, _NOBODY)

    def free(self, digest: str) -> Ring:
        """Those of them with a slot that is not reserved, whatever else speaks against them."""
        return self._free.get(digest, _NOBODY)

    def add(self, node: Node) -> None:
        """A node came."""
        for digest in node.rooms:
            self._all.setdefault(digest, Ring()).add(node)
        self.update(node)

    def remove(self, node: Node) -> None:
        """A node left."""
        for digest in node.rooms:
            _discard(self._all, digest, node)
            _discard(self._free, digest, node)

    def update(self, node: Node) -> None:
        """A node's reservations changed."""
        has_slot = node.slots_busy < node.slots
        for digest, room in node.rooms.items():
            if has_slot and room.slots_busy < room.slots:
                ring = self._free.get(digest)
                if ring is None:
                    ring = self._free[digest] = Ring()
                ring.add(node)
            else:
                _discard(self._free, digest, node)


def _discard(rings: Mapping[str, Ring], digest: str, node: Node) -> None:
    # Empty rings stay: there are as many as the catalogue has models.
    if digest in rings:
        rings[digest].discard(node)
