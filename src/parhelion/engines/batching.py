"""The continuous-batching loop: every step decodes all running streams and some prompt beside.

What a step carries is decided in `plan`; who holds which KV cells in `memory`; what becomes of a
row of logits in `work`. This file only moves ids and rows between them and the decoder.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from parhelion.engines.cells import Sequences
from parhelion.engines.host_messages import (
    Cancel,
    Failed,
    FromHost,
    Made,
    Ping,
    Pong,
    Run,
    Score,
    Scored,
    ToHost,
)
from parhelion.engines.memory import KvMemory
from parhelion.engines.plan import PaceMeter, Prefill, prefill_budget, share_prefill
from parhelion.engines.work import SCORE_WINDOW_ROWS, Generation, Scoring, Work
from parhelion.proof.sampler import NoChoice
from parhelion.words import Job, ProblemCode, Step

WAITING_LIMIT = 1024
"""Jobs that may wait for a seat; the coordinator reserves seats, so more is a fault upstream."""


class Rows(Protocol):
    """The batch of one step (see llama.Batch)."""

    capacity: int
    size: int

    def clear(self) -> None:
        """Start a new step."""
        ...

    def add(self, seq: int, start: int, ids: NDArray[np.int32] | int, wanted_from: int) -> None:
        """Append ids of one sequence."""
        ...


class Decoder(Sequences, Protocol):
    """What the loop needs of a context (see llama.Context)."""

    def decode(self, batch: Any) -> int:
        """Run one step of this decoder's own kind of Rows; 0: done, 1: no room in memory."""
        ...

    def logits(self, rows: int) -> NDArray[np.float32]:
        """The wanted rows, in order, until the next decode."""
        ...

    def settle(self) -> None:
        """Return when the device has done all that it was given."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loop may use, and the facts of the model it must know."""

    digest: str
    slots: int
    context: int
    kv_tokens: int
    parked_tokens: int
    crowded_tokens: int
    n_vocab: int
    step_budget_ms: float
    eog: frozenset[int]
    can_rewind: bool
    keeps_order: bool

    @property
    def sequences(self) -> int:
        """One a slot, as many parked, and one that scores."""
        return 2 * self.slots + 1

    @property
    def rows(self) -> int:
        """Rows of logits that a step can want at most."""
        return self.slots + SCORE_WINDOW_ROWS


class Loop:
    """Owns the decoder; runs in one thread, told by messages, and reports by `emit`."""

    def __init__(
        self, decoder: Decoder, batch: Rows, limits: Limits, emit: Callable[[FromHost], None]
    ) -> None:
        self._decoder = decoder
        self._batch = batch
        self._limits = limits
        self._emit = emit
        self._memory = KvMemory.within(limits, decoder, can_rewind=limits.can_rewind)
        self._waiting: deque[Work] = deque()
        self._running: list[Work] = []
        self.meter = PaceMeter()

    def run(self, inbox: queue.Queue[ToHost]) -> None:
        """Serve for ever; the host's reader ends the process."""
        while True:
            try:
                self.tell(inbox.get(block=self.idle))
                continue  # All that has arrived is heard before the next step.
            except queue.Empty:
                self.step()

    def kept_tokens(self) -> int:
        """Ids of finished sequences that are kept for reuse."""
        return self._memory.parked_tokens()

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._waiting

    # --- messages -----------------------------------------------------------------------------

    def tell(self, message: ToHost) -> None:
        """Take one message from the parent."""
        if isinstance(message, Run):
            self._accept_job(message.job)
        elif isinstance(message, Cancel):
            self._cancel((message.job, message.attempt))
        elif isinstance(message, Ping):
            # A device that is lost or held says so here, where nobody's job is at stake.
            self._decoder.settle()
            self._emit(Pong())
        else:
            self._accept_score(message)

    def _accept_job(self, job: Job) -> None:
        problem = self._refusal(job)
        if problem is not None:
            code, text = problem
            self._emit(Failed(job=job.job, attempt=job.attempt, code=code, message=text))
            return
        work = Generation(job, self._limits.eog)
        finish = work.already_finished()
        if finish is not None:
            self._emit(Made(steps=(work.step(work.made, (), finish),)))
            return
        self._waiting.append(work)

    def _refusal(self, job: Job) -> tuple[str, str] | None:
        if job.digest != self._limits.digest:
            return ProblemCode.MODEL_NOT_FOUND, "this engine serves another model"
        if any(w.key == (job.job, job.attempt) for w in self._generations()):
            return ProblemCode.CONFLICT, "this attempt is already running"
        size = len(job.prompt_ids) + max(job.max_tokens, len(job.output_ids))
        return self._unfit(job.prompt_ids, job.output_ids, size)

    def _unfit(
        self, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...], size: int
    ) -> tuple[str, str] | None:
        if size > self._limits.context:
            text = f"{size} tokens do not fit a context of {self._limits.context}"
            return ProblemCode.CONTEXT_LENGTH_EXCEEDED, text
        if not prompt_ids:
            return ProblemCode.INVALID_REQUEST, "the prompt has no ids"
        # One foreign id would fail the whole step, and so every neighbour.
        if min(prompt_ids + output_ids) < 0 or max(prompt_ids + output_ids) >= self._limits.n_vocab:
            return ProblemCode.INVALID_REQUEST, "an id is outside the model's vocabulary"
        if len(self._waiting) >= WAITING_LIMIT:
            return ProblemCode.OVERLOADED, f"{WAITING_LIMIT} jobs are waiting already"
        return None

    def _cancel(self, key: tuple[str, int]) -> None:
        for work in self._generations():
            if work.key == key:
                self._leave(work)
                step = work.step(work.made, (), ProblemCode.CANCELLED)
                self._emit(Made(steps=(step,)))

    def _accept_score(self, ask: Score) -> None:
        size = len(ask.prompt_ids) + len(ask.output_ids)
        problem = self._unfit(ask.prompt_ids, ask.output_ids, size)
        if problem is not None:
            code, text = problem
            self._emit(Scored(ticket=ask.ticket, code=code, message=text))
        elif not ask.output_ids:
            self._emit(Scored(ticket=ask.ticket))
        else:
            work = Scoring(ask.ticket, ask.prompt_ids, ask.output_ids, ask.params, ask.seed)
            self._waiting.append(work)

    def _generations(self) -> list[Generation]:
        return [w for w in (*self._running, *self._waiting) if isinstance(w, Generation)]

    def _leave(self, work: Work) -> None:
        if work.seq < 0:
            self._waiting.remove(work)
        else:
            self._running.remove(work)
            self._memory.release(work)

    # --- one step -----------------------------------------------------------------------------

    def step(self) -> None:
        """Seat who waits, decode once, turn rows into ids, report all jobs in one message."""
        self._seat_waiting()
        if not self._running:
            return
        started_s = time.perf_counter()
        fed, streams = self._fill_batch()
        self._memory.tidy(self._batch.size)
        self._decode()
        rows = self._wanted(fed)
        steps = [work.step(work.made) for work, _ in fed if _still_prefilling(work)]
        steps += self._take_rows(rows)
        prefill_ids = sum(count for _, count in fed) - streams
        self.meter.measured(streams, prefill_ids, (time.perf_counter() - started_s) * 1e3)
        self._emit(Made(steps=tuple(steps)))

    def _seat_waiting(self) -> None:
        """Seats in order of arrival; a score waits for the one before it, beside the slots."""
        generating = sum(isinstance(work, Generation) for work in self._running)
        scoring = len(self._running) - generating
        for work in list(self._waiting):
            is_score = isinstance(work, Scoring)
            if (scoring >= 1) if is_score else (generating >= self._limits.slots):
                continue
            if not self._memory.seat(work):
                return  # Who came first is not overtaken by who needs less.
            self._waiting.remove(work)
            self._running.append(work)
            generating, scoring = generating + (not is_score), scoring + is_score

    def _fill_batch(self) -> tuple[list[tuple[Work, int]], int]:
        """The step's (work, ids) pairs, in batch order, and how many of them just go on."""
        streams = [(work, 1) for work in self._running if work.remaining == 1]
        prompts = [
            Prefill(work.seq, work.remaining, work.step_cap)
            for work in self._running
            if work.remaining > 1
        ]
        pace = self.meter.pace(len(streams))
        budget = prefill_budget(
            pace, len(streams), self._limits.step_budget_ms, self._batch.capacity
        )
        by_seq = {work.seq: work for work in self._running}
        shares = [(by_seq[seq], count) for seq, count in share_prefill(prompts, budget)]
        self._batch.clear()
        for work, count in (*streams, *shares):
            ids = work.ids[work.fed : work.fed + count]
            self._batch.add(work.seq, work.fed, ids, work.wanted_from)
        return [*streams, *shares], len(streams)

    def _decode(self) -> None:
        if self._decoder.decode(self._batch) == 0:
            return
        # Accounting makes this impossible; a fragmented memory may still surprise us once.
        self._memory.evict_all()
        if self._decoder.decode(self._batch) != 0:
            raise RuntimeError("the KV memory has no room for ids that it had promised")

    def _wanted(self, fed: list[tuple[Work, int]]) -> list[Work]:
        """Which work each row of logits belongs to, in order; `fed` counts from here on."""
        rows: list[Work] = []
        for work, count in fed:
            end = work.fed + count
            rows += [work] * max(0, end - max(work.fed, work.wanted_from))
            work.fed = end
        return rows

    def _take_rows(self, rows: list[Work]) -> list[Step]:
        if not rows:
            return []
        steps: list[Step] = []
        for work, row in zip(rows, self._decoder.logits(len(rows)), strict=True):
            if work.seq not in {one.seq for one in self._running}:
                continue  # It failed at an earlier row of this step.
            try:
                if isinstance(work, Generation):
                    steps.append(self._go_on(work, row))
                elif isinstance(work, Scoring) and work.take(row):
                    self._leave(work)
                    self._emit(Scored(ticket=work.ticket, mismatches=tuple(work.mismatches)))
            except NoChoice as fault:
                self._fail(work, str(fault))
        return steps

    def _go_on(self, work: Generation, row: NDArray[np.float32]) -> Step:
        step = work.take(row)
        if step.finish is not None:
            self._leave(work)
        return step

    def _fail(self, work: Work, text: str) -> None:
        self._leave(work)
        code = ProblemCode.ENGINE_FAILED
        if isinstance(work, Generation):
            job, attempt = work.key
            self._emit(Failed(job=job, attempt=attempt, code=code, message=text))
        elif isinstance(work, Scoring):
            self._emit(Scored(ticket=work.ticket, code=code, message=text))


def _still_prefilling(work: Work) -> TypeGuard[Generation]:
    return isinstance(work, Generation) and work.fed <= work.wanted_from
