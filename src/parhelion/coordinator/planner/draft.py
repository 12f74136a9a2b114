"""A plan while it is being repaired: pipelines, broken ones, standby nodes, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from parhelion.coordinator.planner.objective import stream_ms
from parhelion.coordinator.planner.plan import Stages, pipeline_id
from parhelion.coordinator.planner.shape import (
    Member,
    ModelShape,
    Pipeline,
    Plan,
    Pool,
    Stage,
    Unplaced,
)
from parhelion.coordinator.planner.terms import Terms, terms_of


class Draft:
    """Owns the lists while one event is worked in; `result` is the plan that comes of it."""

    def __init__(self, plan: Plan, pool: Pool) -> None:
        self.plan = plan
        self.pool = pool
        self.models = {model.digest: model for model in pool.models}
        self.members = {member.peer: member for member in pool.members}
        self.pipelines = list(plan.pipelines)
        self.broken = list(plan.broken)
        self.gave_way = list(plan.gave_way)
        self.minted = plan.minted
        self._epochs = {one.id: one.epoch for one in (*plan.pipelines, *plan.broken)}
        self._terms: dict[str, tuple[Terms, dict[str, int]]] = {}

    @property
    def standby(self) -> set[str]:
        """Who holds no layers."""
        placed = (peer for one in (*self.pipelines, *self.broken) for peer in one.peers)
        return set(self.members).difference(placed)

    def free(self) -> list[str]:
        """Who serves nothing now: standby nodes, and those that wait in broken pipelines."""
        serving = {peer for pipeline in self.pipelines for peer in pipeline.peers}
        return sorted(set(self.members) - serving)

    def members_of(self, peers: Iterable[str]) -> list[Member]:
        """These members, each once, in joining order."""
        wanted = set(peers)
        return [member for member in self.pool.members if member.peer in wanted]

    def terms(self, digest: str) -> tuple[Terms, dict[str, int]]:
        """The numbers of a model on the whole pool, and which member is which peer."""
        if digest not in self._terms:
            terms = terms_of(self.models[digest], self.pool)
            self._terms[digest] = (terms, {peer: at for at, peer in enumerate(terms.peers)})
        return self._terms[digest]

    def fits(self, digest: str, stage: Stage) -> bool:
        """Whether its member is here, may serve the model and can hold just these layers."""
        terms, index = self.terms(digest)
        if stage.peer not in index or not 0 <= stage.start < stage.end <= terms.layers:
            return False
        if not terms.allows(stage.end - stage.start):
            return False
        needed = terms.stage_bytes(stage.start, stage.end)
        return needed <= terms.free_bytes[index[stage.peer]]

    def cost_ms(self, digest: str, stages: Sequence[Stage]) -> float:
        """What a stream waits in a pipeline that has its share of those wanted.

        The share is that of the plan before, so that two costs of one repair can be compared.
        """
        terms, index = self.terms(digest)
        rows = [(index[stage.peer], stage.start, stage.end) for stage in stages]
        count = sum(pipeline.digest == digest for pipeline in self.plan.pipelines)
        share = -(-terms.streams // max(1, count))
        return stream_ms(terms.speed(rows), share)

    def has_pipeline(self, digest: str) -> bool:
        """Whether the model is served."""
        return any(pipeline.digest == digest for pipeline in self.pipelines)

    def by_size(self) -> list[ModelShape]:
        """Models, largest first: what is hardest to place."""
        return sorted(self.models.values(), key=lambda one: (-one.whole_bytes, one.digest))

    def by_demand(self) -> list[ModelShape]:
        """Models, most wanted first."""
        return sorted(self.by_size(), key=lambda one: -self.pool.streams_of(one.digest))

    def take_out_lost(self) -> None:
        """Stages whose member went or cannot hold them any longer make their pipeline broken."""
        kept: list[Pipeline] = []
        broken: list[Pipeline] = []
        count = len(self.pipelines)
        for place, pipeline in enumerate((*self.pipelines, *self.broken)):
            if pipeline.digest not in self.models:
                continue
            stages = tuple(one for one in pipeline.stages if self.fits(pipeline.digest, one))
            if len(stages) == len(pipeline.stages) and place < count:
                kept.append(pipeline)
            else:
                broken.append(msgspec.structs.replace(pipeline, stages=stages))
        self.pipelines, self.broken = kept, broken

    def changed(self, pipeline: Pipeline, stages: Stages) -> None:
        """A pipeline that goes on with other stages, in a new epoch."""
        at = self.pipelines.index(pipeline)
        self.pipelines[at] = self._next(pipeline, stages)

    def mended(self, pipeline: Pipeline, found: Sequence[Stages]) -> None:
        """A broken pipeline works again; what else was found beside it is new.

        It is the one that has most of its members.
        """
        self._taken(found)
        self.broken = [one for one in self.broken if one.id != pipeline.id]
        had = set(pipeline.peers)
        same = max(found, key=lambda stages: sum(stage.peer in had for stage in stages))
        self.pipelines.append(self._next(pipeline, same))
        self.formed(pipeline.digest, [stages for stages in found if stages is not same])

    def formed(self, digest: str, found: Sequence[Stages]) -> None:
        """New pipelines; who waited in a broken one and is used here waits no longer."""
        self._taken(found)
        for stages in found:
            self.minted += 1
            self.pipelines.append(
                Pipeline(id=pipeline_id(self.minted), digest=digest, stages=stages)
            )

    def bare(self) -> list[ModelShape]:
        """Models that nobody serves, largest first."""
        return [model for model in self.by_size() if not self.has_pipeline(model.digest)]

    def result(self, unplaced: Iterable[Unplaced]) -> Plan:
        """The plan; its epoch counts if anything in it is different."""
        broken = tuple(pipeline for pipeline in self.broken if pipeline.stages)
        here = {one.id for one in (*self.pipelines, *broken)}
        plan = msgspec.structs.replace(
            self.plan,
            pipelines=tuple(sorted(self.pipelines, key=lambda one: int(one.id.split("-")[1]))),
            broken=broken,
            standby=tuple(sorted(self.standby)),
            unplaced=tuple(unplaced),
            gave_way=tuple(one for one in self.gave_way if one.to in here),
            minted=self.minted,
        )
        if plan == self.plan:
            return self.plan
        return msgspec.structs.replace(plan, epoch=plan.epoch + 1)

    def _taken(self, found: Sequence[Stages]) -> None:
        used = {stage.peer for stages in found for stage in stages}
        self.broken = [
            msgspec.structs.replace(
                one, stages=tuple(stage for stage in one.stages if stage.peer not in used)
            )
            for one in self.broken
        ]

    def _next(self, pipeline: Pipeline, stages: Stages) -> Pipeline:
        """In its next epoch, once an event however often it changes; a new one is in its first."""
        epoch = self._epochs.get(pipeline.id, 0) + 1
        return msgspec.structs.replace(pipeline, stages=stages, epoch=epoch)
