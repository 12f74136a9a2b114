"""The segment a node signs for its stretch of an output; pure."""

from __future__ import annotations

from collections.abc import Sequence

from parhelion.proof import ask_digest, chain, opening_hash
from parhelion.words import Job, Segment


def build(
    job: Job,
    output_ids: Sequence[int],
    to: int,
    *,
    node: str,
    backend: str,
    started_at_ms: int,
    ended_at_ms: int,
) -> Segment:
    """The unsigned segment of this attempt up to output index `to`.

    `output_ids` are all ids from index 0, those of earlier attempts included; the segment starts
    where the attempt did. ValueError when `to` is outside what the attempt made.
    """
    start = len(job.output_ids)
    if not start <= to <= len(output_ids):
        raise ValueError(f"a segment to {to} outside [{start}, {len(output_ids)}]")
    return Segment(
        node=node,
        job=job.job,
        attempt=job.attempt,
        opening_hash=opening_hash(job.opening),
        artefact=job.digest,
        backend=backend,
        start=start,
        to=to,
        head=chain(job.opening, job.prompt_ids, output_ids[:to]).hex(),
        ask=ask_digest(job),
        started_at_ms=started_at_ms,
        ended_at_ms=ended_at_ms,
    )
