"""ParrotEngine: an Engine that says again what it was asked last, so a test writes the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from parhelion.engines import Mismatch
from parhelion.testing.echo import EchoEngine
from parhelion.words import Job, Problem, ProblemCode, SamplerParams, Step

TURN_BEGINS = 1
TURN_ENDS = 2
"""<|im_start|> and <|im_end|> of the packaged model."""

ROLE_IDS = 2
"""After the first stand the role and a newline."""


class ParrotEngine(EchoEngine):
    """An EchoEngine whose answer is the last message of the prompt, and then end-of-text."""

    async def score(
        self,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        params: SamplerParams,
        seed: int,
    ) -> tuple[Mismatch, ...]:
        """Every output id that was not said before."""
        return tuple(
            Mismatch(position=at, expected=expected, found=found)
            for at, (expected, found) in enumerate(
                zip(said_last(prompt_ids), output_ids, strict=False)
            )
            if expected != found
        )

    async def _steps(self, job: Job, cancelled: asyncio.Event) -> AsyncIterator[Step]:
        said = said_last(job.prompt_ids)
        began_s = self._last_beat_s()
        first = position = len(job.output_ids)
        while position < min(job.max_tokens, len(said)):
            await self._pause(began_s, position + 1 - first, cancelled)
            if self._stopped:
                raise Problem(ProblemCode.ENGINE_FAILED, "the parrot engine was stopped")
            ids: tuple[int, ...] = (said[position],)
            finish: str | None = None
            if cancelled.is_set():
                ids, finish = (), ProblemCode.CANCELLED
            elif position + 1 == len(said):
                finish = "eog"
            elif position + 1 == job.max_tokens:
                finish = "length"
            yield Step(
                job=job.job,
                attempt=job.attempt,
                start=position,
                ids=ids,
                finish=finish,
                prefilled=len(job.prompt_ids),
            )
            if finish is not None:
                return
            position += 1


def said_last(prompt_ids: Sequence[int]) -> tuple[int, ...]:
    """The ids of the prompt's last whole message, with its end."""
    ids = list(prompt_ids)
    backwards = ids[::-1]
    if TURN_ENDS not in ids or TURN_BEGINS not in ids:
        return (*ids, TURN_ENDS)
    end = len(ids) - 1 - backwards.index(TURN_ENDS)
    begin = max((at for at in range(end) if ids[at] == TURN_BEGINS), default=-1 - ROLE_IDS)
    return tuple(ids[begin + 1 + ROLE_IDS : end + 1])
