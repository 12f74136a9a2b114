"""What a plan comes to in numbers: every stage's time and memory, every pipeline's speed."""

from __future__ import annotations

from parhelion.coordinator.planner.objective import Speed, mean_stream_ms, stream_ms
from parhelion.coordinator.planner.shape import Pipeline, Plan, Pool
from parhelion.coordinator.planner.terms import Terms, terms_of
from parhelion.words import Record


class StageFigures(Record, frozen=True, kw_only=True):
    """One stage: its time, the hop to the next one (of the last: back to the first), its memory."""

    peer: str
    start: int
    end: int
    stage_ms: float
    hop_ms: float
    memory_bytes: int
    offered_bytes: int


class PipelineFigures(Record, frozen=True, kw_only=True):
    """One pipeline: from token to token of one stream, and of its share of those wanted.

    `bottleneck` is the peer of the slowest stage: no micro-batch comes out more often than every
    `bottleneck_ms`.
    """

    id: str
    digest: str
    epoch: int
    stages: tuple[StageFigures, ...]
    token_ms: float
    ring_ms: float
    bottleneck_ms: float
    bottleneck: str
    streams: int
    stream_ms: float


def figures(plan: Plan, pool: Pool) -> tuple[PipelineFigures, ...]:
    """The numbers of every pipeline of a plan; the pool is the one it was made for."""
    by_digest = {model.digest: terms_of(model, pool) for model in pool.models}
    return tuple(
        _of(pipeline, by_digest[pipeline.digest], share_of(plan, pool, pipeline.digest))
        for pipeline in plan.pipelines
    )


def share_of(plan: Plan, pool: Pool, digest: str) -> int:
    """The streams that each pipeline of a model has when they are spread evenly, rounded up."""
    count = sum(pipeline.digest == digest for pipeline in plan.pipelines)
    return -(-pool.streams_of(digest) // max(1, count))


def wanted_ms(plan: Plan, pool: Pool, digest: str) -> float:
    """The objective: what a stream of this model waits for a token; infinite if nobody serves it.

    It is the mean over the streams wanted, each on the pipeline where it adds least.
    """
    speeds = [
        Speed(one.token_ms, one.ring_ms, one.bottleneck_ms, len(one.stages))
        for one in figures(plan, pool)
        if one.digest == digest
    ]
    return mean_stream_ms(speeds, pool.streams_of(digest))


def rows_of(pipeline: Pipeline, terms: Terms) -> list[tuple[int, int, int]]:
    """(member, start, end) of each stage."""
    index = {peer: at for at, peer in enumerate(terms.peers)}
    return [(index[stage.peer], stage.start, stage.end) for stage in pipeline.stages]


def _of(pipeline: Pipeline, terms: Terms, streams: int) -> PipelineFigures:
    rows = rows_of(pipeline, terms)
    nexts = [*rows[1:], rows[0]]
    offered = {member.peer: member.memory_bytes for member in terms.pool.members}
    stages = tuple(
        StageFigures(
            peer=terms.peers[member],
            start=start,
            end=end,
            stage_ms=terms.stage_ms(member, start, end),
            hop_ms=0.0 if len(rows) == 1 else terms.hop_ms(member, after[0]),
            memory_bytes=terms.stage_bytes(start, end)
            + offered[terms.peers[member]]
            - terms.free_bytes[member],
            offered_bytes=offered[terms.peers[member]],
        )
        for (member, start, end), after in zip(rows, nexts, strict=True)
    )
    slowest = max(stages, key=lambda stage: stage.stage_ms)
    speed = terms.speed(rows)
    return PipelineFigures(
        id=pipeline.id,
        digest=pipeline.digest,
        epoch=pipeline.epoch,
        stages=stages,
        token_ms=speed.token_ms,
        ring_ms=speed.ring_ms,
        bottleneck_ms=slowest.stage_ms,
        bottleneck=slowest.peer,
        streams=streams,
        stream_ms=stream_ms(speed, streams),
    )
