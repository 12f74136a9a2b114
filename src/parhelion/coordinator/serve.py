"""One prompt's way through the coordinator: quote, admit, hold, place, relay, settle (DESIGN 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import NamedTuple, Protocol

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
from parhelion.payments import Gate, Replay, Undelivered
from parhelion.payments.rules import check_price, worst_cost
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
    Quote,
    Rate,
    kin,
)

log = logging.getLogger("parhelion.coordinator")

OPENING_BYTES = 32
SCOPE_KEY_BYTES = 32

RESERVE_WAIT_S = 30.0
"""For a slot before a payment is settled: half of the time for which what was signed is good."""

HOLD_LIFE_MS = 24 * 3600 * 1000
"""Far beyond any answer: a hold runs out only where nobody serves it any more."""


class Tokeniser(Protocol):
    """What serving needs of the tokeniser host."""

    async def prepare(self, model: Model, ask: Ask, line: str) -> tuple[int, ...]: ...
    async def vocabulary(self, model: Model) -> Vocabulary: ...


class Priced(NamedTuple):
    """What an ask can cost at most at `rate`, from a balance.

    `payment_micro` is what a payment that comes with it costs at `sold`; both None where none is
    taken for this model.
    """

    offer: Quote
    rate: Rate
    cost_micro: int
    sold: Rate | None
    payment_micro: int | None


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
        model = self._model_of(ask)
        choice, refusal = self._choose(ask)
        rates = self._catalogue.rates(model.card.id)
        # Who may not ask costs nobody the reading of a prompt.
        buyer = await self._gate.identify(ask, credentials, model.card.id, rates)
        account = buyer.payer.account
        line = line_of(account, credentials.address)
        prompt_ids = await self._tokeniser.prepare(model, ask, line)
        accused = self._poison.check(model.card.digest, prompt_ids, account)
        # Only a client that left `max_tokens` to us gets what a node can hold; not who is offered a
        # price, which must be the same when the payment comes.
        is_open = ask.max_tokens is None and not buyer.buys
        capacity = self._places.capacity(model.card.digest, choice) if is_open else None
        offer = quote(ask, model.card, prompt_ids, rates, capacity)
        need = Need(
            model.card.digest,
            len(prompt_ids),
            offer.max_tokens,
            choice=choice,
            expected_tokens=self._lengths.expected(model.card.digest, offer.max_tokens),
        )
        if accused:
            anywhere, need = need, replace(need, accused=accused)
            if not self._places.refusal(anywhere) and self._places.refusal(need):
                raise poisonous(None)
        if refusal is None and (buyer.buys or not self._places.is_made(need)):
            # While its pipeline is set up who has credits waits; nobody pays for what may not come.
            refusal = self._places.refusal(need)
        if refusal is None and buyer.buys:
            refusal = self._places.crowded(need, line)
        if refusal is not None:
            # Who may not ask learns that first, and a finished answer needs no node. Who would pay
            # is offered nothing that cannot be served now.
            if not buyer.buys:
                admitted = await self._gate.admit(ask, buyer, offer)
                if isinstance(admitted, Replay):
                    return await self._replay(admitted)
            raise refusal
        if buyer.buys and buyer.payment is None:
            await self._gate.admit(ask, buyer, offer)  # Raises the offers.
        vocabulary = await self._tokeniser.vocabulary(model)
        request = Request(ask, buyer, credentials.address, offer, need, vocabulary, started_s)
        return await self._begin(request)

    async def price(self, ask: Ask, credentials: Credentials) -> Priced:
        """What an ask would hold at most; counted as a prompt is, in turn, and nothing is held."""
        if self.draining:
            raise draining()
        model = self._model_of(ask)
        choice, _refusal = self._choose(ask)
        rates = self._catalogue.rates(model.card.id)
        payer, rate, sold = await self._gate.priced(credentials, model.card.id, rates)
        line = line_of(payer.account, credentials.address)
        prompt_ids = await self._tokeniser.prepare(model, ask, line)
        is_open = ask.max_tokens is None
        capacity = self._places.capacity(model.card.digest, choice) if is_open else None
        offer = quote(ask, model.card, prompt_ids, rates, capacity)
        check_price(ask, offer, rate)
        payment_micro = None
        if sold is not None:
            # A payment's price is the same whatever nodes are there: it must fit a second time.
            bare = quote(ask, model.card, prompt_ids, rates) if is_open else offer
            payment_micro = self._gate.payment_price(ask, bare, sold)
        cost_micro = worst_cost(rate, len(prompt_ids), offer.max_tokens, None)
        return Priced(offer, rate, cost_micro, sold, payment_micro)

    def _model_of(self, ask: Ask) -> Model:
        """The model that is asked for; a tier's own, which a client may name or leave out."""
        tier = ask.tier
        if tier is None:
            return self._catalogue.resolve(ask.model)
        sold = self._catalogue.resolve(tier.model or None)
        if ask.model not in (None, tier.name) and self._catalogue.resolve(ask.model) is not sold:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"the tier {tier.name} sells answers of {sold.card.id}",
                hint="leave `model` out, or send the tier's name",
                param="model",
            )
        return sold

    def _choose(self, ask: Ask) -> tuple[Choice | None, Problem | None]:
        """The nodes that the client wants; or why there are none such, for after its admission."""
        try:
            return (choose(ask.provider, self._names) if ask.provider else None), None
        except Problem as problem:
            return None, problem

    def answers(self) -> list[Relay]:
        """The answers between their hold and their end, the oldest first.

        One that was counted as ended (Metrics.ended) is not among them: its task ends in the same
        turn of the loop, and is taken out of `live` in the next.
        """
        live = self.live.items()
        return [relay for life, relay in live if relay is not None and not life.done()]

    def holds(self) -> set[str]:
        """The holds that a live request settles; each is named before it is taken."""
        return {kin("hold", life.get_name()) for life in self.live}

    async def _begin(self, request: Request) -> Answer | Replayed:
        """Start the request's own task and wait until its job is open, or replayed, or refused."""
        life = asyncio.create_task(self._live(request), name=request.ask.request)
        self.live[life] = None
        life.add_done_callback(self._forget)
        if request.buyer.buys:
            life.add_done_callback(lambda _life: self._give_back(request))
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
                request.buyer,
                request.offer,
                expires_at_ms=self._clock.now_ms() + HOLD_LIFE_MS,
                reserve=partial(self._reserve, request) if request.buyer.buys else None,
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

    async def _reserve(self, request: Request) -> Callable[[], None]:
        """A slot for a request whose payment is claimed and not settled yet; what frees it."""
        left_s = request.started_s + request.ask.deadline_s - self._clock.monotonic_s()
        line = line_of(request.buyer.payer.account, request.address)
        ticket = self._places.place(request.need, line, min(RESERVE_WAIT_S, left_s))
        request.leave_queue = partial(self._places.leave, ticket)
        if request.left:
            request.leave_queue()
        try:
            request.reserved = await ticket.got
        finally:
            request.leave_queue = None
        if request.left:
            self._give_back(request)
            raise Problem(ProblemCode.CANCELLED, "the client left the queue")
        return partial(self._give_back, request)

    def _give_back(self, request: Request) -> None:
        """Free the slot that was reserved, where no attempt has taken it over."""
        if (node := request.reserved) is not None:
            request.reserved = None
            self._places.free(node, request.need)

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
        bought, answer = relay.order.grant.bought, request.buyer.payer.answer
        if isinstance(last, Problem) and (bought is not None or answer is not None):
            last = Undelivered(last, bought)
        relay.end(last)
        if isinstance(last, Problem):
            request.refuse(last)

    def _relay_of(self, request: Request, grant: Grant) -> Relay:
        ask, offer, address = request.ask, request.offer, request.address
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
        return Replayed(replay.request, receipt, evidence, replay.bought)

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
