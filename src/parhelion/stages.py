"""The nouns of a pipeline: its stages, their jobs, what a node offers and what it signs."""

from __future__ import annotations

from typing import Literal

from parhelion.records import ClosedRecord, Record

TAG_BLOCK_IDS = 16
"""A shorter prefix saves less than it costs to look after (engines.plan.SHORTEST_REUSE)."""


class StageSpec(Record, frozen=True, kw_only=True):
    """One stage of a pipeline: layers [start, end) of the artefact `digest`, which has `layers`.

    `stages` is how many the pipeline has. `slots` jobs run at once, each of at most `context` ids,
    all together at most `kv_tokens`. `wire` is how hidden states travel between stages, `name` what
    the pool calls the model: for a person who looks at the node.
    """

    digest: str
    start: int
    end: int
    layers: int
    stages: int
    slots: int
    context: int
    kv_tokens: int
    wire: Literal["fp32", "bf16"] = "fp32"
    name: str = ""

    @property
    def is_first(self) -> bool:
        """It takes token ids."""
        return self.start == 0

    @property
    def is_last(self) -> bool:
        """It samples."""
        return self.end == self.layers


class StageJob(Record, frozen=True, kw_only=True):
    """One attempt at a request as any stage sees it: no ids, no text.

    `capacity` ids of KV memory are needed until its end. `tags` name its prefix: one keyed hash
    of 8 bytes for each whole block of TAG_BLOCK_IDS ids that the job comes with, each over all
    ids before it, so that a stage finds what it still holds of it without learning the ids.
    """

    job: str
    attempt: int
    capacity: int
    tags: tuple[bytes, ...] = ()


class StageSegment(ClosedRecord, frozen=True, kw_only=True):
    """One stage's part in a stretch [start, to) of the output: its layers of every id there.

    `layers` is [from, to) of the model; `busy_ms` what its steps for this job took, as the node
    says. `head` is the id chain at `to` as the coordinator told it: who holds no ids cannot know.
    """

    node: str
    job: str
    attempt: int
    opening_hash: str
    artefact: str
    layers: tuple[int, int]
    start: int
    to: int
    head: str
    busy_ms: int
    signature: str | None = None
    reason: str | None = None


class StageOffer(Record, frozen=True, kw_only=True):
    """What a node gives to pipelines: memory for one stage, and where other nodes reach it.

    `direct` are "host:port" of a listener on its own network; `whole` the artefacts of which it
    has the whole file, so that it can cut its slice itself; `threads` what it computes with.
    """

    memory_bytes: int
    threads: int = 0
    wires: tuple[str, ...] = ("fp32",)
    direct: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
