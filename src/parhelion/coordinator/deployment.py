"""One pipeline on its way into service, and there: load, link, time, serve, and begin again.

A plan that changes is followed: layers that new nodes are to hold are loaded before the old stages
let go of their streams, and streams in flight finish where they are (DESIGN 5).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from parhelion.coordinator.layers import LOAD_FAILURES_LIMIT, Layers
from parhelion.coordinator.pipeline import PipelineSession, Seat
from parhelion.coordinator.pipeline_node import emptied, node_of
from parhelion.coordinator.pipeline_pool import specs_of, stage_id
from parhelion.coordinator.pipeline_state import PipelineEvent, PipelineState, next_state
from parhelion.coordinator.planner import Pipeline, Stage, Wire
from parhelion.coordinator.second_look import QUICK_LOAD_S, Timed, is_sure, when_idle
from parhelion.coordinator.session import NodeSession
from parhelion.coordinator.stage_orders import Path, all_or_none
from parhelion.coordinator.workshop import Workshop
from parhelion.hosts import backoff_s
from parhelion.words import Problem, ProblemCode

log = logging.getLogger("parhelion.coordinator")

DRAIN_DEADLINE_S = 600.0
"""A stream of a slow pipeline may take minutes to its end; then it goes on at the next epoch."""

GIVE_WAY_S = 25.0
"""Where a model without any place waits for its nodes its streams have as long as those of a node
that leaves; then they go on at another pipeline of their model."""

HURRY_S = 3.0
"""Where somebody waits for the next epoch, streams that have not ended so soon go on there: who
waits is told no after ten seconds (`resume_wait_s`); a stream that is resumed pauses for two."""


class Deployment:
    """Keeps one pipeline where its `target` is; `ended` is told when it is gone for good."""

    def __init__(
        self,
        target: Pipeline,
        workshop: Workshop,
        ended: Callable[[Deployment, Sequence[str]], None],
    ) -> None:
        self.id = target.id
        self.digest = target.digest
        self.target: Pipeline | None = target
        self.state = PipelineState.LOADING
        self.reason: str | None = None
        self.session: PipelineSession | None = None
        self.wire: Wire | None = None
        """How hidden states travel in the ring at work; None where none do."""
        self.since_ms = workshop.clock.now_ms()
        self.layers = Layers(target.id, target.digest, workshop)
        self._has_hole = False
        """The plan has nobody for one of its stages: the others wait with their layers."""
        self._awaits_plan = False
        """A node of it is gone or slow: who has its layers from now on is not decided yet."""
        self._runs = 0
        self._is_timed = False
        self._first: Timed | None = None
        """A timing of nodes that had none before, until it is known whether layers move for it."""
        self.served = self.failed = 0
        """Jobs of the rings before the present one."""
        self._links: dict[str, int] = {}
        self._emptied: asyncio.Event | None = None
        """Set when a ring that drains has nobody left to wait for."""
        self._is_wanted = False
        """Somebody waits for the next epoch."""
        self._spoilt: str | None = None
        """What broke while it was set up."""
        self._kept: Pipeline | None = None
        """What is left of it, where it has a hole."""
        self._silent: Counter[str] = Counter()
        self._silent_at = 0
        self._workshop = workshop
        self._ended = ended
        self._woken = asyncio.Event()
        self._drain_s = DRAIN_DEADLINE_S
        self._task: asyncio.Task[None] | None = None

    @property
    def is_coming(self) -> bool:
        """Whether it is set up again, or about to; not where a stage of it has nobody."""
        working = self.session
        is_away = working is None or working.node.leaving is not None
        return is_away and self.target is not None and not self._has_hole

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=f"pipeline-{self.id}")

    async def stop(self) -> None:
        """The coordinator stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # --- what happens to it -------------------------------------------------------------------

    def aim(self, target: Pipeline | None) -> None:
        """The plan has it like this from now on; None: not at all."""
        if target == self.target and not (self._has_hole or self._awaits_plan):
            return
        self.target, self._has_hole, self._awaits_plan = target, False, False
        if target is not None and self.state is not PipelineState.SERVING:
            self._become(PipelineEvent.REPLACED)
        self._woken.set()

    def give_way(self) -> None:
        """Another model has its nodes from now on, and waits for them."""
        self._drain_s = GIVE_WAY_S
        self.aim(None)

    def try_again(self) -> None:
        """There may be room now: where it waits for the next try, that is due."""
        if self.state is PipelineState.FAILED:
            self._woken.set()

    def hold(self, kept: Pipeline) -> None:
        """It lost a stage that nobody can take: `kept` waits with its layers, and serves nobody."""
        self._awaits_plan = False
        if not self._has_hole or kept != self._kept:
            self._has_hole, self._kept = True, kept
            self._woken.set()

    def lost(self, session: NodeSession) -> None:
        """A node is gone; whoever waits for it while building has heard so by itself."""
        working = self.session
        self.layers.lost(session)
        if working is not None and any(seat.session is session for seat in working.seats):
            cause = "its session ended" if session.cause is None else session.cause.message
            self._awaits_plan = True
            self.fault(f"node {session.node.name} left: {cause}")

    def stage_failed(self, session: NodeSession, stage: str, reason: str) -> None:
        """A node's engine of a stage is gone."""
        working, target = self.session, self.target
        if working is not None:
            is_ours = any(one.session is session and one.stage == stage for one in working.seats)
        else:
            is_ours = target is not None and any(
                (one.peer, stage_id(self.digest, one.start, one.end)) == (session.node.peer, stage)
                for one in target.stages
            )
        if is_ours:
            self.fault(f"the stage at node {session.node.name} failed: {reason[:200]}")

    def fault(self, reason: str) -> None:
        """It cannot serve any more; its jobs go on elsewhere, and it is set up again."""
        if self.session is None:
            self._spoilt = self._spoilt or reason
            return
        working = self._let_go(self.session)
        self._links = {}
        self.reason = reason
        working.end(ProblemCode.NODE_LOST, reason)
        self._become(PipelineEvent.FAULT)
        if self._emptied is not None:
            self._emptied.set()
        self._woken.set()

    def hurry(self) -> None:
        """Somebody waits for it to be set up: streams in flight keep it a little longer."""
        if self.is_coming and not self._is_wanted:
            self._is_wanted = True
            if self._emptied is not None:
                asyncio.get_running_loop().call_later(HURRY_S, self._emptied.set)

    def _mute(self, peers: Sequence[str]) -> None:
        """Nodes did not open a job in time; those that never do are planned without."""
        working = self.session
        if working is None:
            return
        if working.node.served > self._silent_at:
            self._silent.clear()
        self._silent_at = working.node.served
        self._silent.update(peers)
        shunned = [peer for peer in peers if self._silent[peer] >= LOAD_FAILURES_LIMIT]
        if shunned:
            self._silent.clear()
            self._awaits_plan = True
            self.fault(f"{len(shunned)} of its nodes open no job")
            self._ended(self, shunned)

    def _slow(self, seat: Seat | None, reason: str) -> None:
        """It stands still, or a stage of it nearly does."""
        if seat is not None and (slow_ms := seat.slow_ms()) is not None:
            self._workshop.found_slow(self.digest, seat, slow_ms)
            self._workshop.on_measured(seat.peer)
            self._awaits_plan = True
        self.fault(reason)

    def _let_go(self, working: PipelineSession) -> PipelineSession:
        """It is no place for jobs any more; what it did still counts."""
        self.served += working.node.served
        self.failed += working.node.failed
        self.session = None
        return working

    def uses(self, link: str) -> bool:
        """Whether this link is one of the ring at work."""
        return link in self._links

    def path(self, place: int) -> Path | None:
        """The link from this stage to the next one of the ring."""
        if self.session is None or len(self.session.seats) < 2:
            return None
        seats = self.session.seats
        return self._workshop.orders.path(seats[place].peer, seats[(place + 1) % len(seats)].peer)

    # --- its life -----------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        try:
            while (target := self.target) is not None:
                self._woken.clear()
                try:
                    if self._has_hole:
                        await self._wait_for_a_stage()
                        continue
                    if self._awaits_plan:
                        await self._woken.wait()
                        continue
                    if self.session is not None and self._is_at_work(target):
                        # The plan is again what it serves as: what another needed is let go of.
                        self.layers.unload_all_but(target)
                        await self._woken.wait()
                        continue
                    if self.session is not None:
                        await self._hand_over(target)
                        if self._woken.is_set():
                            continue
                    if await self._unless_changed(self._deploy(target)):
                        failures = 0
                        self.layers.succeeded()
                        await self._unless_changed(self._look_again())
                        await self._woken.wait()
                except Problem as problem:
                    failures += 1
                    await self._pause(problem, failures)
                except Exception:
                    # A bug of ours with one pipeline: it must neither end the others nor spin.
                    log.exception("pipeline failed", extra={"pipeline": self.id})
                    failures += 1
                    fault = Problem(ProblemCode.INTERNAL, "the coordinator failed to set it up")
                    await self._pause(fault, failures)
        finally:
            await self._leave()

    async def _wait_for_a_stage(self) -> None:
        await self._drain("it waits for a node that can take a stage")
        if self._woken.is_set():
            return
        self.layers.unload_all_but(self._kept)
        self.reason = "no node can take the stage that it lost"
        if self.state is not PipelineState.FAILED:
            self._become(PipelineEvent.FAULT)
        await self._woken.wait()

    async def _pause(self, problem: Problem, failures: int) -> None:
        """It could not be set up: try again after a while, or when the plan changes."""
        if self.reason is None or not self._is_short():
            # Of a node that is gone what broke it says more than that it is not here.
            self.reason = problem.message
        # That a node is gone was said, and the plan is being repaired for it: no further warning.
        level = logging.INFO if self._is_short() else logging.WARNING
        log.log(level, "pipeline is not up: %s", problem.message, extra={"pipeline": self.id})
        if self.state is not PipelineState.FAILED and self.session is None:
            self._become(PipelineEvent.FAULT)
        shunned = self.layers.failing()
        if shunned:
            self._ended(self, shunned)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff_s(failures - 1, random.random())):
                await self._woken.wait()

    def _is_short(self) -> bool:
        """Whether a node that the plan has for it is not here any more."""
        peers = () if self.target is None else self.target.peers
        return any(self._workshop.registry.member(peer) is None for peer in peers)

    async def _unless_changed(self, work: object) -> bool:
        """Do it to its end; False where the plan changed meanwhile and it was given up."""
        assert asyncio.iscoroutine(work)
        working = asyncio.ensure_future(work)
        changed = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait({working, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait([working])
            if not working.cancelled():
                working.exception()  # Whoever was cancelled here does not want to know.
        if working.cancelled():
            return False
        working.result()
        return True

    async def _hand_over(self, target: Pipeline) -> None:
        """Make before break: what can be fetched and loaded is, while the old ones still serve."""
        working = self.session
        assert working is not None
        if any(seat.session.node.leaving is not None for seat in working.seats):
            # It takes nothing new: jobs would be handed back until its place is taken.
            working.node.leaving = "a node of it leaves"
            self._workshop.registry.reassess(working.node)
        at_work = [Stage(seat.peer, seat.start, seat.end) for seat in working.seats]
        wire = self.layers.agreed(target)
        if await self._unless_changed(self.layers.prepare(target, at_work, wire)):
            await self._drain("its layers are dealt anew")

    def _is_at_work(self, target: Pipeline) -> bool:
        """Whether the ring at work is just this one, and nobody of it leaves."""
        assert self.session is not None
        seats = [(seat.peer, seat.start, seat.end) for seat in self.session.seats]
        return seats == [(one.peer, one.start, one.end) for one in target.stages] and not any(
            seat.session.ended or seat.session.node.leaving is not None
            for seat in self.session.seats
        )

    async def _deploy(self, target: Pipeline) -> None:
        """Load, link, time, and put to work."""
        if self.state is PipelineState.FAILED:
            self._become(PipelineEvent.RETRY)
        self.layers.unload_all_but(target)
        self._spoilt = None
        wire = self.layers.agreed(target)
        clock = self._workshop.clock
        began_s = clock.monotonic_s()
        await self.layers.load(target, target.stages, wire)
        is_quick = clock.monotonic_s() - began_s <= QUICK_LOAD_S
        self._become(PipelineEvent.LOADED)
        seats = self._seats(target)
        await self._link(seats)
        self._become(PipelineEvent.LINKED)
        # Streams wait where it was up before: whose time is known is timed when nobody does.
        timed = await self._workshop.time(self.digest, seats, only_new=self._is_timed)
        is_first, self._is_timed = not self._is_timed, True
        self._first = timed if timed.new else None
        if is_first and await self._moves_by(lambda: self._workshop.time(self.digest, seats)):
            if is_quick:
                await self._workshop.planned()
            if self._woken.is_set():
                return  # Its layers are dealt anew before anybody was served.
        self._become(PipelineEvent.TIMED)
        self._put_to_work(target, seats, wire)

    async def _look_again(self) -> None:
        """It serves with nodes that were timed for the first time: they are again when it is idle.

        Who waited while they were set up is served meanwhile.
        """
        working = self.session
        if working is None:
            return
        try:
            await self._moves_by(
                lambda: when_idle(
                    working.node, lambda: self._workshop.time(self.digest, working.seats)
                )
            )
        except Problem as problem:
            log.info("not timed: %s", problem.message, extra={"pipeline": self.id})

    async def _moves_by(self, again: Callable[[], Awaitable[Timed | None]]) -> bool:
        """Whether layers move for a first timing, and the planner was told so."""
        first = self._first
        if first is None:
            return False
        try:
            if not await is_sure(self.id, first, self._workshop.moves, again):
                return False
        finally:
            self._first = None
        for peer in first.layer_ms:
            self._workshop.on_measured(peer)
        return True

    async def time(self) -> bool:
        """Measure its stages again while it is idle; whether that was done."""
        working = self.session
        is_idle = working is not None and working.node.slots_busy == 0 and self._first is None
        if working is None or not is_idle or self.state is not PipelineState.SERVING:
            return False
        await self._workshop.time(self.digest, working.seats)
        return True

    async def _link(self, seats: Sequence[Seat]) -> None:
        """Close the ring: each stage to the next, the last one to the first."""
        if len(seats) < 2:
            self._links = {}
            return
        links = await all_or_none(
            self._workshop.orders.pair(seat.session, seat.stage, following.session, following.stage)
            for seat, following in zip(seats, (*seats[1:], seats[0]), strict=True)
        )
        self._links = {link: place for place, link in enumerate(links)}

    def _put_to_work(self, target: Pipeline, seats: tuple[Seat, ...], wire: Wire) -> None:
        workshop = self._workshop
        if any(seat.session.ended for seat in seats):
            raise Problem(ProblemCode.NODE_LOST, "a node left while its pipeline was set up")
        if self._spoilt is not None:
            raise Problem(ProblemCode.NODE_LOST, self._spoilt)
        # Each time another: what spoke against it before was a stage or link that it has no more.
        self._runs += 1
        name = f"{target.id}.{target.epoch}.{self._runs}"
        _, spec = specs_of(self.layers.model().card, target.stages, workshop.config, wire)[0]
        node = node_of(name, spec, seats, workshop.clock)
        for seat in seats:
            # What was said of it before it was linked and timed is not of this ring.
            seat.session.stages.pop(seat.stage, None)
        workshop.meet(node)
        self.session = PipelineSession(
            node, seats, workshop.registry, workshop.clock, workshop.secret, self._slow, self._mute
        )
        self.reason, self.wire = None, wire if len(seats) > 1 else None
        self._is_wanted = False
        workshop.registry.enter(self.session)
        log.info(
            "pipeline serves",
            extra={"pipeline": target.id, "epoch": target.epoch, "nodes": list(target.peers)},
        )
        workshop.on_progress()

    # --- its end ------------------------------------------------------------------------------

    async def _drain(self, reason: str) -> None:
        """Let the streams in flight finish; what is left at the deadline goes on elsewhere."""
        working = self.session
        if working is None:
            return
        self._become(PipelineEvent.REPLACED)
        working.node.leaving = reason
        self._workshop.registry.reassess(working.node)
        self._emptied = asyncio.Event()
        limit_s = HURRY_S if self._is_wanted else self._drain_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await emptied(working.node, self._emptied)
        self._emptied = None
        if self.session is working:
            self._let_go(working)
        self._links = {}
        working.end(ProblemCode.DRAINING, reason)
        if self.state is PipelineState.DRAINING:
            self._become(PipelineEvent.EMPTIED)

    async def _leave(self) -> None:
        """Gone for good: nobody is left with its layers, unless all of us stop."""
        if self.target is None:
            await self._drain("the pool has other plans for its nodes")
            self.layers.unload_all_but(None)
        elif self.session is not None:
            # Its nodes keep their layers for a while: a coordinator that is back finds them.
            self.session.end(ProblemCode.DRAINING, "the coordinator is stopping")
        self._become(PipelineEvent.DROPPED)
        self._ended(self, ())

    # --- inside -------------------------------------------------------------------------------

    def _become(self, event: PipelineEvent) -> None:
        before, self.state = self.state, next_state(self.state, event)
        if self.state is not before:
            self.since_ms = self._workshop.clock.now_ms()
            log.info("pipeline is %s", self.state, extra={"pipeline": self.id, "was": before})
            self._workshop.on_progress()

    def _seats(self, target: Pipeline) -> tuple[Seat, ...]:
        tail_layers = self._workshop.tails.get(target.digest, 0.0)
        return tuple(
            Seat(
                stage_id(target.digest, stage.start, stage.end),
                self.layers.session_of(stage.peer),
                stage.start,
                stage.end,
                tail_layers=tail_layers if stage.end == target.stages[-1].end else 0.0,
            )
            for stage in target.stages
        )
