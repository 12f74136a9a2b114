"""The jobs of one session: each runs in a task of its own, bounded by its engine's slots.

A job is live from its Open to its end: the finish its engine gave, a failure, a Cut, or being
handed back. A live job takes a slot; one that ended may still be winding down in the engine, so
the next job on its slot waits a moment for the seat.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from parhelion.identity import NodeKey
from parhelion.link import Cut, JobFailed, Signed
from parhelion.node import segment
from parhelion.node.outbox import Outbox
from parhelion.proof import sign_segment
from parhelion.words import Clock, Job, Problem, ProblemCode, Step

if TYPE_CHECKING:
    # Only named here: the room loads numpy and more, which a command's --help has no use for.
    from parhelion.engines import Engine

ENDED_KEPT = 64
"""Ended jobs that a late Cut can still name (a stop string found in the last ids)."""

ENDED_KEPT_S = 10.0
"""A coordinator waits two seconds for a signature; 64 prompts of 128k ids, kept for ever, would be
300 MB."""

SIGNED_AT_ONCE = 2
"""Signatures under way, a slot: of each live job at a drain, and of one that ended a moment ago.
A coordinator that asks for more gets none of those: each may be a tenth of a second of hashing."""

INLINE_IDS = 2048
"""Hashing takes about a microsecond an id: more than this goes to a thread."""

WIND_DOWN_S = 10.0
"""An engine acts on a cancel at its next step, 100 ms or so; one that does not loses the job."""

ABANDON_S = 2.0
"""What the tasks of a lost session get to notice that they were cancelled."""

OPENING_BYTES = 32
GOOD_ENDS = ("eog", "length")

log = logging.getLogger("parhelion.node")


@dataclass(slots=True, eq=False)
class Work:
    """One attempt at a job; `ids` are all output ids from index 0."""

    job: Job
    started_at_ms: int
    ids: list[int] = field(default_factory=list)
    ended_at_ms: int | None = None
    is_seated: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What the frames of this attempt carry."""
        return self.job.job, self.job.attempt


class Jobs:
    """Opens, cuts and ends jobs; everything it has to say goes to the outbox."""

    def __init__(
        self, key: NodeKey, engines: Mapping[str, Engine], outbox: Outbox, clock: Clock
    ) -> None:
        self._key = key
        self._engines = engines
        self._outbox = outbox
        self._clock = clock
        self._cards = {digest: engine.describe() for digest, engine in engines.items()}
        self._seats = {
            digest: asyncio.Semaphore(card.slots) for digest, card in self._cards.items()
        }
        self._live: dict[tuple[str, int], Work] = {}
        self._ended: OrderedDict[tuple[str, int], Work] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._signing = 0
        self._signing_limit = SIGNED_AT_ONCE * sum(card.slots for card in self._cards.values())
        self._idle = asyncio.Event()
        self._idle.set()
        self._refuses: str | None = None
        self._last_end_s = -math.inf

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self._live)

    def open(self, job: Job) -> bool:
        """Run a job, or say at once why not; whether it runs."""
        key = (job.job, job.attempt)
        if key in self._live or key in self._ended:
            log.warning("job opened twice", extra={"job": job.job, "attempt": job.attempt})
            return False
        refusal = self._refusal(job)
        if refusal is not None:
            self._say_failed(job, refusal)
            return False
        work = Work(job, self._clock.now_ms(), list(job.output_ids))
        self._live[key] = work
        self._idle.clear()
        work.task = self._start(self._run(work))
        return True

    def runs(self, job: str, attempt: int) -> bool:
        """Whether this attempt is live here."""
        return (job, attempt) in self._live

    def cut(self, cut: Cut) -> None:
        """Stop the job and sign at `n`; a job that ended a moment ago is signed again there."""
        key = (cut.job, cut.attempt)
        work = self._live.get(key) or self._ended.get(key)
        if work is None:
            # A node that wakes after its jobs moved has nothing to say about them.
            log.debug("cut of no job here", extra={"job": cut.job, "attempt": cut.attempt})
            return
        self._stop(work)
        if len(work.job.output_ids) <= cut.n <= len(work.ids):
            self._sign(work, cut.n)
        else:
            message = f"cut at {cut.n}, outside what this attempt made"
            self._say_failed(work.job, Problem(ProblemCode.INVALID_REQUEST, message))

    def fail(self, job: str, attempt: int, problem: Problem) -> None:
        """The engine under a live job is lost: said at once, and what was delivered is signed."""
        work = self._live.get((job, attempt))
        if work is not None:
            self._stop(work)
            self._say_failed(work.job, problem)
            self._sign_delivered(work)

    def refuse_new(self, reason: str) -> None:
        """From now on every Open is answered with DRAINING."""
        self._refuses = reason

    def hand_back(self, reason: str) -> None:
        """Stop what runs; the coordinator resumes it elsewhere from the ids it has."""
        for key in list(self._live):
            self.fail(*key, Problem(ProblemCode.DRAINING, reason))

    async def finished(self) -> None:
        """Return when no job is live and every signature is out."""
        # The last job's end comes before its signature: a long one takes a while longer.
        while self._live or self._signing:
            await self._idle.wait()

    def since_last_end_s(self) -> float:
        """How long ago a job ended here; infinite where none has."""
        return self._clock.monotonic_s() - self._last_end_s

    async def abandon(self) -> None:
        """The link is lost: stop everything and say nothing."""
        for work in list(self._live.values()):
            self._stop(work)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ABANDON_S)

    # --- one job ------------------------------------------------------------------------------

    def _refusal(self, job: Job) -> Problem | None:
        if self._refuses is not None:
            return Problem(ProblemCode.DRAINING, self._refuses)
        if job.digest not in self._engines:
            return Problem(ProblemCode.MODEL_NOT_FOUND, "this node does not serve that artefact")
        if len(job.opening) != OPENING_BYTES:
            return Problem(ProblemCode.INVALID_REQUEST, f"an opening has {OPENING_BYTES} bytes")
        live = sum(work.job.digest == job.digest for work in self._live.values())
        slots = self._cards[job.digest].slots
        if live >= slots:
            return Problem(ProblemCode.OVERLOADED, f"all {slots} slots are taken")
        return None

    async def _run(self, work: Work) -> None:
        digest = work.job.digest
        try:
            async with self._seats[digest]:
                work.is_seated = True
                if work.ended_at_ms is None:
                    await self._generate(self._engines[digest], work)
        except Problem as problem:
            self._fail(work, problem)
        except Exception:
            log.exception("job failed", extra={"job": work.job.job, "attempt": work.job.attempt})
            self._fail(work, Problem(ProblemCode.INTERNAL, "this node has a fault at this job"))

    async def _generate(self, engine: Engine, work: Work) -> None:
        async for step in engine.generate(work.job):
            # After a Cut the engine runs on to its next step: what it makes there is nobody's.
            if work.ended_at_ms is None:
                self._take(work, step)
        if work.ended_at_ms is None:
            raise Problem(ProblemCode.ENGINE_FAILED, "the engine stopped without a finish")

    def _take(self, work: Work, step: Step) -> None:
        if step.ids and step.start != len(work.ids):
            raise Problem(
                ProblemCode.ENGINE_FAILED,
                f"the engine went on at {step.start}, not at {len(work.ids)}",
            )
        n_vocab = self._cards[work.job.digest].n_vocab
        if not all(0 <= id < n_vocab for id in step.ids):
            raise Problem(ProblemCode.ENGINE_FAILED, "the engine made an id of no vocabulary")
        work.ids.extend(step.ids)
        if step.finish is None:
            self._outbox.step(step)
        elif step.finish in GOOD_ENDS:
            self._outbox.step(step)
            self._end(work)
            self._sign(work, len(work.ids))
        else:
            # How a job failed is said in one way only, by JobFailed.
            self._outbox.step(msgspec.structs.replace(step, finish=None))
            self._fail(work, Problem(_code(step.finish), f"the engine gave up: {step.finish}"))

    def _fail(self, work: Work, problem: Problem) -> None:
        if work.ended_at_ms is not None:
            return
        self._end(work)
        self._say_failed(work.job, problem)
        self._sign_delivered(work)

    def _stop(self, work: Work) -> None:
        if work.ended_at_ms is not None:
            return
        self._engines[work.job.digest].cancel(*work.key)
        self._end(work)
        if work.task is None:
            return
        if work.is_seated:
            asyncio.get_running_loop().call_later(WIND_DOWN_S, work.task.cancel)
        else:
            # Nothing winds down, and a coordinator that opens and cuts could heap them up.
            work.task.cancel()

    def _end(self, work: Work) -> None:
        # A wall clock may be set back; a segment never ends before it starts.
        work.ended_at_ms = max(self._clock.now_ms(), work.started_at_ms)
        self._last_end_s = self._clock.monotonic_s()
        del self._live[work.key]
        self._ended[work.key] = work
        asyncio.get_running_loop().call_later(ENDED_KEPT_S, self._ended.pop, work.key, None)
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        self._note_idle()

    # --- what is said of it -------------------------------------------------------------------

    def _say_failed(self, job: Job, problem: Problem) -> None:
        log.warning(
            "job failed",
            extra={"job": job.job, "attempt": job.attempt, "code": problem.code},
        )
        self._outbox.say(
            JobFailed(
                job=job.job, attempt=job.attempt, code=problem.code.value, message=problem.message
            )
        )

    def _sign_delivered(self, work: Work) -> None:
        if len(work.ids) > len(work.job.output_ids):
            self._sign(work, len(work.ids))

    def _sign(self, work: Work, to: int) -> None:
        if len(work.job.prompt_ids) + to <= INLINE_IDS:
            self._say_signed(self._signed(work, to))
        elif self._signing >= self._signing_limit:
            log.warning("too many signatures at once", extra={"job": work.job.job})
        else:
            self._signing += 1
            self._idle.clear()
            self._start(self._sign_apart(work, to))

    async def _sign_apart(self, work: Work, to: int) -> None:
        try:
            self._say_signed(await asyncio.to_thread(self._signed, work, to))
        finally:
            self._signing -= 1
            self._note_idle()

    def _signed(self, work: Work, to: int) -> Signed | None:
        try:
            unsigned = segment.build(
                work.job,
                work.ids,
                to,
                node=self._key.peer,
                backend=self._cards[work.job.digest].backend,
                started_at_ms=work.started_at_ms,
                ended_at_ms=work.ended_at_ms or work.started_at_ms,
            )
            return Signed(segment=sign_segment(self._key, unsigned))
        except (ValueError, OverflowError, Problem) as error:
            # An ask that has no canonical form is run but not signed: the receipt says so.
            log.warning("segment not signed", extra={"job": work.job.job, "cause": str(error)})
            return None

    def _say_signed(self, signed: Signed | None) -> None:
        if signed is not None:
            self._outbox.say(signed)

    def _note_idle(self) -> None:
        if not self._live and not self._signing:
            self._idle.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _code(finish: str) -> ProblemCode:
    try:
        return ProblemCode(finish)
    except ValueError:
        return ProblemCode.ENGINE_FAILED
