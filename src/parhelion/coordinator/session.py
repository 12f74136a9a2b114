"""One node's session: what it says goes to its jobs, what we say goes out in order."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from parhelion.coordinator.manners import Manners
from parhelion.coordinator.progress import Mark, Progress, prompt_id_limit_s, still_limit_s
from parhelion.coordinator.registry import Node, Registry
from parhelion.link import (
    Bye,
    Carrier,
    Cut,
    Drain,
    Draining,
    FromNode,
    Heartbeat,
    JobFailed,
    LinkBroken,
    Open,
    Signed,
    Standing,
    Steps,
)
from parhelion.words import Clock, NodeCard, Problem, ProblemCode, Segment, Step

log = logging.getLogger("parhelion.coordinator")

LEAVE_GRACE_S = 3.0
"""A drained node hands back what is left at its deadline, signs it and says goodbye; then room."""

ENGINE_READY = "ready"
"""The word of a Heartbeat for an engine that takes work."""

FAULT_LIMIT_CHARS = 200
"""Of what a node says is wrong: a sentence."""

AttemptKey = tuple[str, int]
"""(job, attempt), as frames carry it."""

Outgoing = Open | Cut | Drain | Standing


class Misbehaved(Exception):
    """The node said what no honest node says; the session ends with this cause."""


class Worker(Protocol):
    """An attempt at a job as the session sees it."""

    @property
    def mark(self) -> Mark | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def began(self) -> bool: ...
    def take(self, step: Step) -> None: ...
    def fail(self, code: str, message: str) -> None: ...
    def signed(self, segment: Segment) -> None: ...
    def stall(self, problem: Problem) -> None: ...
    def move(self) -> None: ...
    def lost(self, problem: Problem) -> None: ...


class Session:
    """A registered node's session; `attempts` are those that it still has to end or to sign.

    By job and number: a second attempt at a job may begin before the first one here is signed.
    """

    def __init__(
        self, carrier: Carrier[FromNode], node: Node, registry: Registry, clock: Clock
    ) -> None:
        self.node = node
        self.attempts: dict[AttemptKey, Worker] = {}
        self.dropped = 0
        self._carrier = carrier
        self._registry = registry
        self._clock = clock
        self._progress = Progress()
        self._manners = Manners()
        self._leave_by_s: float | None = None
        self._end: asyncio.Future[Problem] = asyncio.get_running_loop().create_future()

    @property
    def cause(self) -> Problem | None:
        """Why it ended; None while it lives."""
        return self._end.result() if self._end.done() else None

    @property
    def ended(self) -> bool:
        """Whether the session takes no more jobs."""
        return self._end.done()

    @property
    def was_planned(self) -> bool:
        """Whether the session ended because the node, or we, had said so before."""
        return self.ended and self._end.result().code is ProblemCode.DRAINING

    def send(self, message: Outgoing) -> None:
        """Queue a message for the node; Problem BODY_TOO_LARGE when it fits in no frame.

        A node that does not read what it is sent fills its queue, and that ends the session.
        """
        try:
            self._carrier.post(message)
        except LinkBroken as broken:
            self.end(ProblemCode.LINK_BROKEN, str(broken))
        else:
            if type(message) is Open:
                self._manners.opened()

    def end(self, code: ProblemCode, message: str, hint: str = "") -> None:
        """End the session with its cause; at once it is out of dispatch and its jobs are lost."""
        if self._end.done():
            return
        self._end.set_result(Problem(code, message, hint=hint))
        # A goodbye that was announced is no fault of anybody's.
        level = logging.INFO if code is ProblemCode.DRAINING else logging.WARNING
        who = {"node": self.node.peer, "code": str(code)}
        log.log(level, "node session ended: %s", message, extra=who)
        self.node.state, self.node.reason = "gone", message
        problem = Problem(
            ProblemCode.NODE_LOST, f"the node serving this was lost: {message}", retry_after_s=1
        )
        attempts, self.attempts = self.attempts, {}
        for attempt in attempts.values():
            try:
                attempt.lost(problem)
            except Exception:
                # A bug of ours with one job: the others must hear it, and the node must go.
                log.exception("a lost job could not be told", extra={"node": self.node.peer})
        # After them, so that the last view of it says what it lost.
        self._registry.leave(self)

    def send_away(self, reason: str, deadline_s: float) -> None:
        """Ask the node to finish and leave; who has not left soon after the deadline is sent off.

        From here on it gets nothing new, whatever it does about the message.
        """
        self.node.leaving = reason
        self._leave_by_s = self._clock.monotonic_s() + deadline_s + LEAVE_GRACE_S
        self.send(Drain(reason=reason, deadline_s=deadline_s))
        if not self.ended:
            self._registry.reassess(self.node)

    def look(self, now_s: float) -> None:
        """Take jobs that stand still from the node, which then gets none for a while."""
        node = self.node
        if self._leave_by_s is not None and now_s >= self._leave_by_s:
            self.end(ProblemCode.DRAINING, f"{node.leaving}, and it did not leave by itself")
            return
        if not self.attempts:
            return  # Most nodes of a large pool, at every sweep.
        limit_s = still_limit_s(node.tokens_per_s, node.slots_busy)
        prompt_id_s = prompt_id_limit_s(node.tokens_per_s, node.slots_busy)
        stuck = self._progress.look(self.attempts, limit_s, prompt_id_s, now_s)
        if not stuck:
            return
        reason = f"no progress on a job for {limit_s:.0f} s"
        for digest in {attempt.digest for attempt in stuck}:
            node.rooms[digest].stall(reason, now_s)
        self._registry.refresh(node, now_s)
        problem = Problem(
            ProblemCode.NODE_LOST, f"the node serving this made {reason}", retry_after_s=1
        )
        for attempt in stuck:
            attempt.stall(problem)

    def move(self, digest: str) -> None:
        """Take a model's jobs from the node, which is not at fault; they go on elsewhere."""
        for attempt in list(self.attempts.values()):
            if attempt.digest == digest:
                attempt.move()

    async def run(self) -> None:
        """Hear the node until the session ends; then say why and close."""
        reading = asyncio.create_task(self._read(), name="node-session")
        try:
            # Shielded: a cancelled wait would else take the future along, and `end` say nothing.
            cause = await asyncio.shield(self._end)
        finally:
            # Cancelled from outside (the socket's handler): the node is gone all the same.
            self.end(ProblemCode.LINK_BROKEN, "the connection was closed")
            reading.cancel()
            await asyncio.wait([reading])
        await say_goodbye(self._carrier, cause)

    async def _read(self) -> None:
        try:
            while not self._end.done():
                self.hear(await self._carrier.receive())
        except LinkBroken as broken:
            self.end(ProblemCode.LINK_BROKEN, str(broken))
        except Misbehaved as cause:
            self.end(ProblemCode.INVALID_REQUEST, f"the node misbehaved: {cause}")
        except Exception as error:
            # A bug of ours with one node's message must not take the others' sessions along.
            log.exception("message handler failed", extra={"node": self.node.peer})
            self.end(ProblemCode.INTERNAL, f"the coordinator failed: {type(error).__name__}")

    def hear(self, message: FromNode) -> None:
        """One message; Misbehaved when it cannot be honest."""
        node = self.node
        node.heard_s = self._clock.monotonic_s()
        if type(message) is Steps:
            if not message.steps:
                _mind(self._manners.idle_step(node.heard_s))
            for step in message.steps:
                self._step(step, node.heard_s)
            if node.state == "suspect":
                self._registry.refresh(node, node.heard_s)
        else:
            self._hear_rest(message)

    def _step(self, step: Step, now_s: float) -> None:
        attempt = self._attempt(step.job, step.attempt)
        if attempt is None:
            _mind(self._manners.idle_step(now_s))
            return
        before = attempt.mark
        attempt.take(step)
        # Over already, or as it was: ids always move a job that is not over.
        if before is None or (not step.ids and step.finish is None and attempt.mark == before):
            _mind(self._manners.idle_step(now_s))

    def _hear_rest(self, message: FromNode) -> None:
        if isinstance(message, Signed | JobFailed):
            _mind(self._manners.answer(self.node.heard_s))
        else:
            _mind(self._manners.notice(self.node.heard_s))
        match message:
            case Heartbeat():
                faults = engine_faults(message, self.node.card)
                for digest, room in self.node.rooms.items():
                    if digest not in faults and room.engine_fault is not None:
                        # Back from a fault of its own: it need not wait to show that it works.
                        room.repair(self.node.heard_s)
                    room.engine_fault = faults.get(digest)
                self._registry.refresh(self.node, self.node.heard_s)
            case Signed(segment=segment):
                if attempt := self._attempt(segment.job, segment.attempt):
                    attempt.signed(segment)
            case JobFailed():
                if attempt := self._attempt(message.job, message.attempt):
                    attempt.fail(message.code, message.message[:500])
            case Draining():
                self.node.leaving = message.reason[:200] or "the node drains"
                self._registry.refresh(self.node, self.node.heard_s)
            case Bye():
                planned = message.code == ProblemCode.DRAINING
                code = ProblemCode.DRAINING if planned else ProblemCode.LINK_BROKEN
                self.end(code, f"the node left: {message.message[:200]}")
            case _:
                raise Misbehaved(f"{type(message).__name__} is not expected here")

    def _attempt(self, job: str, number: int) -> Worker | None:
        attempt = self.attempts.get((job, number))
        self.dropped += attempt is None
        return attempt


def _mind(fault: str | None) -> None:
    if fault is not None:
        raise Misbehaved(fault)


def engine_faults(beat: Heartbeat, card: NodeCard) -> dict[str, str]:
    """What is wrong with which of a node's engines, by digest; Misbehaved where it cannot be.

    A model that the pool does not take is spoken of like the others; one that was never offered,
    or one spoken of twice, is not, so there are no more than the MODELS_LIMIT of a card.
    """
    if not beat.engines:
        fault = _fault(beat.engine, beat.reason)
        return {} if fault is None else {model.digest: fault for model in card.models}
    if len(beat.engines) > len(card.models):
        raise Misbehaved(f"{len(beat.engines)} engines for {len(card.models)} models")
    offered = {model.digest for model in card.models}
    if len({one.digest for one in beat.engines} & offered) < len(beat.engines):
        raise Misbehaved("it speaks twice of an engine, or of one that it never offered")
    faults = {one.digest: _fault(one.state, one.reason) for one in beat.engines}
    return {digest: fault for digest, fault in faults.items() if fault is not None}


def _fault(state: str, reason: str | None) -> str | None:
    return None if state == ENGINE_READY else (reason or state or "no state")[:FAULT_LIMIT_CHARS]


async def say_goodbye(carrier: Carrier[FromNode], cause: Problem) -> None:
    """The last frame (the carrier gives up on it by itself)."""
    await carrier.close(Bye(code=str(cause.code), message=cause.message, hint=cause.hint))
