"""The later stages: hidden states come in frames, in each job's own order; the last stage samples.

All that waits is decoded together, so a stage that has fallen behind catches up: first the rows of
sequences that decode, then prompts as far as the measured pace allows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parhelion.engines.hidden import Entry, Frame, encode_hidden, encode_ids
from parhelion.engines.host_messages import Failed
from parhelion.engines.plan import prefill_budget
from parhelion.engines.stage_loop import StageLoop
from parhelion.engines.stage_work import Grace, Piece, StageWork
from parhelion.proof.sampler import NoChoice
from parhelion.words import ProblemCode, Step

QUEUE_LIMIT_BYTES = 256 * 1024 * 1024
"""An honest first stage has a few chunks under way for each stage: far below this at any width."""


@dataclass(slots=True)
class Waiting:
    """Rows that have come and are not yet decoded."""

    work: StageWork
    rows: NDArray[np.float32]
    wants: bool


class LaterLoop(StageLoop):
    """Decodes hidden states for the next stage."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._queue: deque[Waiting] = deque()
        self._queued_bytes = 0
        self._grace = Grace()

    # --- what comes in ------------------------------------------------------------------------

    def _begin(self, work: StageWork) -> None:
        for _, entry, rows in self._grace.take(work.key):
            if not work.ended:
                self._take(work, entry, rows, rows.nbytes)

    def _hear(self, frame: Frame) -> None:
        at = 0
        for entry in frame.entries:
            rows = frame.hidden[at : at + entry.rows]
            at += entry.rows
            work = self._works.get(entry.key)
            if work is not None:
                if not work.ended:
                    self._take(work, entry, rows, frame.hidden.nbytes)
            elif entry.key not in self._past and not self._grace.put(entry, rows, self._clock_s()):
                self._refuse_stranger(entry)

    def _refuse_stranger(self, entry: Entry) -> None:
        self._past.add(entry.key)
        text = "rows of a job that was not opened here"
        job, attempt = entry.key
        self._emit(Failed(job=job, attempt=attempt, code=ProblemCode.NOT_FOUND, message=text))

    def _take(
        self, work: StageWork, entry: Entry, rows: NDArray[np.float32], whole_bytes: int
    ) -> None:
        fault = self._fault(work, entry, rows)
        if fault:
            self.fail(work, ProblemCode.ENGINE_FAILED, fault)
            return
        if not work.begun:
            work.resume(self._clock_s())
        work.queued_to = entry.end
        if rows.nbytes * 2 < whole_bytes:
            # A small part of a large frame must not keep all of it.
            rows = rows.copy()
        self._queue.append(Waiting(work, rows, entry.flag))
        self._queued_bytes += rows.nbytes

    def _fault(self, work: StageWork, entry: Entry, rows: NDArray[np.float32]) -> str:
        if not work.begun:
            if entry.start > work.fed:
                return f"it goes on at {entry.start}, of which {work.fed} ids are held"
            if not self._memory.cut(work, entry.start):
                return f"it cannot be cut at {entry.start}"
        elif entry.start != work.queued_to:
            return f"rows from {entry.start} on, where {work.queued_to} comes next"
        generation = work.generation
        if entry.end > (work.capacity if generation is None else generation.size):
            return f"rows up to {entry.end}, which nobody has chosen"
        if generation is not None and entry.flag != (entry.end == generation.size):
            return "an id is wanted where none follows, or not wanted where one does"
        if self._queued_bytes + rows.nbytes > QUEUE_LIMIT_BYTES:
            return f"more than {QUEUE_LIMIT_BYTES} bytes wait here"
        if not np.isfinite(rows).all():
            return "a hidden state is no number"
        return ""

    def _leave(self, work: StageWork) -> None:
        super()._leave(work)
        self._drop_ended()

    def _drop_ended(self) -> None:
        self._queue = deque(one for one in self._queue if not one.work.ended)
        self._queued_bytes = sum(one.rows.nbytes for one in self._queue)

    def look(self) -> None:
        """Leases, and rows whose job was not opened in time."""
        super().look()
        for _, entry, _rows in self._grace.expire(self._clock_s()):
            if entry.key not in self._past:
                self._refuse_stranger(entry)

    # --- what a step carries ------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Rows wait."""
        return bool(self._queue)

    def _choose(self) -> list[Piece]:
        pieces: dict[tuple[str, int], Piece] = {}
        self._take_streams(pieces)
        streams = len(pieces)
        budget = prefill_budget(
            self.meter.pace(streams), streams, self._limits.step_budget_ms, self._batch.capacity
        )
        self._take_prompts(pieces, budget)
        self._queued_bytes = sum(one.rows.nbytes for one in self._queue)
        return list(pieces.values())

    def _take_streams(self, pieces: dict[tuple[str, int], Piece]) -> None:
        """Single rows, of each job the first that waits."""
        seen: set[tuple[str, int]] = set()
        kept: deque[Waiting] = deque()
        room = self._batch.capacity - 1
        for one in self._queue:
            is_next = one.work.key not in seen
            seen.add(one.work.key)
            if is_next and len(one.rows) == 1 and len(pieces) < room:
                pieces[one.work.key] = Piece(one.work, 1, one.wants, [one.rows])
            else:
                kept.append(one)
        self._queue = kept

    def _take_prompts(self, pieces: dict[tuple[str, int], Piece], budget: int) -> None:
        """Chunks in the order in which they came; the last may be taken in part."""
        while self._queue and budget > 0:
            one = self._queue[0]
            count = min(budget, len(one.rows))
            piece = pieces.setdefault(one.work.key, Piece(one.work, 0, wants=False))
            piece.rows.append(one.rows[:count])
            piece.count += count
            budget -= count
            if count == len(one.rows):
                piece.wants = one.wants
                self._queue.popleft()
            else:
                piece.wants = False
                one.rows = one.rows[count:]

    def _add(self, piece: Piece) -> None:
        at = piece.work.fed
        for rows in piece.rows:
            self._batch.add_hidden(piece.work.seq, at, rows, 0)
            at += len(rows)

    def _after(self, pieces: list[Piece], entries: list[Entry]) -> tuple[bytes, list[Step]]:
        rows = self._decoder.hidden(self._batch.size)
        return encode_hidden(entries, rows, self._spec.wire), []


class LastLoop(LaterLoop):
    """Chooses the ids: for the coordinator as steps, for the first stage as a frame."""

    def _add(self, piece: Piece) -> None:
        end = piece.work.fed + piece.count
        at = piece.work.fed
        for rows in piece.rows:
            wanted_from = end - 1 if piece.wants else end
            self._batch.add_hidden(piece.work.seq, at, rows, wanted_from)
            at += len(rows)

    def _after(self, pieces: list[Piece], entries: list[Entry]) -> tuple[bytes, list[Step]]:
        wanted = sum(piece.wants for piece in pieces)
        rows = iter(self._decoder.logits(wanted) if wanted else ())
        steps: list[Step] = []
        answers: list[Entry] = []
        ids: list[int] = []
        for piece in pieces:
            step = self._chosen(piece.work, next(rows)) if piece.wants else None
            if step is not None:
                steps.append(step)
                ids += step.ids
            made = len(step.ids) if step is not None else 0
            answers.append(Entry(*piece.work.key, piece.work.fed, made, piece.work.ended))
        return encode_ids(answers, ids), steps

    def _chosen(self, work: StageWork, row: NDArray[np.float32]) -> Step | None:
        generation = work.generation
        assert generation is not None, "the last stage gets ids"
        try:
            step = generation.take(row)
        except NoChoice as fault:
            self.fail(work, ProblemCode.ENGINE_FAILED, str(fault))
            return None
        # Its memory stays until it is closed: it may be kept for the next prompt.
        work.ended = step.finish is not None
        return step
