"""What the loops of all stages have in common: who is open, the KV memory, one step, the lease.

Which rows a step carries and what becomes of them is each kind's own: see stage_first, stage_later.
Whatever a frame says of a job is that job's business alone: it fails, its neighbours go on.
"""

from __future__ import annotations

import queue
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parhelion.engines.batching import Decoder, Rows
from parhelion.engines.hidden import Entry, Frame, decode_at
from parhelion.engines.host_messages import Failed, Ping, Pong
from parhelion.engines.memory import KvMemory
from parhelion.engines.plan import PaceMeter
from parhelion.engines.stage_messages import (
    Close,
    Feed,
    FromStage,
    Go,
    Heard,
    Open,
    Opened,
    Reported,
    Stepped,
    Time,
    Timed,
    ToStage,
)
from parhelion.engines.stage_rules import StageLimits, refusal
from parhelion.engines.stage_work import TAG_BYTES, Past, Piece, StageWork
from parhelion.engines.work import Generation, Work
from parhelion.words import TAG_BLOCK_IDS, Job, ProblemCode, StageJob, Step

LEASE_S = 30.0
"""A job of which no step came for so long is over, whatever was lost: it would hold its memory for
ever. No honest step takes so long, and a waiting prompt is given an id every RENEW_S."""

HEARD_LIMIT = 256
"""Messages between two steps: more than the frames of all jobs of a step."""

LOOK_EVERY_S = 1.0
"""How often leases are looked at while nothing else happens."""

HEARD_EVERY_BYTES = 256 * 1024
"""How often the parent is told what was taken in: a few times within what it may send ahead."""

TIMING_LIMIT_S = 5.0
"""A timing stands in the way of everything else, so it ends early on a slow machine."""


class StageRows(Rows, Protocol):
    """The batch of one step (see llama.Batch)."""

    def add_hidden(self, seq: int, start: int, rows: NDArray[np.float32], wanted_from: int) -> None:
        """Append hidden states of one sequence."""
        ...


class StageDecoder(Decoder, Protocol):
    """What a stage needs of a context (see llama.Context)."""

    def hidden(self, rows: int) -> NDArray[np.float32]:
        """What the last decode made for the next stage, until the next decode."""
        ...


class StageLoop(ABC):
    """Owns the decoder; runs in one thread, told by messages, and reports by `emit`."""

    def __init__(
        self,
        decoder: StageDecoder,
        batch: StageRows,
        limits: StageLimits,
        emit: Callable[[FromStage], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder = decoder
        self._batch = batch
        self._limits = limits
        self._spec = limits.spec
        self._emit = emit
        self._clock_s = clock_s
        self._memory = KvMemory.within(limits, decoder, can_rewind=True)
        self._works: dict[tuple[str, int], StageWork] = {}
        self._past = Past()
        self._looked_s = clock_s()
        self._heard_bytes = self._said_bytes = 0
        self.meter = PaceMeter()

    def run(self, inbox: queue.Queue[ToStage]) -> None:
        """Serve for ever; the host's reader ends the process."""
        while True:
            try:
                # What has arrived is heard before the next step, up to a bound: a neighbour that
                # talks without a pause must not keep us from working.
                for _ in range(HEARD_LIMIT):
                    self.tell(inbox.get(block=not self.ready, timeout=LOOK_EVERY_S))
            except queue.Empty:
                pass
            self.look()
            self.step()

    @property
    @abstractmethod
    def ready(self) -> bool:
        """A step would do something."""

    @abstractmethod
    def _choose(self) -> list[Piece]:
        """What the next step carries, at least one piece while `ready`."""

    @abstractmethod
    def _add(self, piece: Piece) -> None:
        """Put a piece into the batch."""

    @abstractmethod
    def _after(self, pieces: list[Piece], entries: list[Entry]) -> tuple[bytes, list[Step]]:
        """What the decoded pieces come to: a frame and steps; `entries` are as before the step."""

    @abstractmethod
    def _begin(self, work: StageWork) -> None:
        """It has just been opened."""

    @abstractmethod
    def _hear(self, frame: Frame) -> None:
        """A frame of the right kind has come."""

    # --- messages -----------------------------------------------------------------------------

    def tell(self, message: ToStage) -> None:
        """Take one message from the parent."""
        if isinstance(message, Feed):
            self._feed(message.frame)
        elif isinstance(message, Open):
            self._open(message)
        elif isinstance(message, Close):
            self._close(message)
        elif isinstance(message, Go):
            self.go((message.job, message.attempt), message.reused)
        elif isinstance(message, Ping):
            # A device that is lost or held says so here, where nobody's job is at stake.
            self._decoder.settle()
            self._emit(Pong())
        else:
            self._time(message)

    def go(self, key: tuple[str, int], reused: int) -> None:
        """Begin behind so many ids; only the first stage is told."""
        work = self._works.get(key)
        if work is not None:
            self.fail(work, ProblemCode.INVALID_REQUEST, "only the first stage begins a job")

    def _feed(self, body: bytes) -> None:
        self._heard_bytes += len(body)
        self._hear(decode_at(body, self._spec.is_first, self._limits.n_embd))
        if self._heard_bytes - self._said_bytes >= HEARD_EVERY_BYTES:
            self._say_heard()

    def _say_heard(self) -> None:
        self._said_bytes = self._heard_bytes
        self._emit(Heard(bytes=self._heard_bytes))

    def _open(self, message: Open) -> None:
        problem = self._refusal(message.job, message.ids)
        if problem is not None:
            code, text = problem
            self._emit(Opened(ticket=message.ticket, code=code, message=text))
            return
        generation = Generation(message.ids, self._limits.eog) if message.ids is not None else None
        work = StageWork(message.job, generation, self._clock_s())
        if not self._memory.seat(work):
            text = f"{work.capacity} ids of KV memory are not free"
            self._emit(Opened(ticket=message.ticket, code=ProblemCode.OVERLOADED, message=text))
            return
        self._works[work.key] = work
        self._emit(Opened(ticket=message.ticket, held=work.holds_of_prefix()))
        finish = generation.already_finished() if generation is not None else None
        if generation is not None and finish is not None:
            work.ended = True
            if self._spec.is_last:
                step = generation.step(generation.made, (), finish)
                self._emit(Reported(steps=(step,)))
        self._begin(work)

    def _refusal(self, job: StageJob, ids: Job | None) -> tuple[str, str] | None:
        key = (job.job, job.attempt)
        if key in self._works or key in self._past:
            return ProblemCode.CONFLICT, "this attempt was opened before"
        if len(self._works) >= self._spec.slots:
            return ProblemCode.OVERLOADED, f"all {self._spec.slots} slots are taken"
        return refusal(job, ids, self._limits)

    def _close(self, message: Close) -> None:
        key = (message.job, message.attempt)
        work = self._works.get(key)
        if work is None:
            self._past.add(key)
            return
        named = TAG_BLOCK_IDS * len(message.tags)
        is_fine = named < len(work.ids) and all(len(tag) == TAG_BYTES for tag in message.tags)
        # What nobody could find again is not worth keeping.
        keeps = self._memory.cut(work, min(work.fed, named)) if is_fine and work.fed else False
        work.tag(message.tags if keeps else ())
        self._leave(work)

    def fail(self, work: StageWork, code: str, text: str) -> None:
        """This job cannot go on here; nothing of it is kept."""
        work.tag(())
        self._leave(work)
        job, attempt = work.key
        self._emit(Failed(job=job, attempt=attempt, code=code, message=text))

    def _leave(self, work: StageWork) -> None:
        work.ended = True
        del self._works[work.key]
        self._past.add(work.key)
        self._memory.release(work)

    def look(self) -> None:
        """Free whom no step has renewed for LEASE_S, at most once a second."""
        now_s = self._clock_s()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for work in list(self._works.values()):
            if now_s - work.stepped_s > LEASE_S:
                text = f"no step of it came for {LEASE_S:.0f} s"
                self.fail(work, ProblemCode.DEADLINE_EXCEEDED, text)
        if self._said_bytes != self._heard_bytes:
            self._say_heard()

    # --- one step -----------------------------------------------------------------------------

    def step(self) -> None:
        """Decode what is chosen, once, and tell of it in one message."""
        if not self.ready:
            return
        started_s = time.perf_counter()
        pieces = self._choose()
        entries = [piece.entry() for piece in pieces]
        self._batch.clear()
        for piece in pieces:
            self._add(piece)
        self._memory.tidy(self._batch.size)
        self._decode()
        now_s = self._clock_s()
        for piece in pieces:
            piece.work.advance(piece.count, now_s)
        frame, steps = self._after(pieces, entries)
        took_ms = (time.perf_counter() - started_s) * 1e3
        streams = sum(piece.count == 1 for piece in pieces)
        rows = sum(piece.count for piece in pieces)
        self.meter.measured(streams, rows - streams, took_ms)
        self._emit(Stepped(frame=frame, steps=tuple(steps), rows=rows, took_ms=took_ms))

    def _decode(self) -> None:
        if self._decoder.decode(self._batch) == 0:
            return
        # Accounting makes this impossible; a fragmented memory may still surprise us once.
        self._memory.evict_all()
        if self._decoder.decode(self._batch) != 0:
            raise RuntimeError("the KV memory has no room for rows that it had promised")

    def _time(self, ask: Time) -> None:
        """Decode rows of nobody's, in a sequence of their own; neighbours wait for it."""
        scratch = Work("", [0] * ask.rows, ask.rows)
        if not 0 < ask.rows <= self._batch.capacity or ask.repeats < 1:
            code, text = ProblemCode.INVALID_REQUEST, f"1 to {self._batch.capacity} rows, please"
            self._emit(Timed(ticket=ask.ticket, code=code, message=text))
        elif not self._memory.seat(scratch):
            text = "the KV memory is taken"
            self._emit(Timed(ticket=ask.ticket, code=ProblemCode.OVERLOADED, message=text))
        else:
            took_ms = self._timings(scratch, ask)
            self._memory.release(scratch)
            self._emit(Timed(ticket=ask.ticket, ms=statistics.median(took_ms)))

    def _timings(self, scratch: Work, ask: Time) -> list[float]:
        took_ms: list[float] = []
        began_s = time.perf_counter()
        # Plain noise: rows of zeros would be quicker on some processors.
        noise = np.random.default_rng(0).standard_normal((ask.rows, self._limits.n_embd))
        rows = noise.astype(np.float32)
        for _ in range(ask.repeats):
            self._batch.clear()
            wanted_from = ask.rows - 1 if self._spec.is_last else 0
            if self._spec.is_first:
                self._batch.add(scratch.seq, 0, scratch.ids, wanted_from)
            else:
                self._batch.add_hidden(scratch.seq, 0, rows, wanted_from)
            self._memory.tidy(self._batch.size)
            started_s = time.perf_counter()
            self._decode()
            self._decoder.settle()
            took_ms.append((time.perf_counter() - started_s) * 1e3)
            scratch.fed = ask.rows
            self._memory.cut(scratch, 0)
            if time.perf_counter() - began_s > TIMING_LIMIT_S:
                break
        return took_ms
