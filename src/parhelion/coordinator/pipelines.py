"""The owner of pipelines: plans them, has nodes hold and link their layers, puts them to work.

One task plans whenever the nodes of the pool have changed; one task a pipeline brings it to where
the plan wants it, and begins again whenever the plan, a stage or a link is another one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from parhelion.coordinator.deployment import Deployment
from parhelion.coordinator.pipeline_pool import as_served, member_of, shape_of, steady
from parhelion.coordinator.plan_view import Planned, Uncut, as_measured
from parhelion.coordinator.planner import (
    Event,
    Joined,
    Left,
    Measured,
    Plan,
    Pool,
    Stage,
    Wire,
    repair,
)
from parhelion.coordinator.planner import plan as planned
from parhelion.coordinator.registry import Member, Node
from parhelion.coordinator.second_look import Timed, would_move
from parhelion.coordinator.session import NodeSession
from parhelion.coordinator.workshop import Workshop
from parhelion.link import FromStages, PairDown, StageFailed, Standing
from parhelion.models import ModelWeight
from parhelion.words import Problem

log = logging.getLogger("parhelion.coordinator")

T = TypeVar("T")

SETTLE_S = 0.2
"""Nodes of one lab join within moments of each other: they are planned for together."""

PLAN_AGAIN_S = 2.0
"""After a plan that failed by a bug of ours: what changed since may avoid it."""

UNREADABLE_S = 30.0
"""After a model's file could not be read: a disk that is put back is there soon enough."""

IN_THREAD_MEMBERS = 4
"""Plans for more take longer than the event loop may be away: half a second for thirty that come
together, and streams would stand still for it."""

SHUN_S = 600.0
"""A node at which layers could not be loaded again and again is left out for so long."""

TIME_AGAIN_S = 300.0
"""Three seconds of steps of an idle pipeline at most, in five minutes: nobody notices them."""

COMMON_WIRE: Wire = "fp32"
"""What every pipeline can fall back on, so that members need not speak anything else."""

STANDING = ("ready", "suspect", "measuring")
"""States of a node that is planned for: a silent one is gone two seconds later, or is not."""


@dataclass(frozen=True, slots=True)
class Known:
    """The pool that a plan was made for: its members, by peer, and what was measured."""

    peers: tuple[str, ...]
    digests: tuple[str, ...]


class Pipelines:
    """All pipelines of the pool; `workshop` is what they are made with."""

    def __init__(self, workshop: Workshop, changed: Callable[[], None]) -> None:
        self._registry = workshop.registry
        self._catalogue = workshop.catalogue
        self._slices = workshop.slices
        self._config = workshop.config
        self._workshop = workshop
        self._changed = changed
        self._weights: dict[str, ModelWeight | None] = {}
        self._refusals: dict[str, str] = {}
        """Why a model is served whole only, by its artefact."""
        self._unreadable: set[str] = set()
        """Artefacts whose files could not be read just now."""
        self._told: dict[str, str] = {}
        self._known = Known((), ())
        self._measured: set[str] = set()
        self._shunned: dict[str, float] = {}
        self._woken = asyncio.Event()
        self._looked = asyncio.Event()
        """Set when the next look at the plan is over."""
        self._version: int | None = None
        self.plan = Plan()
        self.pool: Pool | None = None
        self.changes = 0
        """How often a plan has dealt layers otherwise than the one before."""
        self.deployments: dict[str, Deployment] = {}
        self.on_planned: Callable[[], None] = lambda: None
        """Told when every pipeline knows what it is to be from now on."""
        workshop.orders.on_broken = self._broken
        workshop.on_progress = changed
        workshop.on_measured = self._measured_anew
        workshop.moves, workshop.planned = self._moves, self._planned

    # --- what happens -------------------------------------------------------------------------

    def touch(self, version: int | None = None) -> None:
        """Nodes or models may have changed; they have not where `version` is as before."""
        if version is None or version != self._version:
            self._version = version
            self._woken.set()

    def hear(self, session: NodeSession, message: FromStages) -> None:
        """What a node says of its stages and links."""
        self._workshop.orders.hear(session, message)

    def left(self, member: Member) -> None:
        """A node, or a pipeline, is here no more."""
        if isinstance(member, NodeSession):
            self._workshop.orders.left(member)
            self._told.pop(member.node.peer, None)
            self._workshop.forget(member)
            for one in list(self.deployments.values()):
                one.lost(member)
        else:
            for one in list(self.deployments.values()):
                if one.session is member:
                    one.fault("it was ended" if member.cause is None else member.cause.message)
        self.touch()

    def _broken(self, session: NodeSession, message: StageFailed | PairDown) -> None:
        """A stage or link at work has failed: its pipeline is no more, and is set up again."""
        reason = message.message if isinstance(message, StageFailed) else message.cause
        names = [session.node.name]
        if isinstance(message, PairDown):
            # A link that a newer one has replaced is no fault.
            names = [self._name(peer) for peer in self._workshop.orders.ends(message.link) or ()]
        for one in list(self.deployments.values()):
            if isinstance(message, StageFailed):
                one.stage_failed(session, message.stage, reason)
            elif one.uses(message.link):
                one.fault(f"the link between {' and '.join(names)} broke: {reason[:200]}")

    def _name(self, peer: str) -> str:
        """What tables call a node; of one that is gone its peer id is what is left."""
        member = self._registry.member(peer)
        return peer if member is None else member.node.name

    def _measured_anew(self, peer: str) -> None:
        """A node is slower or quicker than it was: its layers may be better elsewhere."""
        self._measured.add(peer)
        self._woken.set()

    async def _moves(self, id: str, timed: Timed) -> bool:
        """Whether a timing has a pipeline's layers elsewhere, and all timings of it together do."""
        pool, layer_ms = self.pool, self._workshop.layer_ms
        digest = next((one.digest for one in self.plan.pipelines if one.id == id), None)
        if pool is None or digest is None:
            return False
        alone = {(peer, digest): ms for peer, ms in timed.layer_ms.items()}
        paths, plan = self._workshop.orders.paths, self.plan
        pools = [as_measured(plan, pool, ms, paths).pool for ms in (layer_ms, layer_ms | alone)]
        peers = tuple(timed.layer_ms)
        return await _off_loop(len(pool.members), lambda: would_move(plan, pools, id, peers))

    async def _planned(self) -> None:
        """Return when what was measured by now is planned with."""
        await self._looked.wait()

    def sweep(self) -> None:
        """A pipeline was heard of when the quietest of its nodes was."""
        for one in self.deployments.values():
            if one.session is not None:
                heard = (seat.session.node.heard_s for seat in one.session.seats)
                one.session.node.heard_s = min(heard)

    # --- planning -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Plan until cancelled."""
        timing = asyncio.create_task(self._time_idle(), name="stage-timing")
        try:
            while True:
                await self._woken.wait()
                await asyncio.sleep(SETTLE_S)
                self._woken.clear()
                looked, self._looked = self._looked, asyncio.Event()
                try:
                    await self._look()
                except Exception:
                    log.exception("pipelines were not planned")
                    await asyncio.sleep(PLAN_AGAIN_S)
                    self._woken.set()
                finally:
                    looked.set()
        finally:
            timing.cancel()
            await asyncio.wait([timing])
            await self._stop()

    async def _time_idle(self) -> None:
        """Measure the stages of idle pipelines now and then."""
        while True:
            await asyncio.sleep(TIME_AGAIN_S)
            for one in list(self.deployments.values()):
                try:
                    was_timed = await one.time()
                except Problem as problem:
                    log.info("not timed: %s", problem.message, extra={"pipeline": one.id})
                except Exception:
                    log.exception("not timed", extra={"pipeline": one.id})
                else:
                    if was_timed and one.target is not None:
                        self._measured.update(one.target.peers)
                        self._woken.set()

    async def _look(self) -> None:
        """Plan anew if the members or the models are others than before."""
        if not self._registry.complete():
            return
        members = self._members()
        peers = tuple(node.peer for node in members)
        known = Known(peers, self._readable())
        measured, self._measured = self._measured & set(known.peers), set()
        if known == self._known and not measured:
            # Who came back at once has no other part than before, and is told to go on.
            if self.pool is not None:
                self._tell(members, self.pool)
            self._follow()
            return
        pool = await self._pool(members)
        known = Known(peers, self._readable())
        before = self._known
        gone = [Left(peer=peer) for peer in before.peers if peer not in known.peers]
        came = [one for one in pool.members if one.peer not in before.peers]
        if not self.plan.minted:
            made = await _off_loop(len(members), lambda: planned(pool))
        else:
            events: list[Event] = [*gone, *(Joined(peer=one.peer) for one in came)]
            events += [Measured(peer=peer) for peer in sorted(measured)]
            # Where the models changed and no node did, what is there is looked at all the same.
            events = events or [Left(peer="")]
            was = as_served(self.plan, self._rings(), peers)
            made = await _off_loop(len(members), lambda: _repaired(was, events, pool))
            made = steady(was, made, measured)
        self.changes += made.pipelines != self.plan.pipelines
        # Together: whoever looks sees a plan and the pool that it was made for.
        self.plan, self.pool, self._known = made, pool, known
        self._tell(members, pool)
        # Where nobody offers a part, and nobody did before, no pipeline is waited for.
        for one in self.plan.unplaced if members or before.peers else ():
            log.info("no pipeline: %s", one.reason, extra={"digest": one.digest})
        self._follow()

    def _rings(self) -> dict[str, tuple[Stage, ...]]:
        """The stages at work, by pipeline."""
        return {
            one.id: tuple(Stage(seat.peer, seat.start, seat.end) for seat in one.session.seats)
            for one in self.deployments.values()
            if one.session is not None and not one.session.ended
        }

    def why_not(self, digest: str) -> str | None:
        """What is missing for a pipeline of this model, where it stands, or why it has none at all.

        None where nobody offers a part of one.
        """
        if self.pool is None or not self.pool.members:
            return None
        if digest in self._refusals:
            return self._refusals[digest]
        coming = (
            f"its pipeline is being set up ({one.state})"
            for one in self.deployments.values()
            if one.digest == digest and one.is_coming
        )
        lacks = (one.reason for one in self.plan.unplaced if one.digest == digest)
        return next(lacks, next(coming, None))

    def refusal(self, peer: str) -> str | None:
        """Why there is nothing to do for a node that offers a part: as it was told."""
        return self._told.get(peer) or None

    def is_coming(self, digest: str) -> bool:
        """Whether a pipeline of this model is set up just now, with no stage missing."""
        return any(one.digest == digest and one.is_coming for one in self.deployments.values())

    def hurry(self, digest: str) -> None:
        """Somebody waits for a pipeline of this model that is set up just now."""
        for one in self.deployments.values():
            if one.digest == digest:
                one.hurry()

    def seen(self) -> Planned:
        """The plan and what it is made from, as measured by now."""
        now_s = self._workshop.clock.monotonic_s()
        return as_measured(
            self.plan,
            self.pool or Pool(models=(), members=()),
            self._workshop.layer_ms,
            self._workshop.orders.paths,
            sorted(peer for peer, until_s in self._shunned.items() if until_s > now_s),
            # What a node has whole needs no pipeline.
            [one for one in self._uncut() if not self._registry.index.all(one.digest)],
            waits=self._registry.waits(),
        )

    def _members(self) -> list[Node]:
        """The nodes to plan for, in the order in which they joined."""
        now_s = self._workshop.clock.monotonic_s()
        return [
            node
            for node in self._registry.nodes()
            if node.card.stage is not None
            and node.leaving is None
            and COMMON_WIRE in node.card.stage.wires
            and node.state in STANDING
            and self._shunned.get(node.peer, -math.inf) <= now_s
        ]

    async def _pool(self, members: Sequence[Node]) -> Pool:
        shapes = []
        for model in self._catalogue.models():
            if model.card.digest in self._unreadable:
                continue
            weight = await self._weight(model.card.digest)
            if weight is not None:
                shape = shape_of(model.card, weight, self._config)
                self._workshop.tails[shape.digest] = shape.tail_layers
                shapes.append(shape)
        layer_ms = self._workshop.layer_ms
        return Pool(
            models=tuple(shapes),
            members=tuple(member_of(node, layer_ms, shapes) for node in members),
            rtt=self._workshop.orders.rtt,
            wire=self._config.wire,
        )

    async def _weight(self, digest: str) -> ModelWeight | None:
        """What the parts of a model weigh; None of one that cannot be cut."""
        if digest not in self._weights:
            try:
                artefact = await self._slices.artefact(digest)
            except Problem as problem:
                # Its file cannot be read now; the other models are planned all the same.
                log.warning("not planned now: %s", problem.message, extra={"digest": digest})
                self._unreadable.add(digest)
                asyncio.get_running_loop().call_later(UNREADABLE_S, self._ask_again, digest)
                return None
            self._weights[digest] = artefact.weight
            if artefact.refusal is not None:
                self._refusals[digest] = artefact.refusal
                log.warning("not for pipelines: %s", artefact.refusal, extra={"digest": digest})
        return self._weights[digest]

    def _tell(self, members: Sequence[Node], pool: Pool) -> None:
        """Who offers a stage hears at once where there is nothing that could be cut for it."""
        uncut = [one.reason for one in self._uncut()]
        reason = "" if pool.models else "; ".join(uncut)
        for node in members:
            session = self._registry.member(node.peer)
            if not isinstance(session, NodeSession) or node.rooms:
                continue
            had = self._told.get(node.peer, "")
            if reason and had != reason:
                session.send(Standing(paid_work=False, state="refused", reason=reason))
            elif had and not reason:
                session.send(Standing(paid_work=True, state="ready"))
            self._told[node.peer] = reason
        for peer in self._told.keys() - {node.peer for node in members}:
            del self._told[peer]

    def _uncut(self) -> list[Uncut]:
        """The models of the catalogue that cannot be served in parts."""
        return [
            Uncut(digest=one.card.digest, model=one.card.id, reason=reason)
            for one in self._catalogue.models()
            if (reason := self._refusals.get(one.card.digest)) is not None
        ]

    def _ask_again(self, digest: str) -> None:
        """A file that could not be read may be there again."""
        self._unreadable.discard(digest)
        self.touch()

    def _readable(self) -> tuple[str, ...]:
        """The artefacts that are planned for."""
        digests = (model.card.digest for model in self._catalogue.models())
        return tuple(digest for digest in digests if digest not in self._unreadable)

    def _follow(self) -> None:
        """Bring every pipeline to where the plan has it."""
        wanted = {one.id: one for one in self.plan.pipelines}
        broken = {one.id: one for one in self.plan.broken}
        gave_way = {one.pipeline for one in self.plan.gave_way}
        for id, one in list(self.deployments.items()):
            if id in broken:
                one.hold(broken[id])
            elif id in gave_way:
                one.give_way()
            elif id not in wanted:
                one.aim(None)
        for id, pipeline in wanted.items():
            one = self.deployments.get(id)
            if one is None:
                one = self.deployments[id] = Deployment(pipeline, self._workshop, self._ended)
                one.start()
            elif one.digest != pipeline.digest:
                one.aim(None)  # Another model's of the same name: it goes first.
            else:
                one.aim(pipeline)
        self._slices.keep(self._in_use())
        self.on_planned()
        self._changed()

    def _in_use(self) -> set[tuple[str, int, int]]:
        """The slices of the plan, and of rings that still serve as an earlier one."""
        found = {
            (one.digest, stage.start, stage.end)
            for one in (*self.plan.pipelines, *self.plan.broken)
            for stage in one.stages
        }
        for one in self.deployments.values():
            if one.session is not None:
                found |= {(one.digest, seat.start, seat.end) for seat in one.session.seats}
        return found

    def _ended(self, one: Deployment, shunned: Sequence[str]) -> None:
        """A pipeline is gone for good, or nodes of it failed again and again."""
        now_s = self._workshop.clock.monotonic_s()
        # Whose time is over is planned for again. So it holds those of the last SHUN_S only, and
        # each of them was waited for several times.
        self._shunned = {peer: s for peer, s in self._shunned.items() if s > now_s}
        for peer in shunned:
            self._shunned[peer] = now_s + SHUN_S
            asyncio.get_running_loop().call_later(SHUN_S, self.touch)
        if not shunned and self.deployments.get(one.id) is one:
            del self.deployments[one.id]
            for other in self.deployments.values():
                other.try_again()
        self.touch()
        self._changed()

    async def _stop(self) -> None:
        all_of_them, self.deployments = list(self.deployments.values()), {}
        await asyncio.gather(*(one.stop() for one in all_of_them), return_exceptions=True)


def _repaired(was: Plan, events: Sequence[Event], pool: Pool) -> Plan:
    for event in events:
        was = repair(was, event, pool)
    return was


async def _off_loop(members: int, work: Callable[[], T]) -> T:
    if members <= IN_THREAD_MEMBERS:
        return work()
    return await asyncio.to_thread(work)
