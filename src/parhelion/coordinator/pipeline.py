"""A pipeline at work: one place for jobs whose layers several nodes hold (DESIGN 3 to 5).

To router, queue, relay and prober it is a session like any other. What it is sent goes to every
stage; what the stages say comes together here: all expect a job before the first one begins, the
last one's ids are the output, the first one's progress is the prefill, and each signs its part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from msgspec import UNSET, UnsetType

from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.session import (
    AttemptKey,
    Misbehaved,
    NodeSession,
    Outgoing,
    Session,
    Worker,
)
from parhelion.coordinator.tags import tags_of
from parhelion.ledger import crew
from parhelion.link import (
    CloseStage,
    Cut,
    Go,
    JobFailed,
    Open,
    OpenStage,
    StageOpened,
    StageState,
)
from parhelion.proof import stage_holds
from parhelion.words import (
    TAG_BLOCK_IDS,
    Clock,
    Job,
    ProblemCode,
    Segment,
    StageJob,
    StageSegment,
    Step,
)

log = logging.getLogger("parhelion.coordinator")

OPEN_WAIT_S = 5.0
"""What every stage may take to say that it expects a job: a round trip, and a step under way."""

PARTS_WAIT_S = 1.5
"""What every stage may take to sign its part; the whole segment is waited for 2 s."""

FORGET_S = 10.0
"""A job that is over is known for so long, so that what is said late is not taken for another's."""

SLOW_TIMES = 5.0
"""A stage whose step takes so many of its usual ones holds up every stream of its pipeline."""

SLOW_LEAST_MS = 1000.0
"""A shorter step is a hiccup: to set the pipeline up again would take as long."""

SLOW_RUN_STEPS = 8
"""So many in a row are none, however short: each holds up every stream, and more will follow. The
node counts those that take SLOW_TIMES what is usual for as many rows (StageState.slow_steps)."""

USUAL_STEPS = 20
"""Before so many steps nobody knows what is usual."""

PAID_TIMES = 2.0
"""Machines of one pipeline may differ as much and be paid for it."""

STEP_UNIT_MS = 1000.0
"""Crews share by whole microseconds of a step."""


@dataclass(eq=False, slots=True)
class Seat:
    """One stage: its name at the node, who holds it, its layers [start, end).

    `step_ms` is what one step of it was measured to take; None before that.
    """

    stage: str
    session: NodeSession
    start: int
    end: int
    step_ms: float | None = None
    tail_layers: float = 0.0
    """So many layers more is the output head worth that the last stage has."""

    @property
    def weight_layers(self) -> float:
        """What its step has to do, in layers."""
        return self.end - self.start + self.tail_layers

    @property
    def peer(self) -> str:
        """The node that holds it."""
        return self.session.node.peer

    def slow_ms(self) -> float | None:
        """How long its step takes, where that is SLOW_TIMES its usual one or more."""
        told = self.session.stages.get(self.stage)
        return told.step_ms if told is not None and is_slow(told) else None


@dataclass(eq=False, slots=True)
class Course:
    """One attempt on its way through the stages."""

    job: Job
    attempt: Worker
    held: dict[str, int] = field(default_factory=dict[str, int])
    """By stage: how many of the job's first ids it has already."""
    went: bool = False
    over: bool = False
    segment: Segment | None = None
    timer: asyncio.TimerHandle | None = None


class PipelineSession(Session):
    """A ring of stages as one session; `seats` in the order of layers."""

    def __init__(
        self,
        node: Node,
        seats: tuple[Seat, ...],
        registry: Registry,
        clock: Clock,
        secret: bytes,
        on_fault: Callable[[Seat | None, str], None],
        on_silent: Callable[[Sequence[str]], None] = lambda _peers: None,
    ) -> None:
        super().__init__(node, registry, clock)
        self._on_fault, self._on_silent = on_fault, on_silent
        self.seats = seats
        self._secret = secret
        self._courses: dict[AttemptKey, Course] = {}
        self._by_session = {seat.session: seat for seat in seats}

    # --- as runner, attempts and books see it -------------------------------------------------

    @property
    def peers(self) -> tuple[str, ...]:
        """The nodes that a job here runs on, in order."""
        return tuple(seat.peer for seat in self.seats)

    @property
    def operators(self) -> str:
        """Their operators, each with the time that a step takes in its layers."""
        weights = shares_ms([(seat.step_ms, seat.weight_layers) for seat in self.seats])
        return crew(
            [
                (seat.session.node.operator, round(weight * STEP_UNIT_MS))
                for seat, weight in zip(self.seats, weights, strict=True)
            ]
        )

    def parts(self, worker: Worker) -> tuple[StageSegment, ...] | UnsetType:
        """Each stage's signed part, or ours in its place with the reason why there is none.

        Of a pipeline of one the node's own segment says it all.
        """
        if len(self.seats) == 1:
            return UNSET
        return tuple(
            worker.parts.get(seat.stage) or self._unsigned(worker, seat, _why_unsigned(seat))
            for seat in self.seats
        )

    def note_served(self) -> None:
        """Count it for the pipeline and for each of its nodes."""
        super().note_served()
        for seat in self.seats:
            seat.session.node.history.served += 1

    @property
    def may_sign(self) -> bool:
        """Whether the last stage's node is still here: it signs what it sent."""
        return not self.seats[-1].session.ended

    def send(self, message: Outgoing) -> None:
        """Open a job at every stage, or cut it; nothing else is said to a pipeline."""
        match message:
            case Open(job=job):
                self._open(job)
            case Cut():
                self.seats[-1].session.send(message)
                course = self._courses.get((message.job, message.attempt))
                if course is not None:
                    self._close(course)
            case _:
                pass  # Its nodes are told by their own sessions.

    def end(self, code: ProblemCode, message: str, hint: str = "") -> None:
        """End it with its cause: its jobs are lost; who is left of it signs, and forgets them."""
        if self.ended:
            return
        super().end(code, message, hint)
        for course in list(self._courses.values()):
            self._close(course)

    def look(self, now_s: float) -> None:
        """A stage that is far slower than it was, or a job that stands still, ends it.

        A stage behind a slow one waits for it and looks slow too: the first of them is meant.
        """
        for seat in self.seats:
            slow_ms = seat.slow_ms()
            if slow_ms is not None:
                name = seat.session.node.name
                self._on_fault(seat, f"a step of the stage at node {name} takes {slow_ms:.0f} ms")
                return
        super().look(now_s)
        stuck = next((room.stuck for room in self.node.rooms.values()), None)
        if stuck is not None:
            self._on_fault(None, f"no progress: {stuck}")

    # --- a job's way --------------------------------------------------------------------------

    def _open(self, job: Job) -> None:
        key = (job.job, job.attempt)
        ids = job.prompt_ids + job.output_ids
        told = StageJob(
            job=job.job,
            attempt=job.attempt,
            capacity=len(job.prompt_ids) + job.max_tokens,
            tags=tags_of(self._secret, job.cache_scope, ids),
        )
        course = self._courses[key] = Course(job, self.attempts[key])
        loop = asyncio.get_running_loop()
        course.timer = loop.call_later(OPEN_WAIT_S, self._late, course)
        for place, seat in enumerate(self.seats):
            if course.over:
                return  # A node was lost just now, and the pipeline with it.
            knows_ids = place in (0, len(self.seats) - 1)
            seat.session.rings[key] = self
            seat.session.send(OpenStage(stage=seat.stage, job=told, ids=job if knows_ids else None))

    def opened(self, node: NodeSession, message: StageOpened) -> None:
        """A stage expects the job; when all do, the first one begins behind what all hold."""
        course, seat = self._known(node, (message.job, message.attempt))
        if course.went or course.over:
            return
        size = len(course.job.prompt_ids) + len(course.job.output_ids)
        # Who knows no ids may hold all of them; the first stage leaves one to be read again.
        is_odd = not 0 <= message.held <= size or message.held % TAG_BLOCK_IDS != 0
        if is_odd or message.stage != seat.stage:
            raise Misbehaved(f"a stage holds {message.held} of {size} ids")
        course.held[seat.stage] = message.held
        if len(course.held) < len(self.seats):
            return
        course.went = True
        self._stop_timer(course)
        first = self.seats[0]
        reused = min(*course.held.values(), (size - 1) // TAG_BLOCK_IDS * TAG_BLOCK_IDS)
        job = course.job
        first.session.send(Go(stage=first.stage, job=job.job, attempt=job.attempt, reused=reused))

    def _late(self, course: Course) -> None:
        """Some stage has not said that it expects the job."""
        missing = [seat.peer for seat in self.seats if seat.stage not in course.held]
        if course.went or course.over:
            return
        log.warning("stages do not open a job", extra={"nodes": missing})
        course.attempt.fail(
            ProblemCode.NODE_LOST, f"{len(missing)} stages did not open the job in time"
        )
        self._close(course)
        self._on_silent(missing)

    def step(self, node: NodeSession, step: Step) -> bool:
        """Ids of the last stage or progress of the first; False where it moved nothing."""
        course, seat = self._known(node, (step.job, step.attempt))
        if seat is not self.seats[-1] and (step.ids or step.finish is not None):
            raise Misbehaved("ids from a stage that is not the last")
        is_behind = len(self.seats) > 1 and seat is self.seats[-1]
        if is_behind and not step.ids and step.finish is None:
            return False  # What it was fed is the first stage's to tell.
        attempt = course.attempt
        before = attempt.mark
        attempt.take(step)
        self._note_end(course)
        return before is not None and (bool(step.ids) or attempt.mark != before)

    def failed(self, node: NodeSession, message: JobFailed) -> None:
        """A stage cannot go on with the job, so nobody can."""
        course, _seat = self._known(node, (message.job, message.attempt))
        course.attempt.fail(message.code, message.message[:500])
        self._close(course)

    def _note_end(self, course: Course) -> None:
        if course.attempt.mark is None:
            self._close(course)

    # --- its end ------------------------------------------------------------------------------

    def _close(self, course: Course) -> None:
        """The job is over: every stage lets go of it and signs its part."""
        if course.over:
            return
        course.over = True
        self._stop_timer(course)
        job, stretch = course.job, course.attempt.stretch
        # The last id was chosen and never fed: what a stage has not held it does not keep.
        ids = (*job.prompt_ids, *course.attempt.output) if course.went else ()
        tags = tags_of(self._secret, job.cache_scope, ids)
        for seat in self.seats:
            if not seat.session.ended:
                seat.session.send(
                    CloseStage(
                        stage=seat.stage,
                        job=job.job,
                        attempt=job.attempt,
                        start=stretch.start,
                        to=stretch.to,
                        head=stretch.head,
                        opening_hash=stretch.opening_hash,
                        tags=tags,
                    )
                )
        loop = asyncio.get_running_loop()
        course.timer = loop.call_later(PARTS_WAIT_S, self._pass_on, course)
        loop.call_later(FORGET_S, self._forget, course)

    def chosen(self, node: NodeSession, segment: Segment) -> None:
        """The last stage's signature under the ids; it waits for the other stages' parts."""
        course, seat = self._known(node, (segment.job, segment.attempt))
        if seat is not self.seats[-1]:
            raise Misbehaved("a segment from a stage that chose no ids")
        if not course.over:
            return  # Nobody has asked for it yet, and nobody can know what it will be.
        course.segment = segment
        if self._all_signed(course) or len(self.seats) == 1:
            self._pass_on(course)

    def signed(self, node: NodeSession, segment: StageSegment) -> None:
        """A stage's part; Misbehaved for one that is not what it was asked to sign."""
        course, seat = self._known(node, (segment.job, segment.attempt))
        parts = course.attempt.parts
        if not course.over or seat.stage in parts:
            return
        due = self._unsigned(course.attempt, seat, "")
        said = (segment.node, segment.artefact, segment.layers, segment.opening_hash)
        if said != (due.node, due.artefact, due.layers, due.opening_hash):
            raise Misbehaved("a part of another stage, or of another request")
        if (segment.start, segment.to, segment.head) != (due.start, due.to, due.head):
            raise Misbehaved("a part of another stretch of the output")
        if segment.busy_ms < 0 or segment.reason is not None or not stage_holds(segment):
            raise Misbehaved("a part whose signature does not hold")
        parts[seat.stage] = segment
        if course.segment is not None and self._all_signed(course):
            self._pass_on(course)

    def _all_signed(self, course: Course) -> bool:
        """Whether every stage that is still here has signed its part."""
        parts = course.attempt.parts
        return all(seat.stage in parts or seat.session.ended for seat in self.seats)

    def _pass_on(self, course: Course) -> None:
        """Hand the segment to the attempt, with what parts there are."""
        self._stop_timer(course)
        if course.segment is None:
            return  # The attempt waits for it a little longer by itself.
        segment, course.segment = course.segment, None
        try:
            course.attempt.signed(segment)
        except Misbehaved as cause:
            last = self.seats[-1].session
            last.end(ProblemCode.INVALID_REQUEST, f"the node misbehaved: {cause}")

    def _forget(self, course: Course) -> None:
        self._stop_timer(course)
        key = (course.job.job, course.job.attempt)
        self._courses.pop(key, None)
        for seat in self.seats:
            seat.session.rings.pop(key, None)

    def _stop_timer(self, course: Course) -> None:
        if course.timer is not None:
            course.timer.cancel()
            course.timer = None

    # --- inside -------------------------------------------------------------------------------

    def _known(self, node: NodeSession, key: AttemptKey) -> tuple[Course, Seat]:
        course, seat = self._courses.get(key), self._by_session.get(node)
        if course is None or seat is None:
            raise Misbehaved("it speaks of a job that it has no part in")
        return course, seat

    def _unsigned(self, worker: Worker, seat: Seat, reason: str) -> StageSegment:
        (digest,) = self.node.rooms
        stretch = worker.stretch
        job, attempt = worker.key
        return StageSegment(
            node=seat.peer,
            job=job,
            attempt=attempt,
            opening_hash=stretch.opening_hash,
            artefact=digest,
            layers=(seat.start, seat.end),
            start=stretch.start,
            to=stretch.to,
            head=stretch.head,
            busy_ms=0,
            reason=reason or None,
        )


def _why_unsigned(seat: Seat) -> str:
    return "the node was lost" if seat.session.ended else f"no signature within {PARTS_WAIT_S:g} s"


def is_slow(told: StageState) -> bool:
    """Whether a stage holds up its pipeline: by one very long step, or by a run of slow ones."""
    if told.steps < USUAL_STEPS:
        return False
    limit_ms = max(SLOW_LEAST_MS, SLOW_TIMES * told.usual_step_ms)
    return told.step_ms > limit_ms or told.slow_steps >= SLOW_RUN_STEPS


def shares_ms(stages: Sequence[tuple[float | None, float]]) -> list[float]:
    """By (step in ms, work in layers) of each stage: the time that its operator is paid for.

    Slowness is paid, up to twice the median's time for the same work: who answers late is measured
    to be slow, and must not be able to take the others' part with that. Nobody is paid for less
    than half of it: a measurement on a busy machine may come to nearly nothing. Unmeasured: by
    layers.
    """
    times = [step_ms for step_ms, _ in stages if step_ms is not None]
    if len(times) < len(stages):
        return [layers for _, layers in stages]
    usual_ms = median_low([ms / layers for ms, (_, layers) in zip(times, stages, strict=True)])
    return [
        min(max(ms, usual_ms * layers / PAID_TIMES), PAID_TIMES * usual_ms * layers)
        for ms, (_, layers) in zip(times, stages, strict=True)
    ]
