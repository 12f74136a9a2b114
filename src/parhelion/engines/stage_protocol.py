"""What a stage says of itself, and what it tells the node that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parhelion.engines.protocol import EngineEvent
from parhelion.words import Record, StageSpec, Step

USUAL_WEIGHT = 0.1
"""Of one step in what is usual: a hiccup changes little, a slower machine shows in a second."""


class StageCard(Record, frozen=True, kw_only=True):
    """A loaded stage: `kv_tokens` is what it really has, `resident_bytes` what it takes by now.

    `n_vocab` is the slice's own: a middle stage may carry no vocabulary. `rows` is the most that
    one of its steps carries.
    """

    spec: StageSpec
    n_embd: int
    n_vocab: int
    backend: str
    device: str
    kv_tokens: int
    resident_bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class StageStats:
    """A stage's own work since it was started: all its steps, and how long one usually takes."""

    steps: int = 0
    rows: int = 0
    busy_ms: float = 0.0
    usual_step_ms: float = 0.0

    def after(self, rows: int, took_ms: float) -> StageStats:
        """With one more step folded in."""
        usual_ms = self.usual_step_ms or took_ms
        return StageStats(
            steps=self.steps + 1,
            rows=self.rows + rows,
            busy_ms=self.busy_ms + took_ms,
            usual_step_ms=usual_ms + USUAL_WEIGHT * (took_ms - usual_ms),
        )


@dataclass(frozen=True, slots=True)
class StageTold:
    """What a stage calls, in the event loop; none of it may block or raise.

    `on_frame` is for the next stage (the last stage's: for the first). `on_steps` are for the
    coordinator: ids from the last stage, progress of the prefill from the first. `on_failed` is
    told once for each open job that cannot go on: job, attempt, a ProblemCode value, words.
    """

    on_frame: Callable[[bytes], None]
    on_steps: Callable[[tuple[Step, ...]], None]
    on_failed: Callable[[str, int, str, str], None]
    on_event: Callable[[EngineEvent], None]
