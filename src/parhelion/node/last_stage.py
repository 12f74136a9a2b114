"""The last stage of a pipeline as an Engine, so that its jobs are run and signed like any other.

It samples nothing itself: the stage's process does, and its steps are handed on in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parhelion.words import Job, Problem, ProblemCode, SamplerParams, StageJob, Step

if TYPE_CHECKING:
    # Only named here: the room loads numpy and more, which a command's --help has no use for.
    from parhelion.engines import EngineCard, Mismatch
    from parhelion.engines.steps import Inbox

EXPECTED_LIMIT = 64
"""Jobs that were told and have not begun; each begins at the next turn of the loop, or waits for a
seat that another one winds down from."""

Begin = Callable[[], Awaitable[None]]
"""Has the stage expect the job, and says so; Problem where it cannot."""


@dataclass(slots=True, eq=False)
class _Stream:
    """What the stage made of one job and nobody has taken, and how it is begun."""

    begin: Begin
    inbox: Inbox
    is_read: bool = False
    """Whether `generate` has begun; before that nobody ends it but who expected it."""


class LastStage:
    """Implements `engines.Engine` over a stage that samples."""

    def __init__(self, card: EngineCard) -> None:
        self._card = card
        self._streams: dict[tuple[str, int], _Stream] = {}

    def expect(self, stage_job: StageJob, ids: Job, begin: Begin) -> None:
        """`generate` comes for this job; `begin` opens it at the stage as soon as it has a seat."""
        if len(self._streams) >= self._card.slots + EXPECTED_LIMIT:
            raise Problem(ProblemCode.OVERLOADED, "too many jobs wait at this stage")
        # Here: it loads numpy, which only who holds a stage needs.
        from parhelion.engines.steps import Inbox

        inbox = Inbox(ids.max_tokens - len(ids.output_ids))
        self._streams[stage_job.job, stage_job.attempt] = _Stream(begin, inbox)

    def take(self, step: Step) -> None:
        """The stage made this; of a job that is over it is nobody's."""
        stream = self._streams.get((step.job, step.attempt))
        if stream is None:
            return
        try:
            stream.inbox.put(step)
        except Problem as problem:
            # It made too much of this job; of the others it may be right.
            stream.inbox.fail(problem)

    def fail(self, job: str, attempt: int, problem: Problem) -> None:
        """The stage cannot go on with a job."""
        stream = self._streams.get((job, attempt))
        if stream is not None:
            stream.inbox.fail(problem)

    def forget(self, job: str, attempt: int) -> None:
        """A job that was expected is not run after all."""
        self._streams.pop((job, attempt), None)

    def describe(self) -> EngineCard:
        """What the stage serves."""
        return self._card

    async def generate(self, job: Job) -> AsyncIterator[Step]:
        """The steps of a job that was expected; see `engines.Engine.generate`."""
        stream = self._streams.get((job.job, job.attempt))
        if stream is None:
            raise Problem(ProblemCode.INTERNAL, "the stage does not expect this job")
        stream.is_read = True
        try:
            await stream.begin()
            finish = None
            while finish is None:
                step = await stream.inbox.next()
                finish = step.finish
                yield step
        finally:
            self._streams.pop((job.job, job.attempt), None)

    def cancel(self, job: str, attempt: int) -> None:
        """End the steps of a job; the stage itself hears of its end by CloseStage, or its lease."""
        stream = self._streams.get((job, attempt))
        if stream is None:
            return
        if stream.is_read:
            self.take(Step(job, attempt, 0, finish=ProblemCode.CANCELLED))
        else:
            # Its task is ended before it began, so that nobody else would.
            self.forget(job, attempt)

    async def score(
        self,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        params: SamplerParams,
        seed: int,
    ) -> tuple[Mismatch, ...]:
        """Refused: a stage has a part of the model."""
        raise Problem(ProblemCode.UNSUPPORTED_PARAMETER, "a stage of a pipeline scores nothing")

    async def embed(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Refused: a stage has a part of the model."""
        raise Problem(ProblemCode.UNSUPPORTED_PARAMETER, "a stage of a pipeline embeds nothing")

    async def stop(self) -> None:
        """Nothing of its own is left to end."""
