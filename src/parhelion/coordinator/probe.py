"""A job of our own at a node: ids to a fresh prompt, and when they came. Nobody pays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from parhelion.coordinator.attempt import NATURAL_ENDS, SIGNATURE_WAIT_S, check_prefilled
from parhelion.coordinator.pace import Pace
from parhelion.coordinator.progress import Mark
from parhelion.coordinator.session import Misbehaved, Session, Stretch
from parhelion.link import Cut, Open
from parhelion.proof import chain, opening_hash
from parhelion.words import Clock, Job, Problem, ProblemCode, Segment, StageSegment, Step


class Probe:
    """To the node it looks like any other job, so that it cannot serve probes better than users.

    `over` resolves once: None when its first `enough` ids are there, else why not. An answer that
    is longer is left there, as clients leave; its slot is the node's until the node has stopped.
    A probe that is `paced` is a sample of the node's speed.
    """

    def __init__(
        self,
        session: Session,
        job: Job,
        clock: Clock,
        free: Callable[[], None],
        *,
        enough: int,
        paced: bool,
    ) -> None:
        self.job = job
        self.number = job.attempt
        self.key = job.job, job.attempt
        self.session = session
        self.ids: list[int] = []
        self.parts: dict[str, StageSegment] = {}
        self.over: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._free: Callable[[], None] | None = free
        self._enough = enough
        self._prefilled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last_s = clock.monotonic_s()
        self._pace: Pace | None = None
        if paced:
            prompt, before = len(job.prompt_ids), len(job.output_ids)
            self._pace = Pace(
                session.node, job.digest, prompt + before, 0, before, clock.monotonic_s()
            )

    def open(self) -> None:
        """Send it to the node."""
        self.session.attempts[self.key] = self
        try:
            self.session.send(Open(job=self.job))
        except Problem as problem:
            self._end(problem)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._leave(Problem(ProblemCode.CANCELLED, "the probe was given up"))

    # --- as the session sees it ---------------------------------------------------------------

    @property
    def digest(self) -> str:
        """The model's artefact."""
        return self.job.digest

    @property
    def began(self) -> bool:
        """Whether its first id is there."""
        return bool(self.ids)

    @property
    def mark(self) -> Mark | None:
        """What changes with every step that moves it; None once it is over."""
        return None if self.over.done() else (self.number, self._prefilled, len(self.ids))

    @property
    def output(self) -> Sequence[int]:
        """All ids of the output so far, those that it came with too."""
        return (*self.job.output_ids, *self.ids)

    @property
    def stretch(self) -> Stretch:
        """What it delivered: a stage is asked to sign it like anything else."""
        ids = self.output
        head = chain(self.job.opening, self.job.prompt_ids, ids).hex()
        return Stretch(len(self.job.output_ids), len(ids), head, opening_hash(self.job.opening))

    def take(self, step: Step) -> None:
        """A step of the engine; Misbehaved for ids that cannot be."""
        if self.over.done():
            return  # It was left; what the engine made meanwhile is nobody's.
        check_prefilled(step, self.job)
        if step.ids:
            have = len(self.output)
            if step.start != have or have + len(step.ids) > self.job.max_tokens:
                raise Misbehaved(f"ids from {step.start} on where {have} was next")
            self._last_s = self._clock.monotonic_s()
            self.ids.extend(step.ids)
            if self._pace is not None:
                self._pace.made(len(step.ids), self._last_s)
        self._prefilled = max(self._prefilled, step.prefilled)
        if step.finish in NATURAL_ENDS:
            self._end(None)
        elif len(self.ids) >= self._enough:
            self._leave(None)
        elif step.finish is not None:
            self.fail(step.finish, "the engine gave up")

    def fail(self, code: str, message: str) -> None:
        """The node cannot go on."""
        self._end(Problem(ProblemCode.ENGINE_FAILED, f"{code}: {message}"))

    def signed(self, segment: Segment) -> None:
        """It has stopped. Nobody is billed, so nobody needs the signature itself."""
        if self.over.done():
            self._forget()

    def stall(self, problem: Problem) -> None:
        """It stands still."""
        self.give_up()

    def move(self) -> None:
        """The node is wanted for something else."""
        self.give_up()

    def lost(self, problem: Problem) -> None:
        """The node's session ended."""
        self._end(problem)

    def _leave(self, problem: Problem | None) -> None:
        if self.over.done():
            return
        self._close(problem)
        self.session.send(Cut(job=self.job.job, attempt=self.number, n=len(self.output)))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SIGNATURE_WAIT_S, self._forget)

    def _end(self, problem: Problem | None) -> None:
        if not self.over.done():
            self._close(problem)
        self._forget()

    def _close(self, problem: Problem | None) -> None:
        if self._pace is not None:
            self._pace.close(self._last_s, 0)
        self.over.set_result(problem)

    def _forget(self) -> None:
        """The node is done with it: its slot is free."""
        if self._timer is not None:
            self._timer.cancel()
        self.session.attempts.pop(self.key, None)
        if self._free is not None:
            free, self._free = self._free, None
            free()
