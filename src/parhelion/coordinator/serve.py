"""One prompt's way through the coordinator: quote, admit, hold, place, relay, settle (DESIGN 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Protocol

import msgspec

from parhelion.coordinator.affinity import Affinity
from parhelion.coordinator.answer import Answer, Replayed
from parhelion.coordinator.attempt import Attempt
from parhelion.coordinator.isolate import WAIT_S as ALONE_WAIT_S
from parhelion.coordinator.isolate import Claim, Poison, poisonous
from parhelion.coordinator.journal import Journal
from parhelion.coordinator.lengths import Lengths
from parhelion.coordinator.lines import line_of, scope_of
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.migrate import Course
from parhelion.coordinator.place import Places
from parhelion.coordinator.provider import Choice, Named, choose
from parhelion.coordinator.quote import quote
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.relay import FINISHED, LEFT, End, Order, Relay
from parhelion.coordinator.route import Need
from parhelion.coordinator.session import Session
from parhelion.coordinator.settle import Settler
from parhelion.identity import Entropy
from parhelion.models import Catalogue, Model, Vocabulary
from parhelion.payments import Gate, Replay
from parhelion.proof import Receipts
from parhelion.words import (
    Ask,
    Clock,
    Credentials,
    Grant,
    Hold,
    Job,
    Placement,
    Problem,
    ProblemCode,
    Quote,
    kin,
)

log = logging.getLogger("parhelion.coordinator")

OPENING_BYTES = 32
SCOPE_KEY_BYTES = 32

HOLD_LIFE_MS = 24 * 3600 * 1000
"""Far beyond any answer: a hold runs out only where nobody serves it any more."""


class Tokeniser(Protocol):
    """What serving needs of the tokeniser host."""

    async def prepare(self, model: Model, ask: Ask, line: str) -> tuple[int, ...]: ...
    async def vocabulary(self, model: Model) -> Vocabulary: ...


class Service:
    """Serves asks; every request lives in a task of its own that settles it, come what may."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        tokeniser: Tokeniser,
        gate: Gate,
        receipts: Receipts,
        registry: Registry,
        places: Places,
        settler: Settler,
        journal: Journal,
        metrics: Metrics,
        clock: Clock,
        entropy: Entropy,
        resume_wait_s: float,
        named: Callable[[], Iterable[Named]],
        affinity: Affinity,
    ) -> None:
        self._catalogue = catalogue
        self._tokeniser = tokeniser
        self._gate = gate
        self._receipts = receipts
        self._registry = registry
        self._places = places
        self._settler = settler
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._entropy = entropy
        self._resume_wait_s = resume_wait_s
        self._named = named
        self._affinity = affinity
        self._lengths = Lengths()
        self._poison = Poison(clock)
        # Nodes see that two jobs share a scope, never whose they are.
        self._scope_key = entropy(SCOPE_KEY_BYTES)
        self.live: dict[asyncio.Task[None], Relay | None] = {}
        self.draining = False

    async def serve(self, ask: Ask, credentials: Credentials) -> Answer | Replayed:
        """An answer whose job is open at a node; a Problem before that costs nothing.

        Cancelling it is the client leaving: the queue is left, the hold voided.
        """
        started_s = self._clock.monotonic_s()
        if self.draining:
            raise draining()
        model = self._catalogue.resolve(ask.model)
        choice, refusal = self._choose(ask)
        rates = self._catalogue.rates(model.card.id)
        # Who may not ask costs nobody the reading of a prompt.
        payer, _ = self._gate.payer(credentials, model.card.id, rates)
        line = line_of(payer.account, credentials.address)
        prompt_ids = await self._tokeniser.prepare(model, ask, line)
        accused = self._poison.check(model.card.digest, prompt_ids, payer.account)
        # Only a client that left `max_tokens` to us gets what a node can hold.
        is_open = ask.max_tokens is None
        capacity = self._places.capacity(model.card.digest, choice) if is_open else None
        offer = quote(ask, model.card, prompt_ids, rates, capacity)
        need = Need(
            model.card.digest,
            len(prompt_ids),
            offer.max_tokens,
            choice=choice,
            expected_tokens=self._lengths.expected(model.card.digest, offer.max_tokens),
        )
        shunned = self._run_by(accused)
        if shunned and not self._places.refusal(need) and self._places.refusal(need, shunned):
            raise poisonous(None)
        refusal = refusal or self._places.refusal(need)
        if refusal is not None:
            # Who may not ask learns that first, and a finished answer needs no node.
            admitted = await self._gate.admit(ask, credentials, offer)
            if isinstance(admitted, Replay):
                return await self._replay(admitted)
            raise refusal
        vocabulary = await self._tokeniser.vocabulary(model)
        request = Request(ask, credentials, offer, need, vocabulary, started_s, shunned)
        return await self._begin(request)

    def _choose(self, ask: Ask) -> tuple[Choice | None, Problem | None]:
        """The nodes that the client wants; or why there are none such, for after its admission."""
        try:
            return (choose(ask.provider, self._named()) if ask.provider else None), None
        except Problem as problem:
            return None, problem

    def holds(self) -> set[str]:
        """The holds that a live request settles; each is named before it is taken."""
        return {kin("hold", life.get_name()) for life in self.live}

    async def _begin(self, request: Request) -> Answer | Replayed:
        """Start the request's own task and wait until its job is open, or replayed, or refused."""
        life = asyncio.create_task(self._live(request), name=request.ask.request)
        self.live[life] = None
        life.add_done_callback(self._forget)
        try:
            opened = await request.opened
        except asyncio.CancelledError:
            request.leave()
            raise
        if isinstance(opened, Replay):
            return await self._replay(opened)
        return Answer(opened, life)

    async def _live(self, request: Request) -> None:
        """Hold, place, relay, settle: the one place that takes a hold, so none is ever leaked.

        Nobody cancels this task while the process serves: a client's leaving is only a mark on
        the relay. That is the shield under which holds are posted.
        """
        try:
            taken = await self._gate.take(
                request.ask,
                request.credentials,
                request.offer,
                expires_at_ms=self._clock.now_ms() + HOLD_LIFE_MS,
            )
        except Problem as problem:
            request.refuse(problem)
            return
        except Exception as error:
            log.exception("hold not taken", extra={"request": request.ask.request})
            request.refuse(_internal(error))
            return
        if isinstance(taken, Replay):
            request.open(taken)
            return
        relay = self._relay_of(request, taken.grant)
        relay.hold = taken.hold
        task = asyncio.current_task()
        assert task is not None
        self.live[task] = relay
        try:
            end = await self._run(relay, request)
            await self._close(relay, request, taken.hold, end)
        except Exception as error:
            log.exception("request not settled", extra=_who(relay))
            relay.end(_internal(error))
            request.refuse(_internal(error))
        finally:
            # Each attempt leads back to the relay: a ring for the garbage collector.
            relay.attempts.clear()

    async def _run(self, relay: Relay, request: Request) -> End:
        try:
            return await self.relay(relay, request)
        except Problem as problem:
            return LEFT if relay.left else End("lost", relay.interruption or problem)
        except Exception as error:
            # A fault of ours ends this answer; its hold is settled like any other's.
            log.exception("request failed", extra=_who(relay))
            relay.interrupt(_internal(error))
            return End("lost", _internal(error))

    async def relay(self, relay: Relay, request: Request) -> End:
        """Run attempts until one delivers; what a node lost, another takes up where it stood."""
        course = Course(shunned=set(request.shunned))
        number = 0
        while True:
            number += 1
            try:
                node = await self.place(relay, request.need, course)
            except Problem as refusal:
                raise course.fault or refusal from refusal
            fault = await self._attempt(relay, request, node, number, course.alone)
            if fault is None:
                return _cut_by(relay)
            was_alone = bool(relay.attempts) and relay.attempts[-1].alone
            goes_on = course.goes_on(fault, node.peer, was_alone)
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
                    **_who(relay),
                    "node": node.peer,
                    "ids": len(relay.ids),
                    "cause": str(fault),
                },
            )

    async def place(self, relay: Relay, need: Need, course: Course) -> Node:
        """A node with a slot reserved for this request, or Problem; the client may leave."""
        order = relay.order
        wait_s = order.started_s + order.ask.deadline_s - self._clock.monotonic_s()
        if relay.ids:
            # Its answer has begun, so its deadline was met; now the client waits for the rest.
            wait_s = self._resume_wait_s
            need = need.resumed(len(relay.ids))
        accusers = self._run_by(one.node.operator for one in _claims(relay))
        without = course.shunned
        if course.alone:
            need = replace(need, alone=True)
            wait_s = max(wait_s, ALONE_WAIT_S)
        elif accusers and self._places.refusal(need, without | accusers) is None:
            # Cleared elsewhere: those who said that it crashes them have been proven wrong.
            without = without | accusers
        _check_still_wanted(relay)
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
        )
        course.arrival = ticket.arrival
        relay.leave_queue = partial(self._places.leave, ticket)
        try:
            node = await ticket.got
        finally:
            relay.leave_queue = None
        try:
            _check_still_wanted(relay)
        except Problem:
            self._places.free(node, need)
            raise
        relay.expected_cached = held.get(node.peer, 0)
        return node

    def _suspect(self, relay: Relay, request: Request) -> Problem:
        """Its second crash, alone, at somebody's word; what its client is told."""
        need, chosen = request.need, request.need.choice is not None
        account = relay.order.grant.account if chosen else None
        return self._poison.add(need.digest, request.offer.prompt_ids, _claims(relay), account)

    def _run_by(self, operators: Iterable[str]) -> frozenset[str]:
        """The nodes of these operators that are here."""
        some = frozenset(operators)
        if not some:
            return some
        return frozenset(node.peer for node in self._registry.nodes() if node.operator in some)

    async def _attempt(
        self, relay: Relay, request: Request, node: Node, number: int, alone: bool
    ) -> Problem | None:
        need = replace(request.need, alone=True) if alone else request.need
        free = partial(self._places.free, node, need)
        session = self._registry.member(node.peer)
        if not isinstance(session, Session) or session.node is not node or session.ended:
            free()
            return Problem(ProblemCode.NODE_LOST, "the node left before the job was sent")
        job = relay.job
        if number > 1:
            job = msgspec.structs.replace(job, attempt=number, output_ids=tuple(relay.ids))
        placement = Placement(
            job=job.job, attempt=number, pipeline=(node.peer,), kv_tokens=need.kv_tokens
        )
        clear = partial(self._places.clear, node, job.digest) if alone else None
        attempt = Attempt(relay, job, placement, session, free, clear)
        relay.attempts.append(attempt)
        attempt.open()
        request.open(relay)
        fault = await attempt.over
        if fault is None and attempt.began:
            ids = (*job.prompt_ids, *relay.ids)
            kv_tokens = node.rooms[job.digest].kv_tokens
            self._affinity.note(node.peer, job.cache_scope, job.digest, ids, kv_tokens)
            self._lengths.note(job.digest, len(relay.ids))
        return fault

    async def _close(self, relay: Relay, request: Request, hold: Hold, end: End) -> None:
        relay.settling = True
        self._journal.forget(relay)
        last, cost_micro = await self._settler.settle(relay, hold, end)
        self._metrics.ended(relay, end, cost_micro, self._clock.monotonic_s())
        log.info(
            "request %s",
            end.kind,
            extra={
                **_who(relay),
                "node": relay.attempts[-1].placement.pipeline[-1] if relay.attempts else None,
                "prompt_tokens": len(relay.order.quote.prompt_ids),
                "output_ids": relay.meter.accepted,
                "cost_micro": cost_micro,
                "cause": str(end.problem.code) if end.problem else None,
            },
        )
        relay.end(last)
        if isinstance(last, Problem):
            request.refuse(last)

    def _relay_of(self, request: Request, grant: Grant) -> Relay:
        ask, offer, address = request.ask, request.offer, request.credentials.address
        scope = scope_of(grant.account, address, ask.request)
        opening = self._entropy(OPENING_BYTES)
        job = Job(
            job=kin("job", ask.request),
            attempt=1,
            digest=offer.model.digest,
            cache_scope=blake2b(scope.encode(), key=self._scope_key, digest_size=16).hexdigest(),
            prompt_ids=offer.prompt_ids,
            params=ask.params,
            seed=grant.seed,
            max_tokens=offer.max_tokens,
            opening=opening,
        )
        order = Order(ask, offer, grant, opening, request.started_s, address)
        relay = Relay(order, job, request.vocabulary, self._clock)
        relay.on_acknowledged = self._journal.note
        request.relay = relay
        if request.left:
            relay.disconnect()
        return relay

    async def _replay(self, replay: Replay) -> Replayed:
        receipt = await self._receipts.get(replay.receipt, replay.account)
        evidence = self._receipts.evidence(replay.receipt, replay.account)
        return Replayed(replay.request, receipt, evidence, credited="0")

    def _forget(self, life: asyncio.Task[None]) -> None:
        self.live.pop(life, None)
        if not life.cancelled() and (error := life.exception()) is not None:
            log.error("request task failed", exc_info=error)


class Request:
    """An ask on its way to its first node; `opened` resolves when the caller may go on."""

    __slots__ = (
        "ask",
        "credentials",
        "left",
        "need",
        "offer",
        "opened",
        "relay",
        "shunned",
        "started_s",
        "vocabulary",
    )

    def __init__(
        self,
        ask: Ask,
        credentials: Credentials,
        offer: Quote,
        need: Need,
        vocabulary: Vocabulary,
        started_s: float,
        shunned: frozenset[str],
    ) -> None:
        self.ask = ask
        self.credentials = credentials
        self.offer = offer
        self.need = need
        self.vocabulary = vocabulary
        self.started_s = started_s
        self.shunned = shunned
        self.relay: Relay | None = None
        self.left = False
        self.opened: asyncio.Future[Relay | Replay] = asyncio.get_running_loop().create_future()

    def open(self, way: Relay | Replay) -> None:
        """The caller may go on."""
        if not self.opened.done():
            self.opened.set_result(way)

    def refuse(self, error: Exception) -> None:
        """The caller gets the error, unless it went on or left already."""
        if not self.opened.done():
            self.opened.set_exception(error)

    def leave(self) -> None:
        """The client left before its job was open."""
        self.left = True
        if self.relay is not None:
            self.relay.disconnect()


def draining() -> Problem:
    """What a coordinator that stops says to whoever still asks."""
    return Problem(
        ProblemCode.DRAINING,
        "the coordinator is stopping",
        hint="retry: it may be back soon",
        retry_after_s=5,
    )


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


def _check_still_wanted(relay: Relay) -> None:
    if relay.interruption is not None:
        raise relay.interruption
    if relay.left:
        raise Problem(ProblemCode.CANCELLED, "the client left")


def _internal(error: Exception) -> Problem:
    return Problem(ProblemCode.INTERNAL, f"a fault of ours: {type(error).__name__}")


def _who(relay: Relay) -> dict[str, str | None]:
    grant = relay.order.grant
    return {
        "request": relay.order.ask.request,
        "account": grant.account,
        "hold": relay.hold.id if relay.hold else None,
    }
