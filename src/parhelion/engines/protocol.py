"""What every engine can do, and what it says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

from parhelion.words import Job, Record, SamplerParams, Step


class EngineCard(Record, frozen=True, kw_only=True):
    """What an engine serves: `context` ids at most per job, `kv_tokens` over all jobs together."""

    digest: str
    backend: str
    device: str
    slots: int
    kv_tokens: int
    context: int
    n_vocab: int


class EngineEvent(Record, frozen=True, kw_only=True):
    """A change of the engine's health, with its cause for a person."""

    kind: Literal["ready", "crashed", "hung", "restarting"]
    reason: str


class Mismatch(Record, frozen=True, kw_only=True):
    """An output id that the sampler would not have chosen there; `position` is an output index."""

    position: int
    expected: int
    found: int


class Engine(Protocol):
    """Ids in, ids out; how is the engine's own business."""

    def describe(self) -> EngineCard:
        """What this engine serves."""
        ...

    def generate(self, job: Job) -> AsyncIterator[Step]:
        """Run `job`; ends after a Step with `finish` (a cancelled job's is "cancelled").

        Problem CONTEXT_LENGTH_EXCEEDED before anything is decoded, ENGINE_FAILED when the engine
        dies on the way. Leaving the iteration early cancels the job.
        """
        ...

    def cancel(self, job: str, attempt: int) -> None:
        """Stop a job at the engine's next step; unknown jobs are ignored."""
        ...

    async def score(
        self,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        params: SamplerParams,
        seed: int,
    ) -> tuple[Mismatch, ...]:
        """Re-derive every choice by one prefill over prompt and output."""
        ...

    async def embed(self, ids: Sequence[int]) -> tuple[float, ...]:
        """One vector for these ids; Problem UNSUPPORTED_PARAMETER where the engine cannot."""
        ...

    async def stop(self) -> None:
        """End the engine; jobs in flight fail."""
        ...
