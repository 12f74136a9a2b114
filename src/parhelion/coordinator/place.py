"""A slot for a request: at once when a node is free, else a wait in the queue; events only."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator

from parhelion.coordinator import route
from parhelion.coordinator.finish import finish_s
from parhelion.coordinator.isolate import WAIT_S as ALONE_WAIT_S
from parhelion.coordinator.isolate import Isolation
from parhelion.coordinator.provider import Choice
from parhelion.coordinator.queue import RETRY_AFTER_S, Queue, Ticket
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.route import Need
from parhelion.words import Clock, Problem, ProblemCode

NO_NODE_RETRY_S = 5
"""A node that restarts is back in about this time."""


PATIENCE_S = 30.0
"""So long, and no longer than half its time or than its answer would take there, a request may
leave free slots of slow nodes: by then the estimate that others finish sooner has proved wrong."""

LOOKS_LIMIT = 64
"""Tickets that are tried at one event; each looks at all nodes, and the next event comes soon."""

LOOK_AGAIN_S = 0.25
"""Between two looks of who waits for a faster node, where nothing but heartbeats comes."""

BUSY_LIMIT = 128
"""Busy nodes of which it is counted how soon they come free; of more, so many speak for all."""

LATER_HINT = "try again later; GET /health says ready when a prompt would be served"
MODEL_HINT = "try again later; GET /v1/models says when it is available, and which others are"
"""/health is of the pool's default model, which may well be served."""


class Places:
    """Hands out slots; a slot is reserved in the same turn in which its node is picked."""

    def __init__(
        self,
        registry: Registry,
        queue: Queue,
        clock: Clock,
        move: Callable[[Node, str], None],
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._clock = clock
        self._isolation = Isolation(registry.nodes, move)
        self.why: Callable[[str], str | None] = lambda _digest: None
        """Why nobody serves a model, where more is known than that."""
        self.comes: Callable[[str], bool] = lambda _digest: False
        """Whether a place for a model is being made just now: its pipeline is set up again."""
        self.on_want: Callable[[str], None] = lambda _digest: None
        """Told of a model that somebody waits for while such a place is being made."""
        # As many entries as the catalogue has models.
        self._largest: dict[str, tuple[int, int | None]] = {}
        self._version = -1
        self._looked_s = -math.inf
        self._arrivals = itertools.count(1)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.size

    def capacity(self, digest: str, choice: Choice | None = None) -> int | None:
        """Tokens of the largest request that some allowed node can hold; None without a node."""
        if choice is not None:
            return route.largest_tokens(self._registry.index.all(digest), digest, choice)
        version, tokens = self._largest.get(digest, (-1, None))
        if version != self._registry.version:
            tokens = route.largest_tokens(self._registry.index.all(digest), digest)
            self._largest[digest] = self._registry.version, tokens
        return tokens

    def refusal(self, need: Need, without: Collection[str] = ()) -> Problem | None:
        """Why nobody's request of this kind would even get into the queue; None when it would."""
        waits = self._registry.waits()
        if waits is not None:
            return _no_node(waits)
        if not route.any_capable(self._registry.index.all(need.digest), need, without):
            return self._nobody(need)
        return None

    def is_made(self, need: Need) -> bool:
        """Whether a request that nobody can serve now may wait for a pipeline that is set up."""
        return self._registry.complete() and need.choice is None and self.comes(need.digest)

    def crowded(self, need: Need, line: str) -> Problem | None:
        """Why one more request would find neither a slot nor a place in line; None if it would.

        Only for whoever is about to pay: all others are told when they join.
        """
        if self._any_free(need.digest):
            return None
        try:
            self._queue.check(line)
        except Problem as problem:
            return problem
        return None

    def place(
        self,
        need: Need,
        account: str,
        wait_s: float,
        without: Collection[str] = (),
        rather_without: str | None = None,
        begun: bool = False,
        last_resort: Collection[str] = (),
        arrival: int | None = None,
        come_s: float = 0.0,
    ) -> Ticket:
        """A ticket whose `got` is the reserved Node, now or when its turn comes.

        `arrival` is that of an earlier ticket of who comes back. A suspect takes the nodes of
        `last_resort` only where there is no other, and waits `come_s` for a node to come.

        `got` fails with Problem DEADLINE_EXCEEDED after `wait_s`, with NO_NODE when the last
        node that could have served leaves; Problem is raised here when there is none now. An
        answer that has `begun`, and a suspect, wait for a node to come instead; where a pipeline
        is set up, so does everybody, for `come_s`.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(
            need, account, frozenset(without), loop.create_future(), rather_without, begun,
            frozenset(last_resort), next(self._arrivals) if arrival is None else arrival,
            returned=arrival is not None, come_s=come_s,
        )  # fmt: skip
        if need.alone:
            wait_s = max(wait_s, ALONE_WAIT_S)
            self._isolation.join(ticket)
            self._isolation.serve(self._reserve)
        else:
            ticket.patient_until_s = self._clock.monotonic_s() + min(PATIENCE_S, wait_s / 2)
            self._take_or_join(ticket)
        if ticket.got.done():
            return ticket
        ticket.got.add_done_callback(lambda _got: _forget_wait(ticket))
        if need.alone or ticket.returned or self.is_made(need):
            self._dismiss([ticket])
        elif begun and self._is_hopeless(ticket):
            self.on_want(need.digest)
        timer = loop.call_later(max(0.0, wait_s), self._expire, ticket)
        ticket.got.add_done_callback(lambda _got: timer.cancel())
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The client left: its ticket leaves the queue."""
        self._leave(ticket)
        if not ticket.got.done():
            ticket.got.set_exception(Problem(ProblemCode.CANCELLED, "the client left the queue"))

    def free(self, node: Node, need: Need) -> None:
        """Give a slot back and serve who waits."""
        node.release(need, self._clock.monotonic_s())
        self.serve_queue()

    def clear(self, node: Node, digest: str) -> None:
        """The suspect that has this node's engine to itself is none: others may come."""
        node.rooms[digest].alone = False
        self.serve_queue()

    def nodes_changed(self) -> None:
        """A node came, left or changed: tell those that no node can serve, then serve the rest.

        Or nothing of that, and a node was heard: then who waits for a faster node looks again.
        """
        now_s = self._clock.monotonic_s()
        if self._version != self._registry.version:
            self._version = self._registry.version
            self._dismiss([*self._queue.tickets(), *self._isolation.tickets()])
        elif now_s - self._looked_s < LOOK_AGAIN_S:
            return
        self._looked_s = now_s
        self.serve_queue()

    def plan_changed(self) -> None:
        """Who waited for a pipeline that is not set up after all need not wait any longer."""
        self._dismiss(self._queue.tickets())

    def serve_queue(self) -> None:
        """Give free slots to those who wait, in turn; suspects get idle nodes before all others."""
        self._isolation.serve(self._reserve)
        for digest in self._queue.models():
            if self._any_free(digest):
                self._serve_model(digest)

    def _serve_model(self, digest: str) -> None:
        """Serve who waits for a model, in turn.

        A ticket bars the nodes that could take it, for all behind it, except for free ones that it
        leaves because it finishes sooner elsewhere. Of a size that found nothing a larger one on
        the same terms finds nothing either, and of a kind that rather waits the next one does too,
        so a long queue is not tried ticket by ticket.
        """
        barred: set[str] = set()
        hopeless_tokens: dict[object, int] = {}
        waits: dict[object, int] = {}
        ahead = looks = 0
        for ticket in self._queue.in_turn(digest):
            is_hopeless = ticket.need.kv_tokens >= hopeless_tokens.get(ticket.terms, math.inf)
            if is_hopeless or ahead < waits.get(_kind(ticket), 0):
                ahead += 1
                continue
            looks += 1
            node = self._pick(ticket, barred)
            sooner = 0 if node is None else self._sooner(node, ticket)
            if node is not None and ahead >= sooner:
                self._queue.serve(ticket)
                self._reserve(node, ticket)
                waits.clear()
            else:
                ahead += 1
                barred |= self._barred_by(ticket)
                if node is None:
                    hopeless_tokens[ticket.terms] = ticket.need.kv_tokens
                elif not ticket.need.cached:
                    waits[_kind(ticket)] = sooner
            # Nearly always everybody waits for the same nodes, and here it ends.
            if looks == LOOKS_LIMIT or not self._any_free(digest, barred):
                return

    def refuse_all(self, problem: Callable[[], Problem]) -> None:
        """Everybody leaves the queue with this problem (the coordinator drains)."""
        for ticket in [*self._queue.tickets(), *self._isolation.tickets()]:
            self._leave(ticket)
            ticket.got.set_exception(problem())

    def _take_or_join(self, ticket: Ticket) -> None:
        """A free node at once, where nobody is overtaken by it and no other is worth a wait."""
        digest = ticket.need.digest
        if ticket.returned:
            # Its turn had come already: whatever is free is looked at in the queue's own order.
            self._refuse_hopeless(ticket)
            self._queue.join(ticket)
            self.serve_queue()
            return
        open_to_it = ticket.begun or self._registry.complete()
        node = self._pick_behind(ticket) if open_to_it else None
        if node is not None:
            sooner = self._sooner(node, ticket)
            if not sooner or self._queue.ahead_of(ticket) >= sooner:
                self._reserve(node, ticket)
                return
        # Who found a free node need not be told that there is none: it is asked only here.
        self._refuse_hopeless(ticket)
        self._queue.join(ticket)
        if node is None and self._any_free(digest):
            # What those before it left for a faster node may be the best for the last in line.
            self._serve_model(digest)

    def _refuse_hopeless(self, ticket: Ticket) -> None:
        """Problem where nobody could ever serve it; who has begun waits for a node to come."""
        if ticket.begun or self.is_made(ticket.need):
            return
        refusal = self.refusal(ticket.need, ticket.without)
        if refusal is not None:
            raise refusal

    def _pick_behind(self, ticket: Ticket) -> Node | None:
        """The best free node that nobody who waits before this ticket could take."""
        waiting = self._queue.of_model(ticket.need.digest)
        before = [one for one in waiting if one.begun or not ticket.begun]
        if not before:
            return self._pick(ticket)
        free = route.free(self._free_for(ticket), ticket.need, ticket.without)
        barred = {
            node.peer
            for node in free
            if any(route.is_able(node, one.need, one.without) for one in before)
        }
        return self._pick(ticket, barred) if len(barred) < len(free) else None

    def _sooner(self, node: Node, ticket: Ticket) -> int:
        """How many such tickets finish sooner when they leave this free node and wait."""
        everyone = self._registry.index.all(ticket.need.digest)
        if len(everyone) == 1 or ticket.begun:
            return 0
        now_s = self._clock.monotonic_s()
        if now_s >= ticket.patient_until_s:
            return 0
        some = list(itertools.islice(everyone, BUSY_LIMIT))
        sooner = route.sooner_at_busy(node, some, ticket.need, ticket.without)
        if sooner and (here_s := finish_s(node, ticket.need)) is not None:
            # To wait may at most double its time: by then it would have been finished here.
            ticket.patient_until_s = min(ticket.patient_until_s, now_s + here_s)
        return sooner * len(everyone) // max(1, len(some))

    def _barred_by(self, ticket: Ticket) -> set[str]:
        """The nodes that could take a ticket later: those behind it leave them to it.

        Of nodes with a free slot only: the others nobody can take.
        """
        need, without = ticket.need, ticket.without
        return {
            node.peer
            for node in self._registry.index.free(need.digest)
            if route.is_able(node, need, without) and not route.has_place(node, need)
        }

    def _free_for(self, ticket: Ticket) -> Iterator[Node]:
        """The nodes to look at for a ticket: those that hold its prompt's beginning first."""
        for peer in ticket.need.cached:
            member = self._registry.member(peer)
            if member is not None:
                yield member.node
        for node in self._registry.index.free(ticket.need.digest):
            if node.peer not in ticket.need.cached:
                yield node

    def _any_free(self, digest: str, barred: Collection[str] = ()) -> bool:
        """Whether the smallest request of a model would find a node beside those."""
        index = self._registry.index
        return route.any_free(index.free(digest), Need(digest, 1, 1), barred, index.all(digest))

    def _pick(self, ticket: Ticket, barred: Collection[str] = ()) -> Node | None:
        """The best free node for a ticket; the one it would rather not have only as the last."""
        need, without = ticket.need, ticket.without
        everyone = self._registry.index.all(need.digest)
        if ticket.rather_without is not None:
            rather = without | {ticket.rather_without}
            other = route.pick(self._free_for(ticket), need, rather, barred, everyone)
            # To rather have another node calls for no fallback: that serves where none could.
            if other is not None and not other.fallback:
                return other
        return route.pick(self._free_for(ticket), need, without, barred, everyone)

    def _reserve(self, node: Node, ticket: Ticket) -> None:
        node.reserve(ticket.need, self._clock.monotonic_s())
        ticket.got.set_result(node)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.need.alone:
            self._isolation.leave(ticket)
        else:
            self._queue.leave(ticket)

    def _expire(self, ticket: Ticket) -> None:
        self._leave(ticket)
        if ticket.got.done():
            return
        if ticket.begun and self._is_hopeless(ticket):
            ticket.got.set_exception(self._nobody(ticket.need))
        else:
            problem = Problem(
                ProblemCode.DEADLINE_EXCEEDED,
                "no slot came free before the request's deadline",
                hint="all nodes are busy; retry later or allow more time",
                retry_after_s=RETRY_AFTER_S,
            )
            ticket.got.set_exception(problem)

    def _dismiss(self, tickets: Iterable[Ticket]) -> None:
        """Tell those of these that nobody can serve any more.

        A suspect hears it later: an engine that crashed is often back in seconds. Its long wait is
        for its turn alone, though, and not for a node to come. Later, too, hears it who waits for
        a pipeline that is set up again.
        """
        for ticket in tickets:
            if ticket.need.alone or (not ticket.begun and self._may_come(ticket)):
                self._wait_for_any(ticket)
            elif not ticket.begun and self._is_hopeless(ticket):
                self._desert(ticket)

    def _may_come(self, ticket: Ticket) -> bool:
        """Whether a place that it could take is being made; of chosen nodes nobody knows."""
        return ticket.need.choice is None and self.comes(ticket.need.digest)

    def _wait_for_any(self, ticket: Ticket) -> None:
        """The time of who waits without a node runs while there is none, and begins anew then."""
        if not self._is_hopeless(ticket):
            _forget_wait(ticket)
        elif ticket.deserted is None:
            self.on_want(ticket.need.digest)
            loop = asyncio.get_running_loop()
            ticket.deserted = loop.call_later(ticket.come_s, self._nobody_came, ticket)

    def _nobody_came(self, ticket: Ticket) -> None:
        ticket.deserted = None
        if not ticket.got.done() and self._is_hopeless(ticket):
            self._desert(ticket)

    def _is_hopeless(self, ticket: Ticket) -> bool:
        nodes = self._registry.index.all(ticket.need.digest)
        return not route.any_capable(nodes, ticket.need, ticket.without)

    def _desert(self, ticket: Ticket) -> None:
        self._leave(ticket)
        ticket.got.set_exception(self._nobody(ticket.need))

    def _nobody(self, need: Need) -> Problem:
        largest = self.capacity(need.digest, need.choice)
        whose = "" if need.choice is None else " that your provider object allows"
        if largest is not None and largest < need.kv_tokens:
            return _no_node(
                f"no node{whose} can hold {need.kv_tokens} tokens (prompt and max_tokens); the "
                f"largest holds {largest}"
            )
        hint = "allow other nodes, or wait for those" if whose else MODEL_HINT
        known = None if whose else self.why(need.digest)
        more = "" if known is None else f": {known}"
        return _no_node(f"no node{whose} serves this model now{more}", hint)


def _forget_wait(ticket: Ticket) -> None:
    if ticket.deserted is not None:
        ticket.deserted.cancel()
        ticket.deserted = None


def _kind(ticket: Ticket) -> tuple[object, int, int]:
    """Equal for tickets that an estimate cannot tell apart, where no node has their prompt."""
    return ticket.terms, ticket.need.prompt_tokens, ticket.need.output_tokens


def _no_node(message: str, hint: str = LATER_HINT) -> Problem:
    return Problem(ProblemCode.NO_NODE, message, hint=hint, retry_after_s=NO_NODE_RETRY_S)
