"""Ways to close the holes of a pipeline whose other stages keep their layers."""

from __future__ import annotations

from collections.abc import Sequence

from parhelion.coordinator.planner.draft import Draft
from parhelion.coordinator.planner.plan import Stages
from parhelion.coordinator.planner.shape import Pipeline, Stage
from parhelion.coordinator.planner.split import split


def holes(stages: Sequence[Stage], layers: int) -> list[tuple[int, int]]:
    """The layers [start, end) that no stage has."""
    ends = [0, *(stage.end for stage in stages)]
    starts = [*(stage.start for stage in stages), layers]
    return [(end, start) for end, start in zip(ends, starts, strict=True) if end < start]


def filled(draft: Draft, pipeline: Pipeline) -> Stages | None:
    """Each hole taken by the standby with which the pipeline is fastest; nobody else moves."""
    stages = pipeline.stages
    spare = sorted(draft.standby)
    for start, end in holes(stages, draft.models[pipeline.digest].layers):
        fitting = [
            _sorted((*stages, stage))
            for peer in spare
            if draft.fits(pipeline.digest, stage := Stage(peer, start, end))
        ]
        if not fitting:
            return None
        stages = min(fitting, key=lambda found: draft.cost_ms(pipeline.digest, found))
        spare = [peer for peer in spare if peer not in {stage.peer for stage in stages}]
    return stages


def absorbed(draft: Draft, pipeline: Pipeline) -> Stages | None:
    """Each hole shared by the stages on its two sides, which keep what they have."""
    stages = pipeline.stages
    for start, end in holes(stages, draft.models[pipeline.digest].layers):
        shared = [
            found
            for cut in range(start, end + 1)
            if (found := _shared(stages, start, cut, end)) is not None
            and all(draft.fits(pipeline.digest, stage) for stage in found)
        ]
        if not shared:
            return None
        stages = min(shared, key=lambda found: draft.cost_ms(pipeline.digest, found))
    return stages or None


def resplit(draft: Draft, pipeline: Pipeline) -> Stages | None:
    """The same members in the same order with the best split; what they hold may move."""
    terms, index = draft.terms(pipeline.digest)
    count = sum(one.digest == pipeline.digest for one in draft.pipelines)
    share = -(-terms.streams // max(1, count))
    cut = split(terms, [index[peer] for peer in pipeline.peers], share)
    if cut is None:
        return None
    return tuple(Stage(terms.peers[member], start, end) for member, start, end in cut.stages())


def _shared(stages: Stages, start: int, cut: int, end: int) -> Stages | None:
    """Layers [start, cut) to who ends there, [cut, end) to who begins there; None without one."""
    before = any(stage.end == start for stage in stages)
    after = any(stage.start == end for stage in stages)
    if (cut > start and not before) or (cut < end and not after):
        return None
    return tuple(
        Stage(
            stage.peer,
            cut if stage.start == end else stage.start,
            cut if stage.end == start else stage.end,
        )
        for stage in stages
    )


def _sorted(stages: Sequence[Stage]) -> Stages:
    return tuple(sorted(stages, key=lambda stage: stage.start))
