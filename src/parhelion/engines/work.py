"""The two kinds of work a sequence can do: generate an output, or re-derive one that is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parhelion.engines.protocol import Mismatch
from parhelion.proof.sampler import History, choose
from parhelion.words import Job, SamplerParams, Step

SCORE_WINDOW_ROWS = 64
"""Rows of logits one scoring step may want: 12 MB for a vocabulary of 49k."""


class Work:
    """Ids of one sequence: `size` are known, the first `fed` of them are in the KV memory.

    `capacity` is how many ids the KV memory must have room for until the end.
    """

    def __init__(self, scope: str, ids: Sequence[int], capacity: int) -> None:
        self.scope = scope
        self.ids: NDArray[np.int32] = np.empty(max(capacity, len(ids)), np.int32)
        self.ids[: len(ids)] = ids
        self.size = len(ids)
        self.capacity = capacity
        self.fed = 0
        self.cached = 0
        self.seq = -1
        self.wanted_from = self.size - 1
        self.step_cap = capacity

    @property
    def remaining(self) -> int:
        """Ids that are known but not yet in the KV memory."""
        return self.size - self.fed

    def held(self) -> NDArray[np.int32]:
        """The ids in the KV memory."""
        return self.ids[: self.fed]


class Generation(Work):
    """One job: each wanted row becomes the next id, which is then fed in turn."""

    def __init__(self, job: Job, eog: frozenset[int]) -> None:
        given = job.prompt_ids + job.output_ids
        super().__init__(job.cache_scope, given, len(job.prompt_ids) + job.max_tokens)
        self.job = job
        self.key = (job.job, job.attempt)
        self.made = len(job.output_ids)
        self._eog = eog
        self._history = History(job.prompt_ids, job.output_ids)

    def already_finished(self) -> str | None:
        """A resumed output may be complete as it came."""
        return self._end(self.job.output_ids[-1] if self.job.output_ids else None)

    def take(self, row: NDArray[np.float32]) -> Step:
        """Choose the id that follows, and say so; NoChoice for a row without any."""
        job = self.job
        return self.append(choose(row, self._history, job.params, job.seed, self.made))

    def append(self, id: int) -> Step:
        """Go on with an id that was chosen, here or by a pipeline's last stage."""
        position = self.made
        self._history.add(id)
        self.made += 1
        finish = self._end(id)
        if finish is None:
            self.ids[self.size] = id
            self.size += 1
        return self.step(position, (id,), finish)

    def _end(self, last: int | None) -> str | None:
        if last in self._eog:
            return "eog"
        return "length" if self.made >= self.job.max_tokens else None

    def step(self, start: int, ids: tuple[int, ...] = (), finish: str | None = None) -> Step:
        """A Step of this job as it stands."""
        prompt_size = len(self.job.prompt_ids)
        given = prompt_size + len(self.job.output_ids)
        return Step(
            job=self.job.job,
            attempt=self.job.attempt,
            start=start,
            ids=ids,
            finish=finish,
            prefilled=min(self.fed, given),
            cached=min(self.cached, prompt_size),
        )


class Scoring(Work):
    """A given output: each wanted row is compared with the id that was output there."""

    def __init__(
        self,
        ticket: int,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        params: SamplerParams,
        seed: int,
    ) -> None:
        # The last id is compared, never fed.
        ids = (*prompt_ids, *output_ids[:-1])
        super().__init__("", ids, len(ids))
        self.ticket = ticket
        self.wanted_from = len(prompt_ids) - 1
        self.step_cap = SCORE_WINDOW_ROWS
        self.mismatches: list[Mismatch] = []
        self.position = 0
        self._output_ids = output_ids
        self._params = params
        self._seed = seed
        self._history = History(prompt_ids)

    def take(self, row: NDArray[np.float32]) -> bool:
        """Check the next output id; True when it was the last."""
        found = self._output_ids[self.position]
        expected = choose(row, self._history, self._params, self._seed, self.position)
        if expected != found:
            self.mismatches.append(Mismatch(position=self.position, expected=expected, found=found))
        self._history.add(found)
        self.position += 1
        return self.position == len(self._output_ids)
