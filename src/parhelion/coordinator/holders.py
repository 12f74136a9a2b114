"""Which nodes have which slices, and who of them serves one to a node that is to hold it too.

A neighbour on the same network is quicker than the coordinator, and spares it its bandwidth. Nodes
that no other node can reach directly are not asked: what the relay carries passes us twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from parhelion.coordinator.registry import Registry
from parhelion.coordinator.session import NodeSession
from parhelion.coordinator.stage_orders import Orders
from parhelion.link import PairTicket
from parhelion.models import SliceCard
from parhelion.words import Problem

HOLDERS_LIMIT = 2
"""Of one load: the second is asked where the first is gone, or lies."""

LOADS_LIMIT = 2
"""That one node is asked to serve at once (node.slice_server.SERVED_LIMIT)."""

log = logging.getLogger("parhelion.coordinator")


class Holders:
    """What nodes have said they loaded since they joined; their disks may have let go of it."""

    def __init__(self, registry: Registry, orders: Orders) -> None:
        self._registry = registry
        self._orders = orders
        self._have: dict[NodeSession, set[str]] = {}
        self._asked: Counter[NodeSession] = Counter()

    def note(self, session: NodeSession, stage: str) -> None:
        """A node has loaded a stage, so it has its slice."""
        if not session.ended:
            self._have.setdefault(session, set()).add(stage)

    def forget(self, session: NodeSession) -> None:
        """A node is gone."""
        self._have.pop(session, None)

    @contextmanager
    def serving(
        self, fetcher: NodeSession, stage: str, card: SliceCard
    ) -> Iterator[tuple[PairTicket, ...]]:
        """While a node loads a stage: its tickets to those who serve the slice, told before it."""
        chosen = self._chosen(fetcher, stage, card.digest)
        tickets: list[PairTicket] = []
        for holder in chosen:
            try:
                tickets.append(self._orders.serve(holder, fetcher, card))
            except Problem as problem:
                log.info("no link to fetch by: %s", problem.message, extra={"stage": stage})
        self._asked.update(chosen)
        try:
            yield tuple(tickets)
        finally:
            for ticket in tickets:
                self._orders.withdraw(ticket.link, "the stage is loaded, or is not")
            self._asked.subtract(chosen)
            self._asked += Counter()  # Without those that are asked for nothing any more.

    def _chosen(self, fetcher: NodeSession, stage: str, digest: str) -> list[NodeSession]:
        """Who is asked, the least busy first; nobody for a node that needs no bytes."""
        if self._has(fetcher, stage, digest):
            return []
        able = [
            member
            for member in self._registry.members()
            if isinstance(member, NodeSession)
            and not member.ended
            and member.node.leaving is None
            and self._asked[member] < LOADS_LIMIT
            and self._has(member, stage, digest)
            and self._is_direct(member, fetcher)
        ]
        able.sort(key=lambda one: (self._asked[one], one.node.connected_at_ms, one.node.peer))
        return able[:HOLDERS_LIMIT]

    def _has(self, session: NodeSession, stage: str, digest: str) -> bool:
        offer = session.node.card.stage
        if offer is None:
            return False
        return stage in self._have.get(session, ()) or digest in offer.whole

    def _is_direct(self, holder: NodeSession, fetcher: NodeSession) -> bool:
        """Whether a direct link may be made, by what is known of the two."""
        offer = holder.node.card.stage
        path = self._orders.path(holder.node.peer, fetcher.node.peer)
        return offer is not None and bool(offer.direct) and (path is None or path.path == "direct")
