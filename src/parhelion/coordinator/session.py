"""A place for jobs, and one node's session: what it says goes to its jobs, or to a pipeline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from msgspec import UNSET, UnsetType

from parhelion.coordinator.manners import Manners
from parhelion.coordinator.progress import Mark, Progress, prompt_id_limit_s, still_limit_s
from parhelion.coordinator.registry import Node, Registry
from parhelion.link import (
    Bye,
    Carrier,
    CloseStage,
    Cut,
    Drain,
    Draining,
    FromNode,
    FromStages,
    Heartbeat,
    JobFailed,
    LinkBroken,
    Open,
    OpenStage,
    PairDown,
    PairUp,
    Signed,
    StageFailed,
    StageLoaded,
    StageOpened,
    StageSigned,
    StageState,
    StageTimed,
    Standing,
    Steps,
    ToStages,
)
from parhelion.words import Clock, NodeCard, Problem, ProblemCode, Segment, StageSegment, Step

log = logging.getLogger("parhelion.coordinator")

LEAVE_GRACE_S = 3.0
"""A drained node hands back what is left at its deadline, signs it and says goodbye; then room."""

ENGINE_READY = "ready"
"""The word of a Heartbeat for an engine that takes work."""

FAULT_LIMIT_CHARS = 200
"""Of what a node says is wrong: a sentence."""

STAGES_LIMIT = 64
"""Of one node; it takes eight."""

ASKING = (Open, OpenStage, CloseStage)
"""What a node owes answers to."""

ANSWERS = (Signed, JobFailed, StageOpened, StageSigned)

AttemptKey = tuple[str, int]
"""(job, attempt), as frames carry it."""

Outgoing = Open | Cut | Drain | Standing | ToStages


class Misbehaved(Exception):
    """The node said what no honest node says; the session ends with this cause."""


class Stretch(NamedTuple):
    """What an attempt has delivered once it is over, as its nodes are to sign it."""

    start: int
    to: int
    head: str
    opening_hash: str


class Worker(Protocol):
    """An attempt at a job as the session sees it; `parts` is what stages signed of it, by stage."""

    key: AttemptKey
    parts: dict[str, StageSegment]

    @property
    def mark(self) -> Mark | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def began(self) -> bool: ...
    @property
    def output(self) -> Sequence[int]: ...
    @property
    def stretch(self) -> Stretch: ...
    def take(self, step: Step) -> None: ...
    def fail(self, code: str, message: str) -> None: ...
    def signed(self, segment: Segment) -> None: ...
    def stall(self, problem: Problem) -> None: ...
    def move(self) -> None: ...
    def lost(self, problem: Problem) -> None: ...


class Ring(Protocol):
    """A pipeline as the session of one of its nodes sees it (pipeline.PipelineSession)."""

    def step(self, node: NodeSession, step: Step) -> bool:
        """A step of one of its jobs; False where it moved nothing."""
        ...

    def failed(self, node: NodeSession, message: JobFailed) -> None: ...
    def opened(self, node: NodeSession, message: StageOpened) -> None: ...
    def chosen(self, node: NodeSession, segment: Segment) -> None: ...
    def signed(self, node: NodeSession, segment: StageSegment) -> None: ...


class Session:
    """A place for jobs; `attempts` are those that it still has to end or to sign.

    By job and number: a second attempt at a job may begin before the first one here is signed.
    """

    def __init__(self, node: Node, registry: Registry, clock: Clock) -> None:
        self.node = node
        self.attempts: dict[AttemptKey, Worker] = {}
        self.dropped = 0
        self._registry = registry
        self._clock = clock
        self._progress = Progress()
        self._end: asyncio.Future[Problem] = asyncio.get_running_loop().create_future()

    @property
    def peers(self) -> tuple[str, ...]:
        """The nodes that a job here runs on, in order."""
        return (self.node.peer,)

    @property
    def operators(self) -> str:
        """Who is paid for what is delivered here; a crew (ledger.rules) where there are several."""
        return self.node.operator

    def parts(self, worker: Worker) -> tuple[StageSegment, ...] | UnsetType:
        """What each stage signed of an attempt that is over; nothing where there are no stages."""
        return UNSET

    def note_served(self) -> None:
        """A job here was answered: it counts for everybody who had a part in it."""
        self.node.history.served += 1

    @property
    def may_sign(self) -> bool:
        """Whether who chose the ids can still sign for them, though the session has ended."""
        return False

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
        """Queue a message; Problem BODY_TOO_LARGE when it fits in no frame."""
        raise NotImplementedError

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

    def look(self, now_s: float) -> None:
        """Take jobs that stand still from the node, which then gets none for a while."""
        node = self.node
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


class NodeSession(Session):
    """A registered node's session over its link.

    `stages` are those that it says it holds. `rings` are the pipelines whose jobs run at this node
    as one of their stages; `on_stage` hears what the node says of its stages themselves.
    """

    def __init__(
        self, carrier: Carrier[FromNode], node: Node, registry: Registry, clock: Clock
    ) -> None:
        super().__init__(node, registry, clock)
        self.stages: dict[str, StageState] = {}
        self.rings: dict[AttemptKey, Ring] = {}
        self.on_stage: Callable[[NodeSession, FromStages], None] | None = None
        self._carrier = carrier
        self._manners = Manners()
        self._leave_by_s: float | None = None

    def send(self, message: Outgoing) -> None:
        """Queue a message for the node; Problem BODY_TOO_LARGE when it fits in no frame.

        A node that does not read what it is sent fills its queue, and that ends the session.
        """
        try:
            self._carrier.post(message)
        except LinkBroken as broken:
            self.end(ProblemCode.LINK_BROKEN, str(broken))
        else:
            if type(message) in ASKING:
                self._manners.opened()

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
        """Also: a node that was sent away and stays is sent off."""
        if self._leave_by_s is not None and now_s >= self._leave_by_s:
            reason = f"{self.node.leaving}, and it did not leave by itself"
            self.end(ProblemCode.DRAINING, reason)
            return
        super().look(now_s)

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
        ring = self.rings.get((step.job, step.attempt)) if self.rings else None
        if ring is not None:
            if not ring.step(self, step):
                _mind(self._manners.idle_step(now_s))
            return
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
        if isinstance(message, ANSWERS):
            _mind(self._manners.answer(self.node.heard_s))
        else:
            _mind(self._manners.notice(self.node.heard_s))
        match message:
            case Heartbeat():
                if len(message.stages) > STAGES_LIMIT:
                    raise Misbehaved(f"{len(message.stages)} stages at one node")
                self.stages = {one.stage: one for one in message.stages}
                faults = engine_faults(message, self.node.card)
                for digest, room in self.node.rooms.items():
                    if digest not in faults and room.engine_fault is not None:
                        # Back from a fault of its own: it need not wait to show that it works.
                        room.repair(self.node.heard_s)
                    room.engine_fault = faults.get(digest)
                self._registry.refresh(self.node, self.node.heard_s)
            case Signed(segment=segment):
                if ring := self.rings.get((segment.job, segment.attempt)):
                    ring.chosen(self, segment)
                elif attempt := self._attempt(segment.job, segment.attempt):
                    attempt.signed(segment)
            case JobFailed():
                if ring := self.rings.get((message.job, message.attempt)):
                    ring.failed(self, message)
                elif attempt := self._attempt(message.job, message.attempt):
                    attempt.fail(message.code, message.message[:500])
            case StageOpened():
                if ring := self.rings.get((message.job, message.attempt)):
                    ring.opened(self, message)
            case StageSigned(segment=segment):
                if ring := self.rings.get((segment.job, segment.attempt)):
                    ring.signed(self, segment)
            case StageLoaded() | StageFailed() | StageTimed() | PairUp() | PairDown():
                if self.on_stage is not None:
                    self.on_stage(self, message)
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
