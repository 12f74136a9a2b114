"""A request at its nodes: placed, sent, and taken up elsewhere where it stood (DESIGN 5)."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import msgspec

from parhelion.coordinator.affinity import Affinity
from parhelion.coordinator.attempt import Attempt
from parhelion.coordinator.isolate import Claim, Poison
from parhelion.coordinator.lengths import Lengths
from parhelion.coordinator.lines import line_of
from parhelion.coordinator.migrate import Course
from parhelion.coordinator.place import Places
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.relay import FINISHED, LEFT, End, Relay
from parhelion.coordinator.request import Request
from parhelion.coordinator.route import Need
from parhelion.coordinator.session import Session
from parhelion.words import Clock, Placement, Problem, ProblemCode

log = logging.getLogger("parhelion.coordinator")


class Runner:
    """Runs requests at nodes, one attempt after the other, until one delivers or none may."""

    def __init__(
        self,
        *,
        registry: Registry,
        places: Places,
        clock: Clock,
        affinity: Affinity,
        lengths: Lengths,
        poison: Poison,
        resume_wait_s: float,
    ) -> None:
        self._registry = registry
        self._places = places
        self._clock = clock
        self._affinity = affinity
        self._lengths = lengths
        self._poison = poison
        self._resume_wait_s = resume_wait_s

    async def relay(self, relay: Relay, request: Request) -> End:
        """Run attempts until one delivers; what a node lost, another takes up where it stood."""
        course = Course()
        while True:
            try:
                node = self._reserved(relay, request)
                if node is None:
                    node = await self.place(relay, request.need, course)
            except Problem as refusal:
                raise course.fault or refusal from refusal
            attempt = self._send(relay, request, node, course.alone)
            if attempt is None:
                if not course.missed(node.peer):
                    return End("lost", course.fault or _missed())
                continue
            fault = await attempt.over
            if fault is None:
                self._note(relay, attempt)
                return _cut_by(relay)
            goes_on = course.goes_on(fault, node.peer, attempt.alone)
            if course.poison:
                course.fault = self._suspect(relay, request)
            if relay.left or not goes_on:
                return End("lost", course.fault or fault)
            if not relay.ids:
                # The prefill that was lost is ours to pay, also if the client leaves now.
                relay.prefilled = False
            log.warning(
                "job goes on elsewhere",
                extra={
                    **relay.who,
                    "node": node.peer,
                    "ids": len(relay.ids),
                    "cause": str(fault),
                },
            )

    def _reserved(self, relay: Relay, request: Request) -> Node | None:
        """The node whose slot was reserved before the payment was settled; once."""
        node = request.reserved
        if node is None:
            return None
        relay.check_wanted()
        request.reserved = None
        return node

    async def place(self, relay: Relay, need: Need, course: Course) -> Node:
        """A node with a slot reserved for this request, or Problem; the client may leave."""
        order = relay.order
        wait_s = order.started_s + order.ask.deadline_s - self._clock.monotonic_s()
        if relay.ids:
            # Its answer has begun, so its deadline was met; now the client waits for the rest.
            wait_s = self._resume_wait_s
            need = need.resumed(len(relay.ids))
        accusers = frozenset[str]().union(*(one.node.operators for one in _claims(relay)))
        without = course.shunned
        if course.alone:
            need = replace(need, alone=True)
        elif accusers:
            # Cleared elsewhere: those who said that it crashes them have been proven wrong.
            each = tuple(frozenset({one}) for one in sorted(accusers))
            others = replace(need, accused=(*need.accused, *each))
            if self._places.refusal(others, without) is None:
                need = others
        relay.check_wanted()
        job = relay.job
        ids = (*job.prompt_ids, *relay.ids) if relay.ids else job.prompt_ids
        held = self._affinity.cached(job.cache_scope, job.digest, ids)
        ticket = self._places.place(
            replace(need, cached=held) if held else need,
            line_of(order.grant.account, order.address),
            wait_s,
            without=without,
            rather_without=course.avoided,
            begun=bool(relay.ids),
            last_resort=accusers,
            arrival=course.arrival,
            come_s=self._resume_wait_s,
        )
        course.arrival = ticket.arrival
        relay.leave_queue = partial(self._places.leave, ticket)
        try:
            node = await ticket.got
        finally:
            relay.leave_queue = None
        try:
            relay.check_wanted()
        except Problem:
            self._places.free(node, need)
            raise
        relay.expected_cached = held.get(node.peer, 0)
        return node

    def _send(self, relay: Relay, request: Request, node: Node, alone: bool) -> Attempt | None:
        """An attempt that is open at the node; None when the node left meanwhile."""
        need = replace(request.need, alone=True) if alone else request.need
        free = partial(self._places.free, node, need)
        session = self._registry.member(node.peer)
        if not isinstance(session, Session) or session.node is not node or session.ended:
            free()
            return None
        job, number = relay.job, len(relay.attempts) + 1
        if number > 1:
            job = msgspec.structs.replace(job, attempt=number, output_ids=tuple(relay.ids))
        placement = Placement(
            job=job.job, attempt=number, pipeline=session.peers, kv_tokens=need.kv_tokens
        )
        clear = partial(self._places.clear, node, job.digest) if alone else None
        attempt = Attempt(relay, job, placement, session, free, clear)
        relay.attempts.append(attempt)
        attempt.open()
        request.open(relay)
        return attempt

    def _note(self, relay: Relay, attempt: Attempt) -> None:
        """What the next decisions go by: whose cache holds it now, and how long it was."""
        if not attempt.began:
            return
        job, node = attempt.job, attempt.session.node
        ids = (*job.prompt_ids, *relay.ids)
        kv_tokens = node.rooms[job.digest].kv_tokens
        self._affinity.note(node.peer, job.cache_scope, job.digest, ids, kv_tokens)
        self._lengths.note(job.digest, len(relay.ids))

    def _suspect(self, relay: Relay, request: Request) -> Problem:
        """Its second crash, alone, at somebody's word; what its client is told."""
        need, chosen = request.need, request.need.choice is not None
        account = relay.order.grant.account if chosen else None
        return self._poison.add(need.digest, request.offer.prompt_ids, _claims(relay), account)


def _cut_by(relay: Relay) -> End:
    """Who cut the answer: the meter, we, or the client."""
    if relay.meter.finish is not None:
        return FINISHED
    if relay.interruption is not None:
        return End("lost", relay.interruption)
    return LEFT


def _claims(relay: Relay) -> list[Claim]:
    """What nodes said of crashes under this request, in order."""
    return [one.claim for one in relay.attempts if one.claim is not None]


def _missed() -> Problem:
    return Problem(
        ProblemCode.NODE_LOST, "node after node left before the job was sent", retry_after_s=1
    )
