"""Where a pipeline stands from its plan to its end; pure."""

from __future__ import annotations

from enum import StrEnum


class PipelineState(StrEnum):
    """The states of a pipeline, as `/v1/nodes` shows them."""

    LOADING = "loading"
    """Its nodes fetch and load their layers."""
    LINKING = "linking"
    """The ring is being closed: each node finds the next one."""
    TIMING = "timing"
    """A step of each stage is measured."""
    SERVING = "serving"
    DRAINING = "draining"
    """Streams in flight finish; new ones go elsewhere, or wait for the next epoch."""
    FAILED = "failed"
    """It could not be set up, or was lost; it is tried again."""
    GONE = "gone"


class PipelineEvent(StrEnum):
    """What can happen to a pipeline."""

    LOADED = "loaded"
    LINKED = "linked"
    TIMED = "timed"
    REPLACED = "replaced"
    """The plan has other layers for its nodes, or none."""
    EMPTIED = "emptied"
    """Its last stream has finished."""
    FAULT = "fault"
    RETRY = "retry"
    DROPPED = "dropped"
    """The plan has no such pipeline any more."""


_AFTER: dict[tuple[PipelineState, PipelineEvent], PipelineState] = {
    (PipelineState.LOADING, PipelineEvent.LOADED): PipelineState.LINKING,
    (PipelineState.LINKING, PipelineEvent.LINKED): PipelineState.TIMING,
    (PipelineState.TIMING, PipelineEvent.TIMED): PipelineState.SERVING,
    (PipelineState.SERVING, PipelineEvent.REPLACED): PipelineState.DRAINING,
    (PipelineState.DRAINING, PipelineEvent.EMPTIED): PipelineState.LOADING,
    (PipelineState.FAILED, PipelineEvent.RETRY): PipelineState.LOADING,
    # A plan that changes while its pipeline is not serving is simply followed.
    (PipelineState.LOADING, PipelineEvent.REPLACED): PipelineState.LOADING,
    (PipelineState.LINKING, PipelineEvent.REPLACED): PipelineState.LOADING,
    (PipelineState.TIMING, PipelineEvent.REPLACED): PipelineState.LOADING,
    (PipelineState.FAILED, PipelineEvent.REPLACED): PipelineState.LOADING,
    (PipelineState.DRAINING, PipelineEvent.REPLACED): PipelineState.DRAINING,
}


def next_state(state: PipelineState, event: PipelineEvent) -> PipelineState:
    """The state after an event; ValueError for one that cannot come then."""
    if state is not PipelineState.GONE:
        if event is PipelineEvent.DROPPED:
            return PipelineState.GONE
        if event is PipelineEvent.FAULT:
            return PipelineState.FAILED
    after = _AFTER.get((state, event))
    if after is None:
        raise ValueError(f"{event} cannot come to a pipeline that is {state}")
    return after
