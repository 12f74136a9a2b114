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
    """Suspects that wait for a node of their own.

    An idle node is taken first. Where every node has work, and none is alone with a suspect (who
    will be done soon), one takes no more jobs and its streams are moved: `move` is told which.
    """

    def __init__(self, nodes: Callable[[], Iterable[Node]], move: Callable[[Node], None]) -> None:
        self._nodes = nodes
        self._move = move
        self._waiting: list[Ticket] = []
        self._closed: Node | None = None

    def join(self, ticket: Ticket) -> None:
        """Wait for a node."""
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
        """Give idle nodes to who waits; close one node to others where there is none."""
        if not self._waiting:
            return
        if self._closed is not None and self._closed not in list(self._nodes()):
            self._closed = None
        for ticket in self.tickets():
            nodes = list(self._nodes())
            node = route.pick_idle(nodes, ticket.need, ticket.without, ticket.rather_without)
            if node is not None:
                self._waiting.remove(ticket)
                if self._closed is node:
                    self._closed = None
                reserve(node, ticket)
        self._open_again()
        if self._waiting and self._closed is None:
            self._close_one(self._waiting[0])

    def _close_one(self, ticket: Ticket) -> None:
        able = route.capable(self._nodes(), ticket.need, ticket.without)
        if not able or any(node.alone for node in able):
            return
        node = min(able, key=lambda node: (node.slots_busy, node.peer))
        self._closed = node
        node.alone = True
        self._move(node)

    def _open_again(self) -> None:
        if not self._waiting and self._closed is not None:
            self._closed.alone = False
            self._closed = None


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
