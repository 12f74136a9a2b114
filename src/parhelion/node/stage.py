"""One stage that this node holds: its file, its process, its links and its jobs.

The process outlives a session with the coordinator by a while; links and jobs do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from parhelion.identity import NodeKey
from parhelion.link import (
    CloseStage,
    FromNode,
    Go,
    LoadStage,
    OpenStage,
    Pair,
    StageFailed,
    StageLoaded,
    StageState,
    TimeStage,
)
from parhelion.node.outbox import Outbox
from parhelion.node.pipes import OpenPipe, StagePipes
from parhelion.node.slice_server import Lend
from parhelion.node.stage_jobs import StageAtWork, StageJobs
from parhelion.node.stage_pace import Pace
from parhelion.words import Clock, Problem, ProblemCode, StageSpec, Step

if TYPE_CHECKING:
    # Only named here: the room loads numpy and more, which a command's --help has no use for.
    from parhelion.engines import EngineEvent
    from parhelion.engines.stage_protocol import StageCard, StageTold

MESSAGE_LIMIT_CHARS = 500
"""Of what is said about a failure: a sentence, and room."""

STOP_DEADLINE_S = 15.0
"""A process that is ended is gone in a second or two; its memory is not waited for longer."""

log = logging.getLogger("parhelion.node")


class StageHost(StageAtWork, Protocol):
    """A stage in a child process of its own (engines.StageHost)."""

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""
        ...

    def describe(self) -> StageCard:
        """What it said of itself when it was loaded."""
        ...

    def feed(self, frame: bytes) -> None:
        """A frame came from the stage before."""
        ...

    async def stop(self) -> None:
        """End the process."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A slice's file; `need_bytes` what its process will take, `release` lets the file go."""

    path: Path
    fetched_bytes: int
    need_bytes: int
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class StageTools:
    """How a stage comes by its file and its process; Problem where it cannot."""

    find: Callable[[LoadStage, OpenPipe], Awaitable[Found]]
    start: Callable[[Path, StageSpec, StageTold], Awaitable[StageHost]]
    lend: Lend
    """For another node, what is here."""
    resident_bytes: Callable[[int], int | None]
    """What the process with this id takes; None or 0 where there is none."""


class Stage:
    """One LoadStage's stage; `has_room` is asked once it is known what it needs."""

    def __init__(
        self,
        order: LoadStage,
        tools: StageTools,
        key: NodeKey,
        clock: Clock,
        has_room: Callable[[Stage], Awaitable[Problem | None]],
        on_change: Callable[[], None],
    ) -> None:
        self.name = order.stage
        self.order = order
        self.need_bytes = order.size_bytes
        self.host: StageHost | None = None
        self._tools = tools
        self._key = key
        self._clock = clock
        self._has_room = has_room
        self._on_change = on_change
        self._asked_s = clock.monotonic_s()
        self._found: Found | None = None
        self._down = ""
        """Why its process does not run, while it restarts."""
        self._outbox: Outbox | None = None
        self._open_pipe: OpenPipe | None = None
        self._pipes: StagePipes | None = None
        self._jobs: StageJobs | None = None
        self._refuses: str | None = None
        self._warned_of_no_link = False
        self._pace = Pace()

    @property
    def is_ready(self) -> bool:
        """Its process runs."""
        return self.host is not None and not self._down

    # --- its life -----------------------------------------------------------------------------

    async def load(self) -> None:
        """Find the slice and start its process; Problem where that cannot be."""
        assert self._open_pipe is not None, "a stage is loaded within a session"
        self._found = await self._tools.find(self.order, self._open_pipe)
        self.need_bytes = max(self.need_bytes, self._found.need_bytes)
        refusal = await self._has_room(self)
        if refusal is not None:
            raise refusal
        from parhelion.engines.stage_protocol import StageTold

        told = StageTold(
            on_frame=self._on_frame,
            on_steps=self._on_steps,
            on_failed=self._on_failed,
            on_event=self._on_event,
        )
        self.host = await self._tools.start(self._found.path, self.order.spec, told)
        self._begin_jobs()
        self.confirm()
        self._on_change()

    async def stop(self) -> None:
        """End links, jobs and process; harmless when it never had any."""
        await self.end()
        host, self.host = self.host, None
        try:
            if host is not None:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await host.stop()
        except TimeoutError:
            log.error("a stage's process does not end", extra={"stage": self.name})
        finally:
            if self._found is not None:
                self._found.release()
                self._found = None

    # --- its session --------------------------------------------------------------------------

    def begin(self, outbox: Outbox, open_pipe: OpenPipe) -> None:
        """A session with the coordinator: from now on there is somebody to speak to."""
        self._outbox, self._open_pipe = outbox, open_pipe
        self._pipes = StagePipes(open_pipe, self._feed, outbox.say)
        self._begin_jobs()

    async def end(self) -> None:
        """The session is over: no links, no jobs, nobody to speak to."""
        pipes, jobs = self._pipes, self._jobs
        self._outbox = self._pipes = self._jobs = None
        if pipes is not None:
            await pipes.close()
        if jobs is not None:
            await jobs.abandon()

    def confirm(self) -> None:
        """Say that it is loaded; one that restarts says so when it is back."""
        if not self.is_ready:
            return
        assert self.host is not None and self._found is not None
        took_s = self._clock.monotonic_s() - self._asked_s
        card = self.host.describe()
        self._say(
            StageLoaded(
                stage=self.name,
                resident_bytes=card.resident_bytes,
                took_ms=round(took_s * 1000),
                fetched_bytes=self._found.fetched_bytes,
                device=card.device,
            )
        )

    def asked_again(self) -> None:
        """A LoadStage for a stage that is held: its time counts from here."""
        self._asked_s = self._clock.monotonic_s()
        self.confirm()

    def obey(self, order: Pair | OpenStage | Go | CloseStage | TimeStage) -> None:
        """One order about this stage; of a stage that is not ready yet only links are made."""
        if isinstance(order, Pair):
            if self._pipes is not None:
                self._pace.linked()
                self._pipes.pair(order.side, order.ticket)
            return
        if self._jobs is None:
            log.debug("an order came before the stage was ready", extra={"stage": self.name})
            return
        match order:
            case OpenStage():
                self._jobs.open(order)
            case Go():
                self._jobs.go(order)
            case CloseStage():
                self._jobs.close(order)
            case TimeStage():
                self._jobs.time(order)

    @property
    def jobs(self) -> StageJobs | None:
        """What runs here for the present session; None before it is ready, or without one."""
        return self._jobs

    def refuse_new(self, reason: str) -> None:
        """From now on no job is opened."""
        self._refuses = reason
        if self._jobs is not None:
            self._jobs.refuse_new(reason)

    def state(self) -> StageState | None:
        """What a heartbeat says of it since the last one; None where its process does not run."""
        if self.host is None or self._down:
            return None
        stats = self.host.stats()
        is_owing = self._jobs is not None and self._jobs.busy > 0
        return StageState(
            stage=self.name,
            resident_bytes=self._tools.resident_bytes(self.host.pid) or 0,
            steps=stats.steps,
            busy_ms=stats.busy_ms,
            usual_step_ms=stats.usual_step_ms,
            step_ms=self._pace.tell_ms(self._clock.monotonic_s() if is_owing else None),
            slow_steps=self._pace.slow_steps,
        )

    def _begin_jobs(self) -> None:
        if self.host is None or self._outbox is None:
            return
        from parhelion.engines import EngineCard

        card, spec = self.host.describe(), self.order.spec
        self._jobs = StageJobs(
            self._key,
            self.name,
            spec,
            self.host,
            EngineCard(
                digest=spec.digest,
                backend=card.backend,
                device=card.device,
                slots=spec.slots,
                kv_tokens=card.kv_tokens,
                context=spec.context,
                n_vocab=card.n_vocab,
            ),
            self._outbox,
            self._clock,
        )
        if self._refuses is not None:
            self._jobs.refuse_new(self._refuses)

    # --- what its process says ----------------------------------------------------------------

    def _feed(self, frame: bytes) -> None:
        """A frame came from the stage before; Problem where it ends the link that it came by."""
        if self.host is None or self._jobs is None:
            return  # Whoever sends before this stage is ready has no job here.
        # Here: it loads numpy, which only who holds a stage needs.
        from parhelion.engines.hidden import FrameBroken

        try:
            self.host.feed(frame)
        except FrameBroken as broken:
            raise Problem(ProblemCode.LINK_BROKEN, f"a broken frame: {broken.cause}") from broken
        if self._jobs.owes(frame):
            self._pace.fed(self._clock.monotonic_s())

    def _on_frame(self, frame: bytes) -> None:
        if self.host is None:
            return
        stats = self.host.stats()
        self._pace.stepped(stats.busy_ms, stats.rows)
        if self._jobs is None:
            return  # Of a session that is over.
        self._jobs.stepped(frame, stats.busy_ms)
        if self._pipes is not None and self._pipes.send(frame):
            self._warned_of_no_link = False
        elif not self._warned_of_no_link:
            # The coordinator knows: it heard PairDown, or never paired this side.
            self._warned_of_no_link = True
            log.warning("no link to the next stage", extra={"stage": self.name})

    def _on_steps(self, steps: tuple[Step, ...]) -> None:
        if self._jobs is not None:
            self._jobs.made(steps)

    def _on_failed(self, job: str, attempt: int, code: str, message: str) -> None:
        problem = problem_of(code, message)
        if problem.code is ProblemCode.ENGINE_CRASHED:
            self._go_down(problem)
        elif self._jobs is not None:
            self._jobs.failed((job, attempt), problem)

    def _on_event(self, event: EngineEvent) -> None:
        if self.host is None:
            return  # Its first start, which `load` waits for, or its end.
        if event.kind == "ready":
            self._down = ""
            self.confirm()
        elif event.kind in ("crashed", "hung"):
            is_crash = event.kind == "crashed"
            code = ProblemCode.ENGINE_CRASHED if is_crash else ProblemCode.ENGINE_FAILED
            self._go_down(Problem(code, f"the stage {event.kind}: {event.reason}"))
        self._on_change()

    def _go_down(self, problem: Problem) -> None:
        """Its process is lost: all jobs and the stage itself in one breath, so that nobody sends a
        job there again between the one word and the other.

        Which jobs were there when it crashed is said first: one of them may be why.
        """
        if self._down:
            return
        self._down = problem.message
        # A process that is started again goes on counting where the last one stood.
        stats = None if self.host is None else self.host.stats()
        self._pace = Pace() if stats is None else Pace(stats.busy_ms, stats.rows)
        self._asked_s = self._clock.monotonic_s()
        is_crash = problem.code is ProblemCode.ENGINE_CRASHED
        if not is_crash:
            self.say_failed(problem)
        if self._jobs is not None:
            self._jobs.fail_all(problem)
        if is_crash:
            self.say_failed(problem)

    def say_failed(self, problem: Problem) -> None:
        """Say that it cannot be loaded, or is lost."""
        message = problem.message[:MESSAGE_LIMIT_CHARS]
        self._say(StageFailed(stage=self.name, code=problem.code.value, message=message))

    def _say(self, message: FromNode) -> None:
        if self._outbox is not None:
            self._outbox.say(message)


def problem_of(code: str, message: str) -> Problem:
    """A failure as the stage's process names it."""
    try:
        return Problem(ProblemCode(code), message)
    except ValueError:
        return Problem(ProblemCode.ENGINE_FAILED, message)
