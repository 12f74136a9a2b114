"""What a stage may use, and which jobs it takes; pure."""

from __future__ import annotations

from dataclasses import dataclass

from parhelion.engines.stage_work import TAG_BYTES
from parhelion.words import TAG_BLOCK_IDS, Job, ProblemCode, StageJob, StageSpec


@dataclass(frozen=True, slots=True)
class StageLimits:
    """What a stage may use, and the facts of its slice."""

    spec: StageSpec
    n_embd: int
    n_vocab: int
    context: int
    kv_tokens: int
    parked_tokens: int
    crowded_tokens: int
    step_budget_ms: float
    eog: frozenset[int]
    keeps_order: bool

    @property
    def sequences(self) -> int:
        """One a slot, as many parked, and one for timing."""
        return 2 * self.spec.slots + 1


def refusal(job: StageJob, ids: Job | None, limits: StageLimits) -> tuple[str, str] | None:
    """Why this job can never run at this stage: a ProblemCode value and words; None: it can."""
    if not 0 < job.capacity <= limits.context:
        text = f"{job.capacity} tokens do not fit a context of {limits.context}"
        return ProblemCode.CONTEXT_LENGTH_EXCEEDED, text
    if any(len(tag) != TAG_BYTES for tag in job.tags):
        return ProblemCode.INVALID_REQUEST, f"a tag has {TAG_BYTES} bytes"
    if TAG_BLOCK_IDS * len(job.tags) > job.capacity:
        return ProblemCode.INVALID_REQUEST, "more tags than the capacity has blocks"
    if (limits.spec.is_first or limits.spec.is_last) != (ids is not None):
        return ProblemCode.INVALID_REQUEST, "the first and the last stage get ids, no other"
    return _unfit(job, ids, limits) if ids is not None else None


def _unfit(job: StageJob, ids: Job, limits: StageLimits) -> tuple[str, str] | None:
    if (ids.job, ids.attempt, ids.digest) != (job.job, job.attempt, limits.spec.digest):
        return ProblemCode.INVALID_REQUEST, "these are the ids of another job or model"
    if not ids.prompt_ids:
        return ProblemCode.INVALID_REQUEST, "the prompt has no ids"
    given = ids.prompt_ids + ids.output_ids
    if TAG_BLOCK_IDS * len(job.tags) > len(given):
        return ProblemCode.INVALID_REQUEST, "more tags than the ids have blocks"
    if len(ids.prompt_ids) + max(ids.max_tokens, len(ids.output_ids)) > job.capacity:
        return ProblemCode.INVALID_REQUEST, "more ids than the capacity"
    # One foreign id would fail the whole step, and so every neighbour.
    if min(given) < 0 or max(given) >= limits.n_vocab:
        return ProblemCode.INVALID_REQUEST, "an id is outside the model's vocabulary"
    return None
