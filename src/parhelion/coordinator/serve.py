"""One prompt's way through the coordinator: quote, admit, hold, place, relay, settle (DESIGN 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from hashlib import blake2b
from typing import Protocol

from parhelion.coordinator.affinity import Affinity
from parhelion.coordinator.answer import Answer, Replayed
from parhelion.coordinator.isolate import Poison, poisonous
from parhelion.coordinator.journal import Journal
from parhelion.coordinator.lengths import Lengths
from parhelion.coordinator.lines import line_of, scope_of
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.names import Names
from parhelion.coordinator.place import Places
from parhelion.coordinator.provider import Choice, choose
from parhelion.coordinator.quote import quote
from parhelion.coordinator.registry import Registry
from parhelion.coordinator.relay import LEFT, End, Order, Relay
from parhelion.coordinator.request import Request
from parhelion.coordinator.route import Need
from parhelion.coordinator.runner import Runner
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
    Problem,
    ProblemCode,
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
        names: Collection[Names],
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
        self._names = names
        self._lengths = Lengths()
        self._poison = Poison(clock)
        self._runner = Runner(
            registry=registry,
            places=places,
            clock=clock,
            affinity=affinity,
            lengths=self._lengths,
            poison=self._poison,
            resume_wait_s=resume_wait_s,
        )
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
        shunned = self._registry.run_by(accused)
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
            return (choose(ask.provider, self._names) if ask.provider else None), None
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
            log.exception("request not settled", extra=relay.who)
            relay.end(_internal(error))
            request.refuse(_internal(error))
        finally:
            # Each attempt leads back to the relay: a ring for the garbage collector.
            relay.attempts.clear()

    async def _run(self, relay: Relay, request: Request) -> End:
        try:
            return await self._runner.relay(relay, request)
        except Problem as problem:
            return LEFT if relay.left else End("lost", relay.interruption or problem)
        except Exception as error:
            # A fault of ours ends this answer; its hold is settled like any other's.
            log.exception("request failed", extra=relay.who)
            relay.interrupt(_internal(error))
            return End("lost", _internal(error))

    async def _close(self, relay: Relay, request: Request, hold: Hold, end: End) -> None:
        relay.settling = True
        self._journal.forget(relay)
        last, cost_micro = await self._settler.settle(relay, hold, end)
        self._metrics.ended(relay, end, cost_micro, self._clock.monotonic_s())
        log.info(
            "request %s",
            end.kind,
            extra={
                **relay.who,
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


def draining() -> Problem:
    """What a coordinator that stops says to whoever still asks."""
    return Problem(
        ProblemCode.DRAINING,
        "the coordinator is stopping",
        hint="retry: it may be back soon",
        retry_after_s=5,
    )


def _internal(error: Exception) -> Problem:
    return Problem(ProblemCode.INTERNAL, f"a fault of ours: {type(error).__name__}")
