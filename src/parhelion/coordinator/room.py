"""What one node has for one model: its places, its engine's health, and what was measured.

Each model of a node runs on an engine of its own, so one may fail while the others serve. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from parhelion.coordinator.breaker import Record
from parhelion.coordinator.speed import WEIGHT, Speed

Standing = Literal["ready", "failed", "measuring", "refused"]

TRIAL_PAUSE_S = 30.0
TRIAL_PAUSE_LIMIT_S = 960.0
"""How long an engine at which a job stood still gets none, before one job may show that it works
again: twice as long after each trial that failed, since a trial costs somebody six seconds."""


FULL_S = 1.0
FULL_LIMIT_S = 60.0
"""How long a model gets no job at a node that handed one back, unless another job ends there: twice
as long after each further one, since we see a free slot there and it says that there is none."""

HAND_BACKS_FREE = 3
"""In a row, with no answer between: a stream that winds down or a cache that is moved is over in
the seven seconds of their pauses. Each further one is a failed job of the node's."""


@dataclass(slots=True)
class Room:
    """What a node offers for one model, and how much of it is reserved."""

    context: int
    slots: int
    kv_tokens: int
    slots_busy: int = 0
    kv_busy: int = 0
    full_until_s: float | None = None
    hand_backs: int = 0
    """Jobs that it handed back since its last whole answer."""
    prefill_tokens: int = 0
    """Of the open jobs whose first id is not there yet."""
    ids_out: int = 0
    """Of all running answers together, so far."""
    barred: str | None = None
    """Why it gets no paid work: its probes are not done, or not as the model's own would be."""
    measuring: bool = False
    """Its first probe is to come or under way."""
    engine_fault: str | None = None
    """What the node says is wrong with the engine of this model."""
    stuck: str | None = None
    stalls: int = 0
    trial_from_s: float = 0.0
    failed: str | None = None
    """Why it gets no job now, as the registry saw it last; see `fault`."""
    alone: bool = False
    """Its one job, or the next one, has its engine to itself."""
    first_id_s: float | None = None
    """Measured: from sending a job to its first id."""
    kept: float = 1.0
    """Share of what we took to be cached that was; engines forget sooner than we do."""
    record: Record = field(default_factory=Record)
    speed: Speed = field(init=False)
    largest_tokens: int = field(init=False)
    """The largest request that it can hold."""

    def __post_init__(self) -> None:
        self.speed = Speed(self.slots)
        self.largest_tokens = min(self.context, self.kv_tokens)

    @property
    def tokens_per_s(self) -> float | None:
        """The most ids a second of all streams together that was measured."""
        return self.speed.tokens_per_s

    def fault(self, now_s: float) -> str | None:
        """Why its engine gets no job: the node's own word, or a job that stood still."""
        if self.engine_fault is not None:
            return self.engine_fault
        return self.stuck if self.stuck is not None and now_s < self.trial_from_s else None

    def standing(self) -> tuple[Standing, str | None]:
        """The state of this one model at its node, and the reason where there is one."""
        if self.failed is not None:
            return "failed", self.failed
        if self.barred is not None:
            return ("measuring" if self.measuring else "refused"), self.barred
        return "ready", None if self.stuck is None else f"on trial: {self.stuck}"

    @property
    def was_seen(self) -> bool:
        """Whether a job or a probe has shown anything of it."""
        timed = self.first_id_s is not None or self.speed.tokens_per_s is not None
        return timed or bool(self.record.sample or self.stalls or self.hand_backs)

    def adopt(self, past: Room) -> None:
        """Go on from what was seen of the same engine before, pauses included.

        Of other slots its speed is not the same.
        """
        self.record, self.first_id_s, self.kept = past.record, past.first_id_s, past.kept
        self.stuck, self.stalls, self.trial_from_s = past.stuck, past.stalls, past.trial_from_s
        self.hand_backs, self.full_until_s = past.hand_backs, past.full_until_s
        if past.slots == self.slots:
            self.speed = past.speed

    def stall(self, reason: str, now_s: float) -> None:
        """A job stood still: no job for a while, then one on trial."""
        if self.stuck is None or now_s >= self.trial_from_s:
            # More jobs that stand still at the same time are no further failure.
            pause_s = TRIAL_PAUSE_S * 2.0 ** min(self.stalls, 16)
            self.trial_from_s = now_s + min(TRIAL_PAUSE_LIMIT_S, pause_s)
            self.stalls += 1
        self.stuck = reason

    def repair(self, now_s: float) -> None:
        """Its node says that the engine is new: it may show that, and no more than that.

        A word costs a node nothing, so how often it stood still before is remembered.
        """
        if self.stuck is not None:
            self.trial_from_s = min(self.trial_from_s, now_s)

    def recover(self) -> None:
        """It works: whatever stood still before is over."""
        self.stuck, self.stalls = None, 0
        self.hand_backs = 0

    def hand_back(self, now_s: float) -> bool:
        """It has no place for a job: none for a while; whether that speaks against the node.

        What it hands back while it is paused was opened before: it is of the same time.
        """
        if self.full_until_s is not None:
            return False
        pause_s = FULL_S * 2.0 ** min(self.hand_backs, 16)
        self.full_until_s = now_s + min(FULL_LIMIT_S, pause_s)
        self.hand_backs += 1
        return self.hand_backs > HAND_BACKS_FREE

    def note_first_id(self, waited_s: float) -> None:
        """Fold one job's wait for its first id into the measured one."""
        known = self.first_id_s
        self.first_id_s = waited_s if known is None else known + WEIGHT * (waited_s - known)

    def note_cached(self, expected: int, found: int) -> None:
        """Fold what one job found of the cached tokens that it could expect into the share."""
        self.kept += WEIGHT * (min(1.0, found / expected) - self.kept)
