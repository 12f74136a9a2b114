"""The stages that this node holds for pipelines, loaded and let go as the coordinator says.

They outlive a session that is lost, for a while: a coordinator that comes back finds its layers
where they were, and says so by the same LoadStage as before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import structs

from parhelion.identity import NodeKey
from parhelion.link import (
    CloseStage,
    Cut,
    Go,
    JobFailed,
    LoadStage,
    OpenStage,
    Pair,
    PairDown,
    ServeSlice,
    StageFailed,
    StageLoaded,
    StageState,
    TimeStage,
    ToStages,
    UnloadStage,
)
from parhelion.node.outbox import Outbox
from parhelion.node.pipes import OpenPipe
from parhelion.node.slice_server import SliceServer
from parhelion.node.stage import STOP_DEADLINE_S, Stage, StageTools
from parhelion.node.stage_orders import STAGES_LIMIT, load_refusal, memory_refusal
from parhelion.words import Clock, Problem, ProblemCode, StageOffer

KEPT_S = 60.0
"""A coordinator that is restarted, or a network that comes back, is there again within this."""

GOING_LIMIT = STAGES_LIMIT
"""Stages that are being ended; who asks for more of them than that waits."""

log = logging.getLogger("parhelion.node")


class Stages:
    """All stages of one node, by the coordinator's names for them."""

    def __init__(
        self,
        key: NodeKey,
        clock: Clock,
        offer: StageOffer,
        tools: StageTools,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.offer = offer
        self._key = key
        self._clock = clock
        self._tools = tools
        self._on_change = on_change
        self._held: dict[str, Stage] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        """Slices that are to lie ready for a stage that is not held yet."""
        self._going: set[asyncio.Task[None]] = set()
        self._kept: dict[str, asyncio.TimerHandle] = {}
        """Those that no LoadStage of this session has named yet, and when they go."""
        self._outbox: Outbox | None = None
        self._open_pipe: OpenPipe | None = None
        self._refuses: str | None = None
        self._server = SliceServer(tools.lend, lambda: self.busy > 0)

    def reachable(self, direct: tuple[str, ...]) -> None:
        """Other nodes reach this one there ("host:port") from now on."""
        self.offer = structs.replace(self.offer, direct=direct)

    # --- a session ----------------------------------------------------------------------------

    def begin(self, outbox: Outbox, open_pipe: OpenPipe) -> None:
        """A session begins; what is held waits for its LoadStage."""
        self._outbox, self._open_pipe, self._refuses = outbox, open_pipe, None
        self._server.begin(open_pipe)

    async def end(self) -> None:
        """The session is over: links and jobs end, loading stops, loaded stages stay a while."""
        self._outbox = self._open_pipe = None
        for name in [*self._loading, *self._fetching]:
            self._unload(name)
        for name, stage in list(self._held.items()):
            if name not in self._kept:
                loop = asyncio.get_running_loop()
                self._kept[name] = loop.call_later(KEPT_S, self._unload, name)
            await stage.end()
        await self._server.end()

    async def stop(self) -> None:
        """The node ends: let go of every stage."""
        for name in [*self._held, *self._fetching]:
            self._unload(name)
        await self._server.end()
        if self._going:
            await asyncio.wait(self._going, timeout=STOP_DEADLINE_S)

    def obey(self, order: ToStages) -> None:
        """One order of the coordinator."""
        match order:
            case LoadStage():
                self._load(order)
            case ServeSlice():
                if self._refuses is None:
                    self._server.obey(order)
            case UnloadStage():
                self._unload(order.stage)
            case _:
                stage = self._held.get(order.stage)
                if stage is None or order.stage in self._kept:
                    self._answer_for_none(order)
                else:
                    stage.obey(order)

    def cut(self, cut: Cut) -> None:
        """Stop a job of a last stage, wherever it runs."""
        for stage in self._held.values():
            if stage.jobs is not None:
                stage.jobs.cut(cut)

    def states(self) -> tuple[StageState, ...]:
        """What a heartbeat says of them."""
        named = [stage for name, stage in self._held.items() if name not in self._kept]
        return tuple(state for stage in named if (state := stage.state()) is not None)

    def held(self) -> tuple[Stage, ...]:
        """Every stage, also those that load."""
        return tuple(self._held.values())

    # --- leaving ------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """Jobs that are open at any stage."""
        return sum(stage.jobs.busy for stage in self._held.values() if stage.jobs is not None)

    def refuse_new(self, reason: str) -> None:
        """From now on nothing is loaded and no job opened, in this session."""
        self._refuses = reason
        for stage in self._held.values():
            stage.refuse_new(reason)

    def hand_back(self, reason: str) -> None:
        """Stop what runs at every stage."""
        for stage in self._held.values():
            if stage.jobs is not None:
                stage.jobs.hand_back(reason)

    async def finished(self) -> None:
        """Return when no job is open at any stage."""
        for stage in list(self._held.values()):
            if stage.jobs is not None:
                await stage.jobs.finished()

    def since_last_end_s(self) -> float:
        """How long ago a job ended at any stage; infinite where none has."""
        ends = [one.jobs.since_last_end_s() for one in self._held.values() if one.jobs is not None]
        return min(ends, default=float("inf"))

    # --- loading ------------------------------------------------------------------------------

    def _load(self, order: LoadStage) -> None:
        if self._refuses is not None:
            self._say_failed(order, Problem(ProblemCode.DRAINING, self._refuses))
            return
        refusal = load_refusal(order, self.offer)
        if refusal is not None:
            self._say_failed(order, refusal)
            return
        if order.only_fetch:
            self._fetch(order)
            return
        stage = self._held.get(order.stage)
        if stage is not None and _is_same(stage.order, order):
            self._confirm(stage)
            return
        self._unload(order.stage)
        if self._no_room(order) is not None:
            self._forget_unnamed()
        refusal = self._no_room(order)
        if refusal is not None:
            self._say_failed(order, refusal)
            return
        assert self._outbox is not None and self._open_pipe is not None
        stage = Stage(order, self._tools, self._key, self._clock, self._room_for, self._on_change)
        stage.begin(self._outbox, self._open_pipe)
        self._held[order.stage] = stage
        task = asyncio.create_task(self._loads(stage), name="stage-load")
        self._loading[order.stage] = task
        self._on_change()

    def _fetch(self, order: LoadStage) -> None:
        """Have the slice on the disk, for a stage that takes another one's place soon."""
        self._end_fetch(order.stage)
        if len(self._fetching) >= STAGES_LIMIT:
            text = f"this node fetches {STAGES_LIMIT} slices at most"
            self._say_failed(order, Problem(ProblemCode.OVERLOADED, text))
            return
        task = asyncio.create_task(self._fetches(order), name="slice-ahead")
        self._fetching[order.stage] = task
        task.add_done_callback(lambda done: self._fetched(order.stage, done))

    async def _fetches(self, order: LoadStage) -> None:
        open_pipe = self._open_pipe
        assert open_pipe is not None, "a slice is fetched within a session"
        began_s = self._clock.monotonic_s()
        try:
            found = await self._tools.find(order, open_pipe)
        except Problem as problem:
            self._say_failed(order, problem)
            return
        except Exception:
            log.exception("a slice cannot be fetched", extra={"stage": order.stage})
            self._say_failed(order, Problem(ProblemCode.INTERNAL, "this node has a fault at this"))
            return
        found.release()
        if self._outbox is not None:
            took_ms = round((self._clock.monotonic_s() - began_s) * 1000)
            self._outbox.say(
                StageLoaded(
                    stage=order.stage,
                    resident_bytes=0,
                    took_ms=took_ms,
                    fetched_bytes=found.fetched_bytes,
                    only_fetched=True,
                )
            )

    def _fetched(self, name: str, task: asyncio.Task[None]) -> None:
        if self._fetching.get(name) is task:
            del self._fetching[name]

    def _end_fetch(self, name: str) -> None:
        """What has come stays on the disk, for whoever asks next."""
        task = self._fetching.pop(name, None)
        if task is not None:
            task.cancel()
            self._start_going(_over(task))

    def _confirm(self, stage: Stage) -> None:
        timer = self._kept.pop(stage.name, None)
        if timer is not None:
            timer.cancel()
            assert self._outbox is not None and self._open_pipe is not None
            stage.begin(self._outbox, self._open_pipe)
        if stage.name not in self._loading:
            stage.asked_again()

    async def _loads(self, stage: Stage) -> None:
        try:
            if self._going:
                # Their memory is what this one is to have.
                await asyncio.wait(self._going, timeout=STOP_DEADLINE_S)
            log.info("loading a stage", extra=_about(stage))
            await stage.load()
        except Problem as problem:
            self._fail(stage, problem)
        except Exception:
            log.exception("a stage cannot be loaded", extra=_about(stage))
            self._fail(stage, Problem(ProblemCode.INTERNAL, "this node has a fault at this stage"))
        else:
            log.info("a stage is loaded", extra=_about(stage))
            self._loading.pop(stage.name, None)

    def _fail(self, stage: Stage, problem: Problem) -> None:
        log.warning("a stage is not loaded", extra={**_about(stage), "cause": problem.message})
        stage.say_failed(problem)
        # It is this very task that ends: it must not be cancelled on its way out.
        self._loading.pop(stage.name, None)
        self._unload(stage.name)

    def _unload(self, name: str) -> None:
        """Let go of a stage, loaded or not; unknown ones are ignored."""
        timer = self._kept.pop(name, None)
        if timer is not None:
            timer.cancel()
        self._end_fetch(name)
        stage, loading = self._held.pop(name, None), self._loading.pop(name, None)
        if stage is None:
            return
        if loading is not None:
            loading.cancel()
        self._start_going(self._goes(stage, loading))
        self._on_change()

    async def _goes(self, stage: Stage, loading: asyncio.Task[None] | None) -> None:
        if loading is not None:
            await asyncio.wait([loading], timeout=STOP_DEADLINE_S)
        try:
            await stage.stop()
        except Exception:
            # Nobody waits for this but those who need its memory: they go on either way.
            log.exception("a stage did not end well", extra=_about(stage))
        else:
            log.info("a stage is let go", extra=_about(stage))

    def _start_going(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="stage-unload")
        self._going.add(task)
        task.add_done_callback(self._going.discard)

    def _forget_unnamed(self) -> None:
        """What an earlier session left and this one has not named gives way."""
        for name in list(self._kept):
            self._unload(name)

    def _no_room(self, order: LoadStage) -> Problem | None:
        if len(self._held) >= STAGES_LIMIT or len(self._going) >= GOING_LIMIT:
            return Problem(ProblemCode.OVERLOADED, f"this node holds {STAGES_LIMIT} stages at most")
        return memory_refusal(order.size_bytes, self._held_bytes(), self.offer)

    async def _room_for(self, stage: Stage) -> Problem | None:
        """Why there is no room for all that a stage was found to need, its KV cache too."""
        refusal = self._too_large(stage)
        if refusal is None or not self._kept or stage.need_bytes > self.offer.memory_bytes:
            return refusal
        # By its file alone it fitted beside what an earlier session left; now that gives way, too.
        self._forget_unnamed()
        await asyncio.wait(self._going, timeout=STOP_DEADLINE_S)
        return self._too_large(stage)

    def _too_large(self, stage: Stage) -> Problem | None:
        return memory_refusal(stage.need_bytes, self._held_bytes() - stage.need_bytes, self.offer)

    def _held_bytes(self) -> int:
        return sum(stage.need_bytes for stage in self._held.values())

    # --- what is said -------------------------------------------------------------------------

    def _answer_for_none(self, order: Pair | OpenStage | Go | CloseStage | TimeStage) -> None:
        """An order about a stage that is not here; who waits for an answer gets one."""
        log.debug("an order about no stage here", extra={"stage": order.stage[:64]})
        if self._outbox is None:
            return
        if isinstance(order, OpenStage):
            self._outbox.say(
                JobFailed(
                    job=order.job.job,
                    attempt=order.job.attempt,
                    code=ProblemCode.NOT_FOUND,
                    message="this node does not hold that stage",
                )
            )
        elif isinstance(order, Pair):
            cause = "this node does not hold that stage"
            self._outbox.say(PairDown(link=order.ticket.link, cause=cause))

    def _say_failed(self, order: LoadStage, problem: Problem) -> None:
        log.warning(
            "a stage is refused", extra={"stage": order.stage[:64], "cause": problem.message}
        )
        if self._outbox is not None:
            self._outbox.say(
                StageFailed(stage=order.stage, code=problem.code.value, message=problem.message)
            )


def _is_same(held: LoadStage, order: LoadStage) -> bool:
    """Whether a held stage is what is ordered; how many others there are is the first one's."""
    if held.sha256 != order.sha256:
        return False
    spec = structs.replace(order.spec, name=held.spec.name)
    if not spec.is_first:
        spec = structs.replace(spec, stages=held.spec.stages)
    return spec == held.spec


async def _over(task: asyncio.Task[None]) -> None:
    """Wait until a cancelled task has let go of what it used."""
    await asyncio.wait([task], timeout=STOP_DEADLINE_S)


def _about(stage: Stage) -> dict[str, object]:
    spec = stage.order.spec
    layers = f"{spec.start}-{spec.end - 1}"
    return {"stage": stage.name, "digest": spec.digest, "layers": layers}
