"""The parent's side of a stage: a kept host process that is fed frames and gives frames."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from parhelion.config import EngineConfig
from parhelion.engines.hidden import FrameBroken, decode_at
from parhelion.engines.host_messages import Failed, Ping, Pong
from parhelion.engines.keeper import Keeper
from parhelion.engines.stage_messages import (
    Close,
    Feed,
    FromStage,
    Go,
    Heard,
    Open,
    Opened,
    Reported,
    StageReady,
    Stepped,
    Time,
    Timed,
)
from parhelion.engines.stage_protocol import StageCard, StageStats, StageTold
from parhelion.words import Job, Problem, ProblemCode, StageJob, StageSpec

ANSWER_WAIT_S = 15.0
"""An answer comes after the step at hand; a host that stands still is ended sooner than this."""

AHEAD_LIMIT_BYTES = 64 * 1024 * 1024
"""Frames that the child has not taken in: it reads all that is there between two steps, so this is
a peer that sends what nobody asked for."""


class Unanswered(Problem):
    """The host said nothing to what it was asked."""

    def __init__(self) -> None:
        text = f"the stage gave no answer in {ANSWER_WAIT_S:.0f} s"
        super().__init__(ProblemCode.DEADLINE_EXCEEDED, text)


class StageHost(Keeper):
    """One stage of a pipeline in a child process; see `stage_protocol` for what it tells.

    When the child ends, every open job fails (`on_failed`), and it is started again, empty.
    """

    module: ClassVar[str] = "parhelion.engines.stage_host"
    name: ClassVar[str] = "stage"

    def __init__(self, path: Path, spec: StageSpec, config: EngineConfig, told: StageTold) -> None:
        super().__init__(told.on_event, msgspec.msgpack.Decoder(FromStage), Ping())
        self._path = path
        self._spec = spec
        self._config = config
        self._told = told
        self._card: StageCard | None = None
        self._opening: dict[int, tuple[str, int]] = {}
        self._open: set[tuple[str, int]] = set()
        self._asked: dict[int, asyncio.Future[float]] = {}
        self._tickets = itertools.count(1)
        self._fed_bytes = self._heard_bytes = 0
        self._stats = StageStats()

    @classmethod
    async def start(
        cls, path: Path, spec: StageSpec, config: EngineConfig, told: StageTold
    ) -> Self:
        """Load a slice in a new host; Problem ENGINE_FAILED with its last words if it cannot."""
        return await cls(path, spec, config, told)._begin()

    def describe(self) -> StageCard:
        """The card the host gave when it was ready."""
        assert self._card is not None, "start() returns only after Ready"
        return self._card

    def stats(self) -> StageStats:
        """What this stage has done since it was started."""
        return self._stats

    async def open(self, job: StageJob, ids: Job | None = None) -> int:
        """Make room for a job; how many of its leading ids need not be read again.

        `ids` are for the first and the last stage only. Problem where it cannot be taken.
        """
        await self._await_ready()
        key = (job.job, job.attempt)
        if key in self._open or key in self._opening.values():
            raise Problem(ProblemCode.CONFLICT, "this attempt is already open")
        ticket = next(self._tickets)
        self._opening[ticket] = key
        try:
            return int(await self._answer(ticket, Open(ticket=ticket, job=job, ids=ids)))
        except (asyncio.CancelledError, Unanswered):
            # Nobody will use it, and the host may have it open.
            self.close(*key)
            raise
        finally:
            del self._opening[ticket]

    def go(self, job: str, attempt: int, reused: int) -> None:
        """First stage: begin behind the first `reused` ids."""
        self._send(Go(job=job, attempt=attempt, reused=reused))

    def feed(self, frame: bytes) -> None:
        """Take a frame from another stage; FrameBroken for one that no honest stage sends."""
        decode_at(frame, self._spec.is_first, self.describe().n_embd)
        if self._fed_bytes - self._heard_bytes + len(frame) > AHEAD_LIMIT_BYTES:
            raise FrameBroken(f"more than {AHEAD_LIMIT_BYTES} bytes ahead of this stage")
        if self._ready.is_set():
            self._fed_bytes += len(frame)
            self._send(Feed(frame=frame))

    def close(self, job: str, attempt: int, tags: tuple[bytes, ...] = ()) -> None:
        """The job is over here; what is held of it may be kept under `tags`."""
        self._open.discard((job, attempt))
        self._send(Close(job=job, attempt=attempt, tags=tags))

    async def time(self, rows: int, repeats: int) -> float:
        """Milliseconds of a step of `rows` rows, the median of `repeats`; jobs wait meanwhile.

        Problem where there is no room for it.
        """
        await self._await_ready()
        ticket = next(self._tickets)
        return await self._answer(ticket, Time(ticket=ticket, rows=rows, repeats=repeats))

    # --- what the host says -------------------------------------------------------------------

    def _arguments(self) -> tuple[str, ...]:
        spec, config = msgspec.json.encode(self._spec), msgspec.json.encode(self._config)
        return str(self._path), spec.decode(), config.decode()

    def _is_busy(self) -> bool:
        # A job may be under way at another stage: this one owes nothing for it but signs of life.
        return any(not answer.done() for answer in self._asked.values())

    def _take(self, message: FromStage) -> None:
        if isinstance(message, Stepped):
            self._stats = self._stats.after(message.rows, message.took_ms)
            if message.steps:
                self._told.on_steps(message.steps)
            self._told.on_frame(message.frame)
            self._failures = 0
        elif isinstance(message, Reported):
            self._told.on_steps(message.steps)
        elif isinstance(message, Heard):
            self._heard_bytes = message.bytes
        elif isinstance(message, Opened):
            if not message.code and message.ticket in self._opening:
                # Here, not where it is awaited: a Failed may stand right behind this.
                self._open.add(self._opening[message.ticket])
            self._resolve(message.ticket, message.held, message.code, message.message)
        elif isinstance(message, Timed):
            self._resolve(message.ticket, message.ms, message.code, message.message)
        elif isinstance(message, Failed):
            self._open.discard((message.job, message.attempt))
            self._told.on_failed(message.job, message.attempt, message.code, message.message)
        elif isinstance(message, StageReady):
            self._card = message.card
            self._fed_bytes = self._heard_bytes = 0
            self._ready.set()
        else:
            assert isinstance(message, Pong)

    def _resolve(self, ticket: int, value: float, code: str, message: str) -> None:
        answer = self._asked.get(ticket)
        if answer is None or answer.done():
            return
        if code:
            answer.set_exception(Problem(ProblemCode(code), message))
        else:
            answer.set_result(value)

    def _fail_waiting(self, problem: Problem) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(problem)
        failed, self._open = self._open, set()
        for job, attempt in failed:
            self._told.on_failed(job, attempt, problem.code, problem.message)

    async def _answer(self, ticket: int, message: Open | Time) -> float:
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._asked[ticket] = answer
        try:
            self._ask(message)
            async with asyncio.timeout(ANSWER_WAIT_S):
                return await answer
        except TimeoutError:
            raise Unanswered from None
        finally:
            del self._asked[ticket]
