"""Questions of our own to a node: drawn, made a job, sent in turn like a user's, and heard."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from parhelion.coordinator.place import Places
from parhelion.coordinator.probe import Probe
from parhelion.coordinator.provider import Choice
from parhelion.coordinator.questions import Question, draw
from parhelion.coordinator.route import Need, has_place
from parhelion.coordinator.session import Session
from parhelion.coordinator.speed import Speed
from parhelion.identity import Entropy
from parhelion.models import Model
from parhelion.words import Ask, Clock, Job, Problem, ProblemCode, kin, mint

PROBE_LINE = "probe"
"""Whose turn a probe takes at the tokeniser host and in the queue: an account of its own; none has
this name."""

PLACE_WAIT_S = 60.0
"""For a slot of a node that is full; its turn comes as one account's among those that wait."""

DEADLINE_S = 30.0
"""For one probe: a node that takes longer for some hundred tokens and 40 ids is not of use."""

FIRST_TRY_S = 6.0
"""For the first probe of a node, while others who join may wait behind it. Who is late has the
whole DEADLINE_S at the next one, among those that were late."""

FIRST_TRY_TIMES = 10.0
"""Or so many times what the pool's own engine takes for it, where that is longer."""


class Tokeniser(Protocol):
    """What a probe needs of the tokeniser host."""

    async def prepare(self, model: Model, ask: Ask, line: str) -> tuple[int, ...]: ...


class Asker:
    """Draws questions and has them answered; nobody pays, and nobody is overtaken."""

    def __init__(
        self, tokeniser: Tokeniser, clock: Clock, entropy: Entropy, places: Places
    ) -> None:
        self._tokeniser = tokeniser
        self._clock = clock
        self._entropy = entropy
        self._places = places
        self.waiting = 0
        """Questions that wait for a slot of a full node."""

    async def ids_of(
        self, session: Session, job: Job, enough: int, limit_s: float | None = None
    ) -> tuple[int, ...]:
        """Run a job at a node and time it; Problem when it does not answer in time.

        `limit_s` is shorter than DEADLINE_S.
        """
        limit_s = DEADLINE_S if limit_s is None else limit_s
        need = Need(
            job.digest,
            len(job.prompt_ids),
            job.max_tokens,
            choice=Choice(only=frozenset({session.node.peer})),
        )
        free = await self._reserve(session, need)
        # A second look at the same prompt finds it cached, and says nothing of speed.
        paced = not job.output_ids
        probe = Probe(session, job, self._clock, free, enough=enough, paced=paced)
        probe.open()
        try:
            async with asyncio.timeout(limit_s):
                # Shielded: a wait that is given up would take the future along, and the slot.
                fault = await asyncio.shield(probe.over)
        except TimeoutError:
            raise _late(limit_s) from None
        finally:
            probe.give_up()
        if fault is not None:
            raise fault
        return tuple(probe.ids[:enough])

    async def _reserve(self, session: Session, need: Need) -> Callable[[], None]:
        """Take a slot, now or in turn like anybody's prompt; returns what gives it back."""
        node = session.node
        if node.rooms[need.digest].barred is not None or has_place(node, need):
            node.reserve(need, self._clock.monotonic_s())
            return partial(self._places.free, node, need)
        ticket = self._places.place(need, PROBE_LINE, PLACE_WAIT_S)
        self.waiting += 1
        try:
            got = await ticket.got
        except asyncio.CancelledError:
            self._places.leave(ticket)
            if not ticket.got.cancelled() and ticket.got.exception() is None:
                self._places.free(ticket.got.result(), need)
            raise
        finally:
            self.waiting -= 1
        free = partial(self._places.free, got, need)
        if got is not node or session.ended:
            free()
            raise Problem(ProblemCode.NODE_LOST, "the node left before its probe was sent")
        return free

    async def draw(self, model: Model, limit_tokens: int, longest: int) -> tuple[Question, Job]:
        """A fresh question as a job; a shorter one where the first does not fit."""
        while True:
            question = draw(self.dice(), longest)
            request = mint("req", self._clock.now_ms(), self._entropy(10))
            ask = Ask(
                request=request, dialect="chat", model=model.card.id, messages=question.messages
            )
            prompt_ids = await self._tokeniser.prepare(model, ask, PROBE_LINE)
            left = limit_tokens - len(prompt_ids)
            if left >= question.ids or longest == 1:
                most = max(1, min(question.max_tokens, left))
                return question, self._job(model.card.digest, prompt_ids, question, most)
            longest = max(1, longest // 2)

    def _job(
        self, digest: str, prompt_ids: tuple[int, ...], question: Question, max_tokens: int
    ) -> Job:
        return Job(
            job=self._job_id(),
            attempt=1,
            digest=digest,
            cache_scope=self._entropy(16).hex(),
            prompt_ids=prompt_ids,
            params=question.params,
            seed=int.from_bytes(self._entropy(8), "big"),
            max_tokens=max_tokens,
            opening=self._entropy(32),
        )

    def again(self, job: Job) -> Job:
        """The same job under a fresh name: a node runs no two of one name."""
        return msgspec.structs.replace(job, job=self._job_id())

    def _job_id(self) -> str:
        return kin("job", mint("req", self._clock.now_ms(), self._entropy(10)))

    def dice(self) -> random.Random:
        return random.Random(int.from_bytes(self._entropy(16), "big"))


def first_try_s(own: Speed | None, prompt: int, ids: int) -> float:
    """How long a node that was never tried may take, by the speed of the pool's own engine."""
    own_s = 0.0
    if own is not None:
        own_s += prompt / own.prefill_tokens_per_s if own.prefill_tokens_per_s else 0.0
        own_s += ids * (own.step_s(1) or 0.0)
    return min(DEADLINE_S, max(FIRST_TRY_S, FIRST_TRY_TIMES * own_s))


def _late(limit_s: float) -> Problem:
    return Problem(ProblemCode.DEADLINE_EXCEEDED, f"no answer within {limit_s:.0f} s")
