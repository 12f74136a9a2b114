"""Which node gets a request: filter -> score -> pick; pure, over whatever looks like a node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar


class RoomState(Protocol):
    """What a node has for one model, as far as routing reads it."""

    @property
    def largest_tokens(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def slots_busy(self) -> int: ...
    @property
    def kv_tokens(self) -> int: ...
    @property
    def kv_busy(self) -> int: ...
    @property
    def full_until_s(self) -> float | None: ...


class NodeState(Protocol):
    """The facts about one node that routing reads."""

    @property
    def peer(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def rooms(self) -> Mapping[str, RoomState]: ...
    @property
    def slots(self) -> int: ...
    @property
    def slots_busy(self) -> int: ...
    @property
    def tokens_per_s(self) -> float | None: ...
    @property
    def idle_since_s(self) -> float: ...


Seat = TypeVar("Seat", bound=NodeState)


@dataclass(frozen=True, slots=True)
class Need:
    """What one attempt takes: a model, and room for prompt and output together."""

    digest: str
    prompt_tokens: int
    max_tokens: int

    @property
    def kv_tokens(self) -> int:
        """KV tokens to reserve: the most the attempt can fill."""
        return self.prompt_tokens + self.max_tokens


def capable(nodes: Iterable[Seat], need: Need, without: Collection[str] = ()) -> list[Seat]:
    """Nodes that could take it, now or once others finish; a suspect one may come back."""
    return [
        node
        for node in nodes
        if node.state in ("ready", "suspect")
        and node.peer not in without
        and need.digest in node.rooms
        and need.kv_tokens <= node.rooms[need.digest].largest_tokens
    ]


def pick(nodes: Iterable[Seat], need: Need, without: Collection[str] = ()) -> Seat | None:
    """The best node with a free slot and free KV tokens, or None: all are busy."""
    free = [
        node
        for node in capable(nodes, need, without)
        if node.state == "ready"
        and node.slots_busy < node.slots
        and _has_room(node.rooms[need.digest], need)
    ]
    if len(free) < 2:
        return free[0] if free else None
    # An estimate and a guess do not compare: one unmeasured node, and all go by busy share.
    measured = all(node.tokens_per_s for node in free)
    return min(free, key=lambda node: (_score(node, need, measured), node.idle_since_s, node.peer))


def largest_tokens(nodes: Iterable[NodeState], digest: str) -> int | None:
    """The largest request of a model that some node can hold; None without a node."""
    sizes = [
        node.rooms[digest].largest_tokens
        for node in nodes
        if node.state in ("ready", "suspect") and digest in node.rooms
    ]
    return max(sizes, default=None)


def _has_room(room: RoomState, need: Need) -> bool:
    """Whether a slot and the KV tokens are free now, as far as we and the node know."""
    return (
        room.slots_busy < room.slots
        and room.kv_busy + need.kv_tokens <= room.kv_tokens
        and room.full_until_s is None
    )


def _score(node: NodeState, need: Need, measured: bool) -> float:
    rate = node.tokens_per_s
    if measured and rate:
        # `rate` is of all streams together, so one more stream gets its part of it.
        return need.max_tokens * (node.slots_busy + 1) / rate
    room = node.rooms[need.digest]
    return room.slots_busy / room.slots
