"""A node's circuit breaker for one model, and its success rate; pure, the clock is told.

Closed: it gets work. Open: it failed repeatedly, and gets none for a while. Half-open: the while is
over, and one job (or a probe) at a time shows whether it works again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

FAULTS_LIMIT = 3.0
"""Faults without a success between them; one is bad luck, two may be."""

SUCCESS_WORTH = 0.5
"""Of a fault: who fails more than every third job opens in the end, who fails less does not."""

CRASH_WORTH = 0.5
"""Of a fault. Nobody knows whether the engine or one of its prompts is to blame (DESIGN 5: nodes
are not). Not nothing, because an engine that crashes at every prompt would else be fed for ever;
not a whole fault, because one poisonous prompt could else close three nodes to everybody."""

COOL_S = 5.0
"""What is over by then (an engine that restarts) costs nobody a second try."""

COOL_LIMIT_S = 300.0
"""The pause doubles with every failed trial up to this: a repaired node is found within it."""

WINDOW_JOBS = 64
"""The success rate is of the last so many jobs: a bad hour of last week is not held against it."""

PRIOR_JOBS = 2
"""Successes assumed of everybody in `caution`: the first fault of all must not condemn."""


class Phase(Enum):
    """What the breaker lets through: all, nothing, or one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(Enum):
    """What moves a breaker; LOOKED is the clock's."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CRASHED = "crashed"
    LOOKED = "looked"


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker's state; `faults` counts while closed, `until_s` while open."""

    phase: Phase = Phase.CLOSED
    faults: float = 0.0
    until_s: float = 0.0
    cool_s: float = COOL_S


def next_state(state: Breaker, event: Event, now_s: float) -> Breaker:
    """The breaker after an event."""
    match state.phase, event:
        case Phase.CLOSED, Event.SUCCEEDED:
            if not state.faults:
                return state
            return Breaker(faults=max(0.0, state.faults - SUCCESS_WORTH))
        case Phase.CLOSED, Event.FAILED | Event.CRASHED:
            worth = 1.0 if event is Event.FAILED else CRASH_WORTH
            faults = state.faults + worth
            if faults < FAULTS_LIMIT:
                return Breaker(faults=faults)
            return _open(COOL_S, now_s)
        case Phase.OPEN, Event.LOOKED if now_s >= state.until_s:
            return Breaker(Phase.HALF_OPEN, cool_s=state.cool_s)
        case Phase.HALF_OPEN, Event.SUCCEEDED:
            return Breaker()
        case Phase.HALF_OPEN, Event.FAILED:
            return _open(min(COOL_LIMIT_S, 2 * state.cool_s), now_s)
        case Phase.HALF_OPEN, Event.CRASHED:
            return _open(state.cool_s, now_s)
        case _:
            # Open: jobs from before it opened may still end well or badly; it is open already.
            return state


@dataclass(slots=True)
class Record:
    """What became of a node's jobs for one model: its breaker, and the last WINDOW_JOBS outcomes.

    Only the node's own faults are outcomes: neither a job that it handed back, nor one whose
    client left, nor one that a crash of its engine took along.
    """

    breaker: Breaker = field(default_factory=Breaker)
    caution: float = 1.0
    """What an estimate is multiplied with: a job that fails is done twice."""
    _outcomes: int = 0  # a bit for each job, 1: it succeeded
    sample: int = 0
    _fault_s: float | None = None

    @property
    def phase(self) -> Phase:
        """The breaker's."""
        return self.breaker.phase

    @property
    def success_rate(self) -> float | None:
        """Share of the last `sample` jobs that succeeded; None without one."""
        return self._outcomes.bit_count() / self.sample if self.sample else None

    def succeeded(self, now_s: float) -> None:
        """A job was answered whole, or a probe was."""
        self._count(1)
        self.breaker = next_state(self.breaker, Event.SUCCEEDED, now_s)

    def failed(self, opened_s: float, now_s: float) -> None:
        """The node failed, lost or stalled a job that was opened at `opened_s`."""
        self._count(0)
        self._blame(Event.FAILED, opened_s, now_s)

    def crashed(self, opened_s: float, now_s: float) -> None:
        """The node's engine crashed under a job that was opened at `opened_s`."""
        self._blame(Event.CRASHED, opened_s, now_s)

    def look(self, now_s: float) -> bool:
        """Let the clock speak; whether the node may get work again by it."""
        if self.breaker.phase is not Phase.OPEN:
            return False
        self.breaker = next_state(self.breaker, Event.LOOKED, now_s)
        return self.breaker.phase is Phase.HALF_OPEN

    def _blame(self, event: Event, opened_s: float, now_s: float) -> None:
        # One fault takes all running jobs along: those that were open then are of the same one.
        if self._fault_s is not None and opened_s < self._fault_s:
            return
        self._fault_s = now_s
        self.breaker = next_state(self.breaker, event, now_s)

    def _count(self, outcome: int) -> None:
        self._outcomes = (self._outcomes << 1 | outcome) & (1 << WINDOW_JOBS) - 1
        self.sample = min(WINDOW_JOBS, self.sample + 1)
        good = self._outcomes.bit_count()
        self.caution = (self.sample + PRIOR_JOBS) / (good + PRIOR_JOBS)


def _open(cool_s: float, now_s: float) -> Breaker:
    return Breaker(Phase.OPEN, until_s=now_s + cool_s, cool_s=cool_s)
