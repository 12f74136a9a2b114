"""The jobs of one stage in one session: expected, begun, ended, each signed once.

At the last stage a job is also an ordinary one of `Jobs`, which sends its ids and signs its
segment; everything else that a stage owes its coordinator is here.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from parhelion.identity import NodeKey
from parhelion.link import (
    CloseStage,
    Cut,
    Go,
    JobFailed,
    OpenStage,
    StageOpened,
    StageSigned,
    StageTimed,
    TimeStage,
)
from parhelion.node.jobs import Jobs
from parhelion.node.last_stage import LastStage
from parhelion.node.outbox import Outbox
from parhelion.node.stage_orders import close_fault, kept_tags, open_refusal
from parhelion.node.stage_shares import Shares, jobs_of
from parhelion.proof import opening_hash, sign_stage
from parhelion.words import (
    TAG_BLOCK_IDS,
    Clock,
    Job,
    Problem,
    ProblemCode,
    StageJob,
    StageSegment,
    StageSpec,
    Step,
)

if TYPE_CHECKING:
    # Only named here: the room loads numpy and more, which a command's --help has no use for.
    from parhelion.engines import EngineCard
    from parhelion.engines.stage_protocol import StageStats

OPEN_DEADLINE_S = 10.0
"""The stage answers between two steps, each a fraction of a second; one that restarts does not."""

TIME_DEADLINE_S = 60.0
TIME_ROWS_LIMIT = 4096
TIME_REPEATS_LIMIT = 64
"""A measurement is some steps of a batch; a stage that measures serves nobody."""

KEPT_A_SLOT = 4
KEPT_LEAST = 64
"""Jobs that were opened and never closed: their coordinator forgot them, and so do we, the oldest
first. What they hold of the stage is freed by its own lease long before."""

TIMINGS_LIMIT = 4
"""Orders to measure that wait for each other: of a set-up beside one that looks now and then."""

PAST_LIMIT = 4096
"""Closed jobs that are remembered, so that none is opened, and so signed, a second time."""

ABANDON_S = 2.0
"""What openings of a lost session get to notice that they were cancelled."""

log = logging.getLogger("parhelion.node")


class StageAtWork(Protocol):
    """A loaded stage as its jobs see it (engines.StageHost)."""

    async def open(self, job: StageJob, ids: Job | None) -> int:
        """Expect a job; how many leading ids are held of it. Problem where it cannot."""
        ...

    def go(self, job: str, attempt: int, reused: int) -> None:
        """First stage: begin behind the first `reused` ids."""
        ...

    def close(self, job: str, attempt: int, tags: tuple[bytes, ...]) -> None:
        """The job is over; unknown ones are ignored."""
        ...

    async def time(self, rows: int, repeats: int) -> float:
        """Milliseconds of a step of `rows` rows of nobody."""
        ...

    def stats(self) -> StageStats:
        """Its work so far."""
        ...


@dataclass(slots=True, eq=False)
class Expected:
    """One attempt at a job here; `held` is known once it is open."""

    job: StageJob
    ids: Job | None
    held: int | None = None
    has_gone: bool = False
    is_over: bool = False
    """It failed or was handed back: its part may still be signed."""
    opening: asyncio.Task[None] | None = None


class StageJobs:
    """What one stage runs for one session."""

    def __init__(
        self,
        key: NodeKey,
        name: str,
        spec: StageSpec,
        stage: StageAtWork,
        card: EngineCard,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._key = key
        self._name = name
        self._spec = spec
        self._stage = stage
        self._outbox = outbox
        self._clock = clock
        self._jobs: dict[tuple[str, int], Expected] = {}
        self._past: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._shares = Shares(stage.stats().busy_ms)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timing: asyncio.Task[None] | None = None
        self._timings = 0
        self._refuses: str | None = None
        self._changed = asyncio.Event()
        self._last_end_s = -math.inf
        self._engine = LastStage(card) if spec.is_last else None
        engines = {} if self._engine is None else {spec.digest: self._engine}
        self._desk = Jobs(key, engines, outbox, clock)

    @property
    def busy(self) -> int:
        """How many jobs are open and go on."""
        return sum(not one.is_over for one in self._jobs.values())

    # --- what the coordinator says ------------------------------------------------------------

    def open(self, order: OpenStage) -> None:
        """Expect a job, or say at once why not."""
        key = (order.job.job, order.job.attempt)
        if key in self._jobs or key in self._past:
            log.warning("job opened twice at a stage", extra={"job": key[0], "attempt": key[1]})
            return
        refusal = self._refusal(order)
        if refusal is not None:
            self._say_failed(key, refusal)
            return
        # Who holds no ids is told none, whatever came.
        at_an_end = self._spec.is_first or self._spec.is_last
        expected = Expected(order.job, order.ids if at_an_end else None)
        self._jobs[key] = expected
        self._forget_oldest()
        if self._engine is not None:
            assert expected.ids is not None
            try:
                self._engine.expect(order.job, expected.ids, lambda: self._begin(expected))
            except Problem as problem:
                self._say_failed(key, problem)
                self._end(key)
                return
            if not self._desk.open(expected.ids):
                self._engine.forget(*key)
                self._end(key)
            return
        expected.opening = self._start(self._open(expected))

    def go(self, order: Go) -> None:
        """Begin a job at the first stage, once every stage expects it."""
        key = (order.job, order.attempt)
        expected = self._jobs.get(key)
        if expected is None or expected.held is None or not self._spec.is_first:
            log.debug("no job here to begin", extra={"job": order.job, "attempt": order.attempt})
            return
        if expected.has_gone:
            log.warning("job begun twice", extra={"job": order.job, "attempt": order.attempt})
            return
        if not 0 <= order.reused <= expected.held or order.reused % TAG_BLOCK_IDS:
            text = f"{order.reused} ids cannot be reused of {expected.held} that are held"
            self.failed(key, Problem(ProblemCode.INVALID_REQUEST, text))
            return
        expected.has_gone = True
        self._stage.go(order.job, order.attempt, order.reused)

    def close(self, order: CloseStage) -> None:
        """The job is over here; sign the part in it, once."""
        key = (order.job, order.attempt)
        expected = self._jobs.pop(key, None)
        if expected is None:
            log.debug("close of no job here", extra={"job": order.job, "attempt": order.attempt})
            return
        if expected.opening is not None:
            expected.opening.cancel()
        if self._desk.runs(*key):
            # Closed without a Cut: what the coordinator says is the end is one.
            self._desk.cut(Cut(job=order.job, attempt=order.attempt, n=order.to))
        self._stage.close(order.job, order.attempt, kept_tags(order, self._spec))
        busy_ms = self._shares.settle(key)
        self._note_past(key)
        self._note_end()
        # Who holds all layers has signed the ids: there is no other's part to tell from its own.
        if expected.held is not None and self._spec.stages > 1:
            self._sign(order, expected, busy_ms)

    def cut(self, cut: Cut) -> None:
        """Stop a job of the last stage and sign its ids; of others there is nothing to cut."""
        if (cut.job, cut.attempt) in self._jobs or self._desk.runs(cut.job, cut.attempt):
            self._desk.cut(cut)

    def time(self, order: TimeStage) -> None:
        """Measure a step, one order after the other; nothing is said where it cannot be done."""
        if self._timings >= TIMINGS_LIMIT:
            log.warning("a stage is being timed already", extra={"stage": self._name})
        elif 1 <= order.rows <= TIME_ROWS_LIMIT and 1 <= order.repeats <= TIME_REPEATS_LIMIT:
            self._timings += 1
            self._timing = self._start(self._time_after(self._timing, order))
        else:
            log.warning("no such measurement", extra={"rows": order.rows, "times": order.repeats})

    async def _time_after(self, before: asyncio.Task[None] | None, order: TimeStage) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            await self._time(order)
        finally:
            self._timings -= 1

    def refuse_new(self, reason: str) -> None:
        """From now on every OpenStage is answered with DRAINING."""
        self._refuses = reason
        self._desk.refuse_new(reason)

    def hand_back(self, reason: str) -> None:
        """Stop what runs; the coordinator resumes it elsewhere."""
        self.fail_all(Problem(ProblemCode.DRAINING, reason))

    async def finished(self) -> None:
        """Return when every job is closed or over, and every signature is out."""
        while self.busy:
            self._changed.clear()
            await self._changed.wait()
        await self._desk.finished()

    def since_last_end_s(self) -> float:
        """How long ago a job ended here; infinite where none has."""
        return self._clock.monotonic_s() - self._last_end_s

    async def abandon(self) -> None:
        """The session is lost: let the stage forget all its jobs, and say nothing."""
        for job, attempt in self._jobs:
            self._stage.close(job, attempt, ())
        self._jobs.clear()
        for task in self._tasks:
            task.cancel()
        await self._desk.abandon()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ABANDON_S)

    def owes(self, frame: bytes) -> bool:
        """Whether it asks for a step of a job that is open here."""
        return any(key in self._jobs for key in jobs_of(frame))

    # --- what the stage says ------------------------------------------------------------------

    def made(self, steps: Sequence[Step]) -> None:
        """Ids of the last stage, and how far the first one's prefill is."""
        for step in steps:
            if self._engine is not None:
                self._engine.take(step)
            elif not self._spec.is_first or step.ids or step.finish is not None:
                log.warning("a stage that samples nothing made ids", extra={"job": step.job})
            elif (step.job, step.attempt) in self._jobs:
                self._outbox.step(step)

    def stepped(self, frame: bytes, busy_ms: float) -> None:
        """A step went out; `busy_ms` is what all steps have taken by now."""
        self._shares.add(frame, busy_ms)

    def failed(self, key: tuple[str, int], problem: Problem) -> None:
        """The stage cannot go on with a job; said once."""
        expected = self._jobs.get(key)
        if expected is None or expected.is_over:
            return
        if self._engine is not None and self._desk.runs(*key):
            self._engine.fail(*key, problem)
        elif self._engine is None:
            self._say_failed(key, problem)
        self._end(key)

    def fail_all(self, problem: Problem) -> None:
        """The stage is lost: every job is told of at once, before anything else is said."""
        for key in list(self._jobs):
            self._desk.fail(*key, problem)
            self.failed(key, problem)

    # --- one job ------------------------------------------------------------------------------

    def _refusal(self, order: OpenStage) -> Problem | None:
        if self._refuses is not None:
            return Problem(ProblemCode.DRAINING, self._refuses)
        # Whether a slot is free the stage itself knows: it frees some by lease.
        return open_refusal(order, self._spec)

    async def _open(self, expected: Expected) -> None:
        key = (expected.job.job, expected.job.attempt)
        try:
            await self._begin(expected)
        except Problem as problem:
            self.failed(key, problem)
        except Exception:
            log.exception("job not opened at a stage", extra={"job": key[0], "attempt": key[1]})
            self.failed(key, Problem(ProblemCode.INTERNAL, "this node has a fault at this job"))

    async def _begin(self, expected: Expected) -> None:
        """Open the job at the stage and say so; Problem where that cannot be."""
        try:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                held = await self._stage.open(expected.job, expected.ids)
        except TimeoutError:
            text = f"the stage did not open a job within {OPEN_DEADLINE_S:g} s"
            raise Problem(ProblemCode.ENGINE_FAILED, text) from None
        key = (expected.job.job, expected.job.attempt)
        if self._jobs.get(key) is not expected:
            return  # Closed while it was opened, which the stage was told in that order.
        expected.held = held
        self._shares.begin(key, held)
        self._outbox.say(StageOpened(stage=self._name, job=key[0], attempt=key[1], held=held))

    def _sign(self, order: CloseStage, expected: Expected, busy_ms: float) -> None:
        fault = close_fault(order, self._spec) or _unlike(order, expected.ids)
        if fault is not None:
            log.warning("a stage's part is not signed", extra={"job": order.job, "cause": fault})
            return
        segment = StageSegment(
            node=self._key.peer,
            job=order.job,
            attempt=order.attempt,
            opening_hash=order.opening_hash,
            artefact=self._spec.digest,
            layers=(self._spec.start, self._spec.end),
            start=order.start,
            to=order.to,
            head=order.head,
            busy_ms=round(busy_ms),
        )
        self._outbox.say(StageSigned(segment=sign_stage(self._key, segment)))

    async def _time(self, order: TimeStage) -> None:
        try:
            async with asyncio.timeout(TIME_DEADLINE_S):
                await self._stage.time(order.rows, order.repeats)
        except (TimeoutError, Problem) as error:
            # Whoever asked has a deadline; a stage that is lost says so itself.
            log.warning("a stage was not timed", extra={"stage": self._name, "cause": str(error)})
            return
        self._outbox.say(StageTimed(stage=self._name, ticket=order.ticket))

    def _forget_oldest(self) -> None:
        limit = max(KEPT_LEAST, KEPT_A_SLOT * self._spec.slots)
        for key in list(self._jobs)[: max(0, len(self._jobs) - limit)]:
            self.failed(key, Problem(ProblemCode.OVERLOADED, "too many jobs were never closed"))
            opening = self._jobs.pop(key).opening
            if opening is not None:
                opening.cancel()
            self._stage.close(*key, ())
            self._shares.settle(key)
            self._note_past(key)

    def _note_past(self, key: tuple[str, int]) -> None:
        self._past[key] = None
        if len(self._past) > PAST_LIMIT:
            self._past.popitem(last=False)

    def _end(self, key: tuple[str, int]) -> None:
        self._jobs[key].is_over = True
        self._note_end()

    def _note_end(self) -> None:
        self._last_end_s = self._clock.monotonic_s()
        self._changed.set()

    def _say_failed(self, key: tuple[str, int], problem: Problem) -> None:
        log.warning(
            "a stage refuses or lost a job",
            extra={"job": key[0], "attempt": key[1], "code": problem.code},
        )
        self._outbox.say(
            JobFailed(job=key[0], attempt=key[1], code=problem.code.value, message=problem.message)
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _unlike(order: CloseStage, ids: Job | None) -> str | None:
    """How a part differs from the job as this stage was told it, where it was told its ids."""
    if ids is None:
        return None
    if opening_hash(ids.opening) != order.opening_hash:
        return "its opening is another"
    if order.start != len(ids.output_ids) or order.to > ids.max_tokens:
        return f"the job runs from {len(ids.output_ids)} to {ids.max_tokens}"
    return None
