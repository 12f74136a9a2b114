"""A job of our own at a node: greedy ids to a fresh prompt, and when they came. Nobody pays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parhelion.coordinator.attempt import NATURAL_ENDS
from parhelion.coordinator.progress import Mark
from parhelion.coordinator.session import Misbehaved, Session
from parhelion.link import Cut, Open
from parhelion.words import Clock, Job, Problem, ProblemCode, Segment, Step


class Probe:
    """To the node it looks like any other job, so that it cannot serve probes better than users.

    `over` resolves once: None when all ids are there, else why not. `first_id_s` and `last_id_s`
    are on the clock that `opened_s` was read from.
    """

    def __init__(self, session: Session, job: Job, clock: Clock, free: Callable[[], None]) -> None:
        self.job = job
        self.number = job.attempt
        self.session = session
        self.ids: list[int] = []
        self.opened_s = clock.monotonic_s()
        self.first_id_s: float | None = None
        self.last_id_s = self.opened_s
        self.over: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._free: Callable[[], None] | None = free
        self._prefilled = 0

    def open(self) -> None:
        """Send it to the node."""
        self.session.attempts[self.job.job] = self
        try:
            self.session.send(Open(job=self.job))
        except Problem as problem:
            self._end(problem)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if not self.over.done():
            self.session.send(Cut(job=self.job.job, attempt=self.number, n=len(self._output())))
            self._end(Problem(ProblemCode.CANCELLED, "the probe was given up"))

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

    def take(self, step: Step) -> None:
        """A step of the engine; Misbehaved for ids that cannot be."""
        if step.ids:
            have = len(self._output())
            if step.start != have or have + len(step.ids) > self.job.max_tokens:
                raise Misbehaved(f"ids from {step.start} on where {have} was next")
            self.last_id_s = self._clock.monotonic_s()
            if self.first_id_s is None:
                self.first_id_s = self.last_id_s
            self.ids.extend(step.ids)
        self._prefilled = max(self._prefilled, step.prefilled)
        if step.finish in NATURAL_ENDS:
            self._end(None)
        elif step.finish is not None:
            self.fail(step.finish, "the engine gave up")

    def fail(self, code: str, message: str) -> None:
        """The node cannot go on."""
        self._end(Problem(ProblemCode.ENGINE_FAILED, f"{code}: {message}"))

    def signed(self, segment: Segment) -> None:
        """Nobody is billed, so nobody needs the signature."""

    def stall(self, problem: Problem) -> None:
        """It stands still."""
        self.give_up()

    def move(self) -> None:
        """The node is wanted for something else."""
        self.give_up()

    def lost(self, problem: Problem) -> None:
        """The node's session ended."""
        self._end(problem)

    def _output(self) -> tuple[int, ...]:
        return (*self.job.output_ids, *self.ids)

    def _end(self, problem: Problem | None) -> None:
        if self.over.done():
            return
        if self.session.attempts.get(self.job.job) is self:
            del self.session.attempts[self.job.job]
        if self._free is not None:
            free, self._free = self._free, None
            free()
        self.over.set_result(problem)
