"""Containment of requests that crash engines: each is tried once more, alone in its batch.

An engine that crashes takes all its streams along, and nobody knows which one did it. So each is
a suspect and goes on alone (DESIGN 5), at another operator's node where there is one: who crashes
an engine alone is refused for an hour; who gets past the place where it was cut is cleared, and its
node takes others again. That an engine crashed is its node's word, though, and one operator's word
proves nothing: it keeps the prompt from that operator's nodes, and from nobody else's. In a
pipeline each stage can make the next one crash, so what is said of it may be any of its operators'.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from parhelion.coordinator import route
from parhelion.coordinator.breaker import Crash, Record
from parhelion.coordinator.queue import Ticket
from parhelion.coordinator.registry import Node
from parhelion.words import Clock, Problem, ProblemCode

REFUSED_S = 3600.0
"""Long enough that a client's retries meet it, short enough that a repaired engine is found out."""

REFUSED_LIMIT = 4096
"""Hashes of 16 bytes; each one cost somebody two crashes, so nobody fills this quickly."""

CLEARED_IDS = 8
"""Ids past the place of the crash: the prefill and some steps went well in a batch of one."""

WAIT_S = 60.0
"""For a node of its own: the suspects of one crash follow each other, a second or so apiece."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A node's word that its engine crashed under a job, and where that is on its record."""

    node: Node
    record: Record
    crash: Crash

    def excuse(self, now_s: float) -> None:
        """The prompt did it: nothing of that crash is the node's fault."""
        self.node.history.failed -= self.record.excuse(self.crash, now_s)


@dataclass(slots=True)
class Suspicion:
    """What is said of one prompt: by whom, for how long, and whether that is proof."""

    until_s: float
    claims: list[Claim] = field(default_factory=list[Claim])
    proof: str | None = None

    @property
    def suspects(self) -> frozenset[str]:
        """Operators that had a part in every crash: each of them may have made it all up."""
        return frozenset[str].intersection(*(claim.node.operators for claim in self.claims))


class Poison:
    """Prompts that are said to have crashed an engine alone, for REFUSED_S.

    A prompt is refused to everybody when an engine of the pool's own crashed at it alone, or when
    no operator had a part in every crash: two nodes of two operators, or pipelines that have none
    in common. Short of that it is kept from nodes and pipelines in which all who had are: what
    they would say is known. What was found at nodes that a client had chosen is held against its
    own account only: else it could choose those whose word it wants spread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._suspicions: OrderedDict[bytes, Suspicion] = OrderedDict()

    def check(
        self, digest: str, prompt_ids: tuple[int, ...], account: str | None = None
    ) -> tuple[frozenset[str], ...]:
        """Operators whose word is known: no node is asked in which all of such a set have a part.

        Problem POISON_REQUEST when none is asked at all.
        """
        accused: tuple[frozenset[str], ...] = ()
        if not self._suspicions:
            return accused
        now_s = self._clock.monotonic_s()
        for scope in {None, account}:
            found = self._suspicions.get(_hash(digest, prompt_ids, scope))
            if found is None or now_s >= found.until_s:
                continue
            if found.proof is not None:
                raise poisonous(found.proof)
            accused = (*accused, found.suspects)
        return accused

    def add(
        self,
        digest: str,
        prompt_ids: tuple[int, ...],
        claims: Sequence[Claim],
        account: str | None = None,
    ) -> Problem:
        """The last of a request's claims is of a crash alone; what its sender is told."""
        now_s = self._clock.monotonic_s()
        key = _hash(digest, prompt_ids, account)
        before = self._suspicions.pop(key, None)
        if before is None or now_s >= before.until_s:
            before = Suspicion(now_s)
        found = Suspicion(now_s + REFUSED_S, [*before.claims, *claims], before.proof)
        if claims[-1].node.own:
            found.proof = "the pool's own engine crashed at this prompt, alone"
        elif found.proof is None and not found.suspects:
            found.proof = "nodes of different operators say that their engines crashed at it"
        if found.proof is not None:
            for claim in found.claims:
                claim.excuse(now_s)
            found.claims = []
        self._suspicions[key] = found
        if len(self._suspicions) > REFUSED_LIMIT:
            self._suspicions.popitem(last=False)
        return poisonous(found.proof)


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
            without = _without(ticket, nodes)
            # Of the pool's own engine nobody doubts what comes of it.
            own = [node for node in nodes if node.own and not node.fallback]
            node = route.pick_idle(
                own, ticket.need, without, ticket.rather_without
            ) or route.pick_idle(nodes, ticket.need, without, ticket.rather_without)
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
        nodes = list(self._nodes())
        able = route.capable(nodes, ticket.need, _without(ticket, nodes))
        if not able or any(node.rooms[digest].alone for node in able):
            return
        node = min(able, key=lambda node: _cost_of_closing(node, digest))
        self._closed[digest] = node
        node.rooms[digest].alone = True
        self._move(node, digest)

    def _open_again(self) -> None:
        nodes = list(self._nodes()) if self._closed else []
        for digest, node in list(self._closed.items()):
            tickets = [ticket for ticket in self._waiting if ticket.need.digest == digest]
            if not any(route.is_able(node, one.need, _without(one, nodes)) for one in tickets):
                self._closed.pop(digest).rooms[digest].alone = False


def _cost_of_closing(node: Node, digest: str) -> tuple[bool, int, str]:
    """Streams that move; last of all a node whose slots other models hold: it frees none."""
    running = node.rooms[digest].slots_busy
    return running == 0, running, node.peer


def _without(ticket: Ticket, nodes: Sequence[Node]) -> frozenset[str]:
    """The nodes that it does not get: those of who says that it crashes them as the last only."""
    if not ticket.last_resort:
        return ticket.without
    accusers = (node.peer for node in nodes if node.operators & ticket.last_resort)
    without = ticket.without.union(accusers)
    return without if route.any_capable(nodes, ticket.need, without) else ticket.without


def poisonous(proof: str | None) -> Problem:
    """What its sender is told: how it is known, or that it is one operator's word."""
    if proof is None:
        return Problem(
            ProblemCode.POISON_REQUEST,
            "whoever could serve this prompt says that it crashes the engine, also alone; "
            "nobody else has confirmed it",
            hint="change the prompt, or let other nodes serve it: those are not asked for an hour",
        )
    return Problem(
        ProblemCode.POISON_REQUEST,
        f"{proof} (tried twice, the second time alone)",
        hint="change the prompt: this one is refused for an hour",
    )


def _hash(digest: str, prompt_ids: tuple[int, ...], account: str | None) -> bytes:
    ids = b"".join(id.to_bytes(4, "little") for id in prompt_ids)
    scope = b"" if account is None else blake2b(account.encode(), digest_size=16).digest()
    key = bytes.fromhex(digest)[:32]
    return blake2b(ids, key=key, person=scope, digest_size=16).digest()
