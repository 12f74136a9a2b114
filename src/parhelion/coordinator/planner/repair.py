"""repair(plan, event, pool): the plan after one thing happened, with as little moved as can be.

In this order: what still works stays; a lost stage goes to the fastest standby that can hold just
its layers; else its neighbours take them, or the pipeline is planned anew from its survivors and
all that is free; else the survivors wait with their layers for somebody who closes the hole.
Members that are free form new pipelines. To a model that nobody serves further pipelines of other
models give way, never the only one of a model. Layers that work move only for a gain of GAIN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from parhelion.coordinator.planner.draft import Draft
from parhelion.coordinator.planner.give_way import giving_way, within_reach
from parhelion.coordinator.planner.mend import absorbed, filled, resplit
from parhelion.coordinator.planner.plan import Stages, lacking, placed
from parhelion.coordinator.planner.shape import (
    GaveWay,
    ModelShape,
    Pipeline,
    Plan,
    Pool,
    Unplaced,
)

GAIN = 0.15
"""Moving layers costs every stage a load: below this what is gained is within what measurements
differ by from one to the next, and layers would move to and fro."""

IMPROVED_LIMIT = 8
"""After an event so many pipelines, the slowest, are looked at for what a standby could gain."""


class Joined(msgspec.Struct, frozen=True):
    """A member came; the pool has it already."""

    peer: str


class Left(msgspec.Struct, frozen=True):
    """A member went, standby or not; the pool has it no longer."""

    peer: str


class Measured(msgspec.Struct, frozen=True):
    """What is known of a member changed (slower, faster, less memory); the pool knows it."""

    peer: str


Event = Joined | Left | Measured


def repair(plan: Plan, event: Event, pool: Pool) -> Plan:
    """The next plan; `pool` is as it is after the event. Unchanged pipelines keep their epochs.

    What else the pool tells (a second member that went) is taken in as well.
    """
    draft = Draft(plan, pool)
    draft.take_out_lost()
    for number in [pipeline.id for pipeline in draft.broken]:
        # One that was mended before may have taken members of this one.
        for pipeline in [one for one in draft.broken if one.id == number]:
            _mend(draft, pipeline)
    _form(draft)
    if not isinstance(event, Left):
        for pipeline in _touched(draft, event.peer):
            _improve(draft, pipeline)
        _form(draft)
    return draft.result(_lacking(draft, model) for model in draft.bare())


def _mend(draft: Draft, pipeline: Pipeline) -> None:
    """Close the holes of a broken pipeline, if that can be done."""
    whole = filled(draft, pipeline)
    if whole is not None:
        draft.mended(pipeline, [whole])
        return
    spread = absorbed(draft, pipeline)
    free = [peer for peer in draft.free() if peer not in pipeline.peers]
    found = placed(
        draft.models[pipeline.digest], draft.pool, draft.members_of([*pipeline.peers, *free])
    )
    if spread is not None:
        cost_ms = draft.cost_ms(pipeline.digest, spread)
        if not found or _least_ms(draft, pipeline, found) > cost_ms * (1 - GAIN):
            found = [spread]
    if found:
        draft.mended(pipeline, found)


def _least_ms(draft: Draft, pipeline: Pipeline, found: Iterable[Stages]) -> float:
    return min(draft.cost_ms(pipeline.digest, stages) for stages in found)


def _form(draft: Draft) -> None:
    """New pipelines of members that are free; models that have none come first."""
    for model in draft.bare():
        # Who waits in a broken pipeline is wanted more by a model that nobody serves.
        members = draft.members_of(draft.free())
        draft.formed(model.digest, placed(model, draft.pool, members, at_most=1))
    for model in draft.bare():
        _take_over(draft, model)
    for model in draft.by_demand():
        members = draft.members_of(sorted(draft.standby))
        draft.formed(model.digest, placed(model, draft.pool, members))


def _take_over(draft: Draft, model: ModelShape) -> None:
    """Serve a model for which others give way; nobody does where that were not enough."""
    had, gone = draft.pipelines, giving_way(draft, model)
    if not gone:
        return
    draft.pipelines = [one for one in had if one not in gone]
    for pipeline in [one for one in draft.broken if one.digest == model.digest]:
        # Who waits with layers of it keeps them.
        if not draft.has_pipeline(model.digest):
            _mend(draft, pipeline)
    if not draft.has_pipeline(model.digest):
        members = draft.members_of(draft.free())
        draft.formed(model.digest, placed(model, draft.pool, members, at_most=1))
    serving = next((one for one in draft.pipelines if one.digest == model.digest), None)
    if serving is None:
        draft.pipelines = had
        return
    draft.gave_way += [GaveWay(pipeline=one.id, digest=one.digest, to=serving.id) for one in gone]


def _lacking(draft: Draft, model: ModelShape) -> Unplaced:
    """What it lacks although everybody gave way that may."""
    members = within_reach(draft, model)
    if len(members) == len(draft.free()):
        return lacking(model, draft.pool, members)
    return lacking(
        model, draft.pool, members, "members that are free or in a second pipeline of a model"
    )


def _touched(draft: Draft, peer: str) -> Sequence[Pipeline]:
    """The pipeline of this member; of a standby, the slowest pipelines that it might serve in."""
    inside = [pipeline for pipeline in draft.pipelines if peer in pipeline.peers]
    if inside or peer not in draft.standby:
        return inside
    slowest = sorted(
        draft.pipelines,
        key=lambda pipeline: (-draft.cost_ms(pipeline.digest, pipeline.stages), pipeline.id),
    )
    return slowest[:IMPROVED_LIMIT]


def _improve(draft: Draft, pipeline: Pipeline) -> None:
    """Move layers if that gains enough: those of its members, else also to standby nodes."""
    digest = pipeline.digest
    had_ms = draft.cost_ms(digest, pipeline.stages)
    members = draft.members_of([*pipeline.peers, *sorted(draft.standby)])
    found = placed(draft.models[digest], draft.pool, members, at_most=1)
    again = resplit(draft, pipeline)
    if again is not None:
        found = _unless_much_better(draft, digest, again, found)
    if found and draft.cost_ms(digest, found[0]) <= had_ms * (1 - GAIN):
        draft.changed(pipeline, found[0])


def _unless_much_better(
    draft: Draft, digest: str, again: Stages, found: list[Stages]
) -> list[Stages]:
    """The same members in the same order, unless others gain as much on top."""
    limit_ms = draft.cost_ms(digest, again) * (1 - GAIN)
    return found if found and draft.cost_ms(digest, found[0]) <= limit_ms else [again]
