"""The layers of one pipeline at its nodes: ordered to be fetched and held, counted, let go of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from parhelion.coordinator.pipeline_pool import specs_of, stage_id
from parhelion.coordinator.planner import Pipeline, Stage, Wire, agreed_wire
from parhelion.coordinator.session import NodeSession
from parhelion.coordinator.stage_orders import all_or_none
from parhelion.coordinator.workshop import Workshop
from parhelion.link import StageLoaded
from parhelion.models import Model, SliceCard
from parhelion.words import Problem, ProblemCode, StageSpec

LOAD_FAILURES_LIMIT = 3
"""A node that fails so often to hold its layers is planned without."""


class Layers:
    """Who holds what for the pipeline `id` of the artefact `digest`."""

    def __init__(self, id: str, digest: str, workshop: Workshop) -> None:
        self.id = id
        self.digest = digest
        self.held_bytes: dict[tuple[str, str], int] = {}
        """Resident bytes by peer and stage, as the node said when it was loaded."""
        self._workshop = workshop
        self._failures: Counter[str] = Counter()

    def agreed(self, target: Pipeline) -> Wire:
        """How hidden states are to travel between just these nodes."""
        members = [self._workshop.registry.member(peer) for peer in target.peers]
        # Who is not here any more has no word in it, and cannot be set up with either.
        offers = [member.node.card.stage for member in members if member is not None]
        spoken = (() if offer is None else offer.wires for offer in offers)
        return agreed_wire(self._workshop.config.wire, spoken)

    def model(self) -> Model:
        """The model in the catalogue; Problem MODEL_NOT_FOUND."""
        model = self._workshop.catalogue.by_digest(self.digest)
        if model is None:
            raise Problem(ProblemCode.MODEL_NOT_FOUND, "the pipeline's model is not here any more")
        return model

    def session_of(self, peer: str) -> NodeSession:
        """A node that is here; Problem NODE_LOST."""
        member = self._workshop.registry.member(peer)
        if not isinstance(member, NodeSession) or member.ended:
            raise Problem(ProblemCode.NODE_LOST, f"node {peer} is not here")
        return member

    async def load(self, target: Pipeline, stages: Sequence[Stage], wire: Wire) -> None:
        """Have these stages held by their nodes, all at once."""
        specs = self._specs(target, stages, wire)
        results = await asyncio.gather(
            *(self._load_one(stage, spec) for stage, spec in specs), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def prepare(self, target: Pipeline, at_work: Sequence[Stage], wire: Wire) -> None:
        """What can be done for `target` while its nodes still serve: make before break.

        Who is new to it loads; who has other layers now fetches those that it is to have, so that
        the pipeline is away only for as long as a load from its disk takes.
        """
        peers = {stage.peer for stage in at_work}
        held = {(stage.peer, stage.start, stage.end) for stage in at_work}
        fresh = [stage for stage in target.stages if stage.peer not in peers]
        moved = [
            one
            for one in target.stages
            if one.peer in peers and (one.peer, one.start, one.end) not in held
        ]
        fetches = [self._fetch_one(*one) for one in self._specs(target, moved, wire)]
        await all_or_none((self.load(target, fresh, wire), *fetches))

    def _specs(
        self, target: Pipeline, stages: Sequence[Stage], wire: Wire
    ) -> list[tuple[Stage, StageSpec]]:
        wanted = {stage.peer for stage in stages}
        specs = specs_of(self.model().card, target.stages, self._workshop.config, wire)
        return [(stage, spec) for stage, spec in specs if stage.peer in wanted]

    async def _load_one(self, stage: Stage, spec: StageSpec) -> None:
        workshop = self._workshop
        name = stage_id(spec.digest, stage.start, stage.end)
        card = await workshop.slices.describe(spec.digest, spec.start, spec.end)
        session = self.session_of(stage.peer)
        held = workshop.held.setdefault(session, {})
        held[name] = self.id
        try:
            loaded = await self._order(session, name, spec, card, only_fetch=False)
        except Problem as problem:
            # Where another pipeline has not let go yet there will be room soon.
            waits = problem.code is ProblemCode.OVERLOADED and set(held.values()) != {self.id}
            if not session.ended and not waits:
                self._failures[stage.peer] += 1
            raise
        workshop.holders.note(session, name)
        self.held_bytes[stage.peer, name] = loaded.resident_bytes
        workshop.on_progress()

    async def _fetch_one(self, stage: Stage, spec: StageSpec) -> None:
        # Who fails here serves on with what it has, and is asked again: nothing is held against it.
        card = await self._workshop.slices.describe(spec.digest, spec.start, spec.end)
        name = stage_id(spec.digest, stage.start, stage.end)
        await self._order(self.session_of(stage.peer), name, spec, card, only_fetch=True)

    async def _order(
        self, session: NodeSession, name: str, spec: StageSpec, card: SliceCard, *, only_fetch: bool
    ) -> StageLoaded:
        workshop = self._workshop
        token = workshop.tokens.issue(spec.digest, spec.start, spec.end)
        with workshop.holders.serving(session, name, card) as tickets:
            return await workshop.orders.load(
                session, name, spec, card, token, tickets, only_fetch=only_fetch
            )

    def succeeded(self) -> None:
        """All of them are held: what failed before is forgotten."""
        self._failures.clear()

    def failing(self) -> list[str]:
        """Nodes that failed so often that they are planned without; each is told of once."""
        found = [peer for peer, count in self._failures.items() if count >= LOAD_FAILURES_LIMIT]
        if found:
            self._failures.clear()
        return found

    def lost(self, session: NodeSession) -> None:
        """A node is gone, and what it held with it."""
        for peer, name in [key for key in self.held_bytes if key[0] == session.node.peer]:
            del self.held_bytes[peer, name]

    def unload_all_but(self, target: Pipeline | None) -> None:
        """Have nodes let go of what was this pipeline's and is not any more."""
        stages = () if target is None else target.stages
        kept = {(one.peer, stage_id(self.digest, one.start, one.end)) for one in stages}
        # A node that does not take its message is ended, and is none of these any more.
        for session, held in list(self._workshop.held.items()):
            for stage in [name for name, whose in held.items() if whose == self.id]:
                if (session.node.peer, stage) not in kept:
                    del held[stage]
                    self.held_bytes.pop((session.node.peer, stage), None)
                    if not session.ended:
                        self._workshop.orders.unload(session, stage)
