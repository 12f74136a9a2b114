"""A slot for a request: at once when a node is free, else a wait in the queue; events only."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection

from parhelion.coordinator import route
from parhelion.coordinator.queue import RETRY_AFTER_S, Queue, Ticket
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.route import Need
from parhelion.words import Clock, Problem, ProblemCode

NO_NODE_RETRY_S = 5
"""A node that restarts is back in about this time."""


class Places:
    """Hands out slots; a slot is reserved in the same turn in which its node is picked."""

    def __init__(self, registry: Registry, queue: Queue, clock: Clock, need: int) -> None:
        self._registry = registry
        self._queue = queue
        self._clock = clock
        self._need_nodes = need

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.size

    def capacity(self, digest: str) -> int | None:
        """Tokens of the largest request that some node can hold; None without a node."""
        return route.largest_tokens(self._registry.nodes(), digest)

    def refusal(self, need: Need, without: Collection[str] = ()) -> Problem | None:
        """Why nobody's request of this kind would even get into the queue; None when it would."""
        if not self._registry.complete():
            ready = self._registry.ready_count()
            return _no_node(f"the pool waits for nodes: {ready} of {self._need_nodes} have joined")
        if not route.capable(self._registry.nodes(), need, without):
            return self._nobody(need)
        return None

    def place(
        self, need: Need, account: str, wait_s: float, without: Collection[str] = ()
    ) -> Ticket:
        """A ticket whose `got` is the reserved Node, now or when its turn comes.

        `got` fails with Problem DEADLINE_EXCEEDED after `wait_s`, with NO_NODE when the last
        node that could have served leaves; Problem is raised here when there is none now.
        """
        refusal = self.refusal(need, without)
        if refusal is not None:
            raise refusal
        loop = asyncio.get_running_loop()
        ticket = Ticket(need, account, frozenset(without), loop.create_future())
        node = self._pick_behind(need, without)
        if node is not None:
            self._reserve(node, ticket)
            return ticket
        self._queue.join(ticket)
        timer = loop.call_later(max(0.0, wait_s), self._expire, ticket)
        ticket.got.add_done_callback(lambda _got: timer.cancel())
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The client left: its ticket leaves the queue."""
        self._queue.leave(ticket)
        if not ticket.got.done():
            ticket.got.set_exception(Problem(ProblemCode.CANCELLED, "the client left the queue"))

    def free(self, node: Node, need: Need) -> None:
        """Give a slot back and serve who waits."""
        node.release(need, self._clock.monotonic_s())
        self.serve_queue()

    def nodes_changed(self) -> None:
        """A node came, left or changed: tell those that no node can serve, then serve the rest."""
        if self._queue.size:
            self._dismiss()
            self.serve_queue()

    def serve_queue(self) -> None:
        """Give free slots to those who wait, in turn."""
        for digest in self._queue.models():
            while (ticket := self._queue.first(digest)) is not None:
                node = self._pick(ticket.need, ticket.without)
                if node is None:
                    self._serve_behind(ticket)
                    break
                self._queue.serve(ticket)
                self._reserve(node, ticket)

    def _serve_behind(self, first: Ticket) -> None:
        """Serve who waits behind the first ticket, on nodes that could never take that one.

        A ticket bars the nodes that could take it, for all behind it. Of a size that found nothing
        a larger one finds nothing either, so a long queue is not tried ticket by ticket.
        """
        digest, barred = first.need.digest, self._able(first)
        hopeless_tokens: float = math.inf if first.without else first.need.kv_tokens
        # Nearly always everybody waits for the same nodes, and here it ends.
        waiting = self._queue.in_turn(digest)[1:] if self._any_free(digest, barred) else []
        for ticket in waiting:
            if ticket.need.kv_tokens >= hopeless_tokens:
                continue
            node = self._pick(ticket.need, ticket.without | barred)
            if node is not None:
                self._queue.serve(ticket)
                self._reserve(node, ticket)
                continue
            barred |= self._able(ticket)
            if not ticket.without:
                hopeless_tokens = ticket.need.kv_tokens
            if not self._any_free(digest, barred):
                return

    def refuse_all(self, problem: Callable[[], Problem]) -> None:
        """Everybody leaves the queue with this problem (the coordinator drains)."""
        for ticket in self._queue.tickets():
            self._queue.leave(ticket)
            ticket.got.set_exception(problem())

    def _pick_behind(self, need: Need, without: Collection[str]) -> Node | None:
        """A free node that nobody who waits for this model could take: nobody is overtaken."""
        barred = set(without)
        while (node := self._pick(need, barred)) is not None:
            waiting = self._queue.of_model(need.digest)
            if not any(route.capable((node,), t.need, t.without) for t in waiting):
                return node
            barred.add(node.peer)
        return None

    def _able(self, ticket: Ticket) -> set[str]:
        """The nodes that could take a ticket, now or later."""
        nodes = self._registry.nodes()
        return {node.peer for node in route.capable(nodes, ticket.need, ticket.without)}

    def _any_free(self, digest: str, barred: Collection[str]) -> bool:
        """Whether the smallest request of a model would find a node beside those."""
        return self._pick(Need(digest, 1, 1), barred) is not None

    def _pick(self, need: Need, without: Collection[str]) -> Node | None:
        return route.pick(self._registry.nodes(), need, without)

    def _reserve(self, node: Node, ticket: Ticket) -> None:
        node.reserve(ticket.need, self._clock.monotonic_s())
        ticket.got.set_result(node)

    def _expire(self, ticket: Ticket) -> None:
        self._queue.leave(ticket)
        if not ticket.got.done():
            problem = Problem(
                ProblemCode.DEADLINE_EXCEEDED,
                "no slot came free before the request's deadline",
                hint="all nodes are busy; retry later or allow more time",
                retry_after_s=RETRY_AFTER_S,
            )
            ticket.got.set_exception(problem)

    def _dismiss(self) -> None:
        nodes = self._registry.nodes()
        for ticket in self._queue.tickets():
            if not route.capable(nodes, ticket.need, ticket.without):
                self._queue.leave(ticket)
                ticket.got.set_exception(self._nobody(ticket.need))

    def _nobody(self, need: Need) -> Problem:
        largest = self.capacity(need.digest)
        if largest is not None and largest < need.kv_tokens:
            return _no_node(
                f"no node can hold {need.kv_tokens} tokens (prompt and max_tokens); the largest "
                f"holds {largest}"
            )
        return _no_node("no node serves this model now")


def _no_node(message: str) -> Problem:
    return Problem(
        ProblemCode.NO_NODE,
        message,
        hint="try again later; GET /health says ready when a prompt would be served",
        retry_after_s=NO_NODE_RETRY_S,
    )
