"""Which nodes a client's `provider` object allows, and which it would rather have; pure.

The words are OpenRouter's. Names are resolved to peer ids once, when the request comes, so that
its queue, its placing and its migrations all go by the same nodes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from parhelion.coordinator.names import Names
from parhelion.words import Problem, ProblemCode, ProviderPreferences

NAMES_TOLD = 8
"""Unknown names that an error repeats; a client that sent more has the list itself."""

ALIKE = 1.05
"""Measured values within 5 % are the same, as they are for the router's own estimate."""

HINT = "GET /v1/nodes shows each node's name, peer and operator"


class Pace(Protocol):
    """How fast a node makes ids for one model."""

    def step_s(self, streams: int) -> float | None: ...


class Measured(Protocol):
    """What was measured of a node for one model; `first_id_s` is None until it was."""

    @property
    def speed(self) -> Pace: ...
    @property
    def first_id_s(self) -> float | None: ...


class Candidate(Protocol):
    """A node as far as a client's wishes go."""

    @property
    def peer(self) -> str: ...
    @property
    def stages(self) -> tuple[str, ...]: ...
    @property
    def fallback(self) -> bool: ...
    @property
    def slots_busy(self) -> int: ...
    @property
    def price_micro(self) -> int: ...
    @property
    def rooms(self) -> Mapping[str, Measured]: ...


Seat = TypeVar("Seat", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Choice:
    """A client's preferences with peer ids for names; `only` None: any node.

    `order` holds for each name of the list the peers behind it (an operator may have several).
    `strict`: no node beyond `order`, or where there is none, not the pool's own engine.
    """

    only: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    order: tuple[frozenset[str], ...] = ()
    strict: bool = False
    sort: Literal["price", "throughput", "latency"] | None = None

    def allows(self, node: Candidate) -> bool:
        """Whether this node may serve the request at all; a pipeline, whether all of its may."""
        peers = (node.peer, *node.stages)
        if any(peer in self.ignore for peer in peers):
            return False
        if self.only is not None and not _is_within(node, self.only):
            return False
        if not self.strict:
            return True
        if self.order:
            return self._place(node) < len(self.order)
        return not node.fallback or self.only is not None

    def wanted(self, nodes: Sequence[Seat], digest: str) -> Sequence[Seat]:
        """Those of these nodes that the client wants most; all of them when it does not care.

        Among several the router's own score decides.
        """
        if self.order:
            nodes = _least(nodes, [self._place(node) for node in nodes])
        if self.sort == "price":
            return _least(nodes, [node.price_micro for node in nodes])
        if self.sort is not None:
            return _least(nodes, [self._measure(node, digest) for node in nodes], ALIKE)
        return nodes

    def _place(self, node: Candidate) -> int:
        """Where a node stands in the order; a pipeline where its last named node does."""
        if not node.stages:
            return self._place_of(node.peer)
        return max(self._place_of(peer) for peer in node.stages)

    def _place_of(self, peer: str) -> int:
        for place, peers in enumerate(self.order):
            if peer in peers:
                return place
        return len(self.order)

    def _measure(self, node: Candidate, digest: str) -> float:
        """Seconds, so that less is better; a node that was not measured comes after all others.

        Throughput is what this one stream would get now, not what a node makes of all together.
        """
        room = node.rooms[digest]
        if self.sort == "throughput":
            seconds = room.speed.step_s(node.slots_busy + 1)
        else:
            seconds = room.first_id_s
        return math.inf if seconds is None else seconds


def _is_within(node: Candidate, only: frozenset[str]) -> bool:
    if node.peer in only:
        return True
    return bool(node.stages) and only.issuperset(node.stages)


def _least(nodes: Sequence[Seat], values: Sequence[float], alike: float = 1.0) -> Sequence[Seat]:
    """The nodes with the least value, and those whose values are like it."""
    if not nodes:
        return nodes
    limit = min(values) * alike
    return [node for node, value in zip(nodes, values, strict=True) if value <= limit]


def choose(preferences: ProviderPreferences | None, known: Collection[Names]) -> Choice | None:
    """The preferences over peer ids; None where none is said. Problem for a name nobody has.

    `known` has all nodes that the pool remembers, so that a node which is away for a moment is
    waited for and not called unknown. An empty list says nothing, as with OpenRouter.
    """
    if preferences is None:
        return None
    wanted = {*(preferences.only or ()), *preferences.ignore, *preferences.order}
    table = _table(known, wanted)
    only = _peers(preferences.only or (), table, "only")
    choice = Choice(
        only=frozenset().union(*only) if only else None,
        ignore=frozenset().union(*_peers(preferences.ignore, table, "ignore")),
        order=_peers(preferences.order, table, "order"),
        strict=not preferences.allow_fallbacks,
        sort=preferences.sort,
    )
    return None if choice == Choice() else choice


def _table(known: Collection[Names], wanted: Set[str]) -> Mapping[str, tuple[bool, Set[str]]]:
    """Peers by each wanted name; whether the name is one that a node chose for itself.

    An id goes before a name of the same letters: what a node calls itself can take nobody's id.
    """
    table: dict[str, tuple[bool, Set[str]]] = {}
    for word in wanted:
        if by_id := set[str]().union(*(names.by_id(word) for names in known)):
            table[word] = False, by_id
        elif by_name := set[str]().union(*(names.by_name(word) for names in known)):
            table[word] = True, by_name
    return table


def _peers(
    names: Sequence[str], table: Mapping[str, tuple[bool, Set[str]]], field: str
) -> tuple[frozenset[str], ...]:
    unknown = [name for name in names if name not in table]
    if unknown:
        told = ", ".join(repr(name[:128]) for name in unknown[:NAMES_TOLD])
        more = f" and {len(unknown) - NAMES_TOLD} more" if len(unknown) > NAMES_TOLD else ""
        raise _invalid(f"no node or operator here is called {told}{more}", field, HINT)
    found: list[frozenset[str]] = []
    for name in names:
        chosen, peers = table[name]
        # To ignore both harms nobody; to prefer one, the client must say which it trusts.
        if chosen and len(peers) > 1 and field != "ignore":
            ids = ", ".join(sorted(peers)[:NAMES_TOLD])
            raise _invalid(f"{len(peers)} nodes are called {name!r}: {ids}", field, "name the peer")
        found.append(frozenset(peers))
    return tuple(found)


def _invalid(message: str, field: str, hint: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, hint=hint, param=f"provider.{field}")
