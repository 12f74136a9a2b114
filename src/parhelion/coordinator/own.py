"""The pool's own engines: for which models strangers are compared with them, and who waits for it.

While one is away nobody is let off by joining just then: a stranger waits until it is back.
"""

from __future__ import annotations

from collections.abc import Collection

from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.room import Room
from parhelion.coordinator.session import Session
from parhelion.link import Standing

COMPARING = "its ids are being compared with the pool's own engine's"
WAITING = "waits for the pool's own engine to compare with"


class OwnEngines:
    """The pool's own peers, the models that each was seen to serve, and who serves one now."""

    def __init__(self, registry: Registry, peers: Collection[str]) -> None:
        self._registry = registry
        self._peers = peers
        self._seen: dict[str, frozenset[str]] = {}

    def __contains__(self, peer: str) -> bool:
        return peer in self._peers

    def __bool__(self) -> bool:
        return bool(self._peers)

    def met(self, node: Node, rooms: Collection[str]) -> None:
        """One of them is here: this is what it serves, also while it is away again."""
        self._seen[node.peer] = frozenset((*node.rooms, *rooms))

    def compares(self, digest: str) -> bool:
        """Whether there is or will be something to compare with; of one never seen nobody knows."""
        return any(peer not in self._seen or digest in self._seen[peer] for peer in self._peers)

    def session(self, digest: str) -> Session | None:
        """One that would answer now."""
        # By name: a look at all members at each of thousands of them is what a storm is made of.
        for peer in self._peers:
            member = self._registry.member(peer)
            if isinstance(member, Session):
                node = member.node
                if node.state == "ready" and digest in node.rooms:
                    return member
        return None

    def bar(self, digest: str, room: Room) -> None:
        """Keep paid work from a stranger's model until it was compared, where it can be."""
        if self.compares(digest):
            room.barred, room.measuring = self.why(digest), True

    def why(self, digest: str) -> str:
        """What a stranger's model waits for now."""
        return WAITING if self.session(digest) is None else COMPARING

    def review(self, node: Node) -> bool:
        """Bring up to date what a stranger waits for, or end its waiting; whether it changed."""
        changed = False
        for digest, room in node.rooms.items():
            if not room.measuring:
                continue
            why = self.why(digest) if self.compares(digest) else None
            if why != room.barred:
                room.barred, room.measuring = why, why is not None
                changed = True
        return changed


def standing_of(node: Node) -> Standing:
    """What a node's operator reads: whether it gets paid work, and why not."""
    barred = [room for room in node.rooms.values() if room.barred is not None]
    if not barred:
        return Standing(paid_work=True, state="ready")
    first = barred[0]
    if len(barred) < len(node.rooms):
        but = f"but not for {len(barred)} of its {len(node.rooms)} models: {first.barred}"
        return Standing(paid_work=True, state="ready", reason=but)
    state = "measuring" if any(room.measuring for room in barred) else "refused"
    return Standing(paid_work=False, state=state, reason=first.barred)
