"""Containment of requests that crash engines: each is tried once more, alone in its batch.

An engine that crashes takes all its streams along, and nobody knows which one did it. So each is
a suspect and goes on alone (DESIGN 5): who crashes an engine alone did it, and is refused for an
hour; who gets past the place where it was cut is cleared, and its node takes others again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b

from parhelion.coordinator import route
from parhelion.coordinator.queue import Ticket
from parhelion.coordinator.registry import Node
from parhelion.words import Clock, Problem, ProblemCode

REFUSED_S = 3600.0
"""Long enough that a client's retries meet it, short enough that a repaired engine is found out."""

REFUSED_LIMIT = 4096
"""Hashes of 16 bytes; each one crashed two engines, so nobody fills this quickly."""

CLEARED_IDS = 8
"""Ids past the place of the crash: the prefill and some steps went well in a batch of one."""

WAIT_S = 60.0
"""For a node of its own: the suspects of one crash follow each other, a second or so apiece."""


class Poison:
    """Prompts that crashed an engine alone, for REFUSED_S."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: OrderedDict[bytes, float] = OrderedDict()

    def check(self, digest: str, prompt_ids: tuple[int, ...]) -> None:
        """Problem POISON_REQUEST while this prompt to this model is refused."""
        if not self._until_s:
            return
        until_s = self._until_s.get(_hash(digest, prompt_ids))
        if until_s is not None and self._clock.monotonic_s() < until_s:
            raise poisonous()

    def add(self, digest: str, prompt_ids: tuple[int, ...]) -> None:
        """It did it again, alone."""
        self._until_s[_hash(digest, prompt_ids)] = self._clock.monotonic_s() + REFUSED_S
        if len(self._until_s) > REFUSED_LIMIT:
            self._until_s.popitem(last=False)


class Isolation:
    """Suspects that wait for an engine of their own.

    An idle one is taken first. Where every engine of a model has work, and none is alone with a
    suspect (who will be done soon), one takes no more jobs and its streams are moved: `move` is
    told the node and the model. A node's other models go on.
    """

    def __init__(
        self, nodes: Callable[[], Iterable[Node]], move: Callable[[Node, str], None]
    ) -> None:
        self._nodes = nodes
        self._move = move
        self._waiting: list[Ticket] = []
        self._closed: dict[str, Node] = {}
        """At most one for each model that somebody waits for."""

    def join(self, ticket: Ticket) -> None:
        """Wait for an engine."""
        self._waiting.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """The ticket was given up."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        self._open_again()

    def tickets(self) -> list[Ticket]:
        """Who waits, the first first."""
        return list(self._waiting)

    def serve(self, reserve: Callable[[Node, Ticket], None]) -> None:
        """Give idle engines to who waits; close one to others where there is none."""
        if not self._waiting:
            return
        here = list(self._nodes())
        self._closed = {digest: node for digest, node in self._closed.items() if node in here}
        for ticket in self.tickets():
            nodes = list(self._nodes())
            node = route.pick_idle(nodes, ticket.need, ticket.without, ticket.rather_without)
            if node is not None:
                self._waiting.remove(ticket)
                if self._closed.get(ticket.need.digest) is node:
                    del self._closed[ticket.need.digest]
                reserve(node, ticket)
        self._open_again()
        for ticket in self.tickets():
            if ticket.need.digest not in self._closed:
                self._close_one(ticket)

    def _close_one(self, ticket: Ticket) -> None:
        digest = ticket.need.digest
        able = route.capable(self._nodes(), ticket.need, ticket.without)
        if not able or any(node.rooms[digest].alone for node in able):
            return
        node = min(able, key=lambda node: _cost_of_closing(node, digest))
        self._closed[digest] = node
        node.rooms[digest].alone = True
        self._move(node, digest)

    def _open_again(self) -> None:
        wanted = {ticket.need.digest for ticket in self._waiting}
        for digest in self._closed.keys() - wanted:
            self._closed.pop(digest).rooms[digest].alone = False


def _cost_of_closing(node: Node, digest: str) -> tuple[bool, int, str]:
    """Streams that move; last of all a node whose slots other models hold: it frees none."""
    running = node.rooms[digest].slots_busy
    return running == 0, running, node.peer


def poisonous() -> Problem:
    """What its sender is told."""
    return Problem(
        ProblemCode.POISON_REQUEST,
        "this prompt crashed the engine, twice, the second time alone",
        hint="change the prompt: this one is refused for an hour",
    )


def _hash(digest: str, prompt_ids: tuple[int, ...]) -> bytes:
    ids = b"".join(id.to_bytes(4, "little") for id in prompt_ids)
    return blake2b(ids, key=bytes.fromhex(digest)[:32], digest_size=16).digest()
