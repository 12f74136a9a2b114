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

COOL_S = 5.0
"""What is over by then (an engine that restarts) costs nobody a second try."""

COOL_LIMIT_S = 300.0
"""The pause doubles with every failed trial up to this: a repaired node is found within it."""

WINDOW_JOBS = 64
"""The success rate is of the last so many jobs: a bad hour of last week is not held against it."""

_WINDOW = (1 << WINDOW_JOBS) - 1

PRIOR_JOBS = 2
"""Successes assumed of everybody in `caution`: the first fault of all must not condemn."""


class Phase(Enum):
    """What the breaker lets through: all, nothing, or one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(Enum):
    """What moves a breaker; LOOKED is the clock's, EXCUSED takes a FAILED back."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXCUSED = "excused"
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
        case Phase.CLOSED, Event.EXCUSED:
            return Breaker(faults=max(0.0, state.faults - 1.0))
        case Phase.CLOSED, Event.FAILED:
            faults = state.faults + 1.0
            if faults < FAULTS_LIMIT:
                return Breaker(faults=faults)
            return _open(COOL_S, now_s)
        case Phase.OPEN, Event.LOOKED if now_s >= state.until_s:
            return Breaker(Phase.HALF_OPEN, cool_s=state.cool_s)
        case Phase.HALF_OPEN, Event.SUCCEEDED:
            return Breaker()
        case Phase.HALF_OPEN, Event.FAILED:
            return _open(min(COOL_LIMIT_S, 2 * state.cool_s), now_s)
        case _:
            # Open: jobs from before it opened may still end well or badly; it is open already.
            # Excused too late: it opened for other faults besides, and its trial comes soon.
            return state


@dataclass(eq=False, slots=True)
class Crash:
    """One crash of an engine, as its node tells it; `numbers` are the outcomes that it made."""

    numbers: list[int] = field(default_factory=list[int])
    excused: bool = False


@dataclass(slots=True)
class Record:
    """What became of a node's jobs for one model: its breaker, and the last WINDOW_JOBS outcomes.

    A job whose client left is no outcome. That an engine crashed is the node's word, so each job
    that it took along is a failed one, until a prompt of that crash is proven to crash engines.
    """

    breaker: Breaker = field(default_factory=Breaker)
    caution: float = 1.0
    """What an estimate is multiplied with: a job that fails is done twice."""
    _outcomes: int = 0  # a bit for each job, 1: it succeeded
    _void: int = 0  # the same bits, 1: excused, so no outcome at all
    _counted: int = 0
    sample: int = 0
    _fault_s: float | None = None
    _crash: Crash | None = None

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
        # One fault takes all running jobs along: those that were open then are of the same one.
        if self._fault_s is not None and opened_s < self._fault_s:
            return
        self._fault_s = now_s
        self.breaker = next_state(self.breaker, Event.FAILED, now_s)

    def crashed(self, opened_s: float, now_s: float) -> Crash:
        """The node says that its engine crashed under a job that was opened at `opened_s`."""
        if self._crash is None or self._fault_s is None or opened_s >= self._fault_s:
            self._crash = Crash()
        self._crash.numbers.append(self._counted)
        self.failed(opened_s, now_s)
        return self._crash

    def excuse(self, crash: Crash, now_s: float) -> int:
        """A prompt is to blame for it: nothing of it counts; the jobs that had counted."""
        if crash.excused:
            return 0
        crash.excused = True
        ages = [self._counted - 1 - number for number in crash.numbers]
        for age in ages:
            if age < WINDOW_JOBS:
                self._void |= 1 << age
        self._weigh()
        self.breaker = next_state(self.breaker, Event.EXCUSED, now_s)
        return len(crash.numbers)

    def look(self, now_s: float) -> bool:
        """Let the clock speak; whether the node may get work again by it."""
        if self.breaker.phase is not Phase.OPEN:
            return False
        self.breaker = next_state(self.breaker, Event.LOOKED, now_s)
        return self.breaker.phase is Phase.HALF_OPEN

    def _count(self, outcome: int) -> None:
        self._outcomes = (self._outcomes << 1 | outcome) & _WINDOW
        self._void <<= 1
        self._counted += 1
        self._weigh()

    def _weigh(self) -> None:
        self._void &= _WINDOW
        self.sample = min(WINDOW_JOBS, self._counted) - self._void.bit_count()
        good = self._outcomes.bit_count()
        self.caution = (self.sample + PRIOR_JOBS) / (good + PRIOR_JOBS)


def _open(cool_s: float, now_s: float) -> Breaker:
    return Breaker(Phase.OPEN, until_s=now_s + cool_s, cool_s=cool_s)
