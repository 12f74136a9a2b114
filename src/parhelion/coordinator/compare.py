"""Whether a node's ids are the model's own: two sequential tests against our engine's; pure.

Wald's sequential probability ratio test ("Sequential Tests of Statistical Hypotheses", 1945): each
id that was compared moves the log-likelihood ratio of "something else" against "the same model on
another machine" up or down, until one is sure enough.

The coarse test counts every id that differs, and decides within a probe or two. The fine one
counts ids that differ by far: where our engine would not have chosen the node's id even with
TIE_LOGITS more. Between honest builds that does not happen (docs/benchmarks.md), so a node that is
wrong now and then is found too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

FOREIGN_RATE = 0.35
"""Of ids that differ where another model, a cut context or noise stands behind them."""

SAME_BACKEND_RATE = 0.06
"""Of ids that may differ between two llama.cpp: 3.7 % did between builds for AVX2 and AVX-512, all
of them nearly level. What a node says of its processor proves nothing, so it gains nothing."""

OTHER_BACKEND_RATE = 0.12
"""The same where the node names another engine than ours; assumed, none was measured yet."""

TIE_LOGITS = 1.0
"""A node's id that our engine would have chosen with so much more logit was nearly level. Twice
the widest gap that was seen between honest builds (0.46)."""

FAR_RATE = 0.002
"""Of ids that may differ by far."""

FOREIGN_FAR_RATE = 0.02
"""Of ids that differ by far where one id in fifty is made up."""

FALSE_ALARM = 1e-4
"""An honest node refused: one in ten thousand tests."""

MISSED = 1e-2
"""A foreign one let in, until the next test."""

IDS_LIMIT = 256
"""Without a decision of the coarse test after so many ids the nearer one is taken."""

_SURE_FOREIGN = math.log((1 - MISSED) / FALSE_ALARM)
_SURE_SAME = math.log(MISSED / (1 - FALSE_ALARM))
_FAR_UP = math.log(FOREIGN_FAR_RATE / FAR_RATE)
_FAR_DOWN = math.log((1 - FOREIGN_FAR_RATE) / (1 - FAR_RATE))


class Verdict(Enum):
    """What a test says so far."""

    OPEN = "open"
    SAME = "same"
    FOREIGN = "foreign"


@dataclass(slots=True)
class Tally:
    """Ids of one node for one model that were compared, and how they differed."""

    tolerance: float
    compared: int = 0
    differing: int = 0
    far: int = 0
    suspicion: float = 0.0
    """The fine test's ratio, never below 0: what was right before excuses nothing later."""

    def add(self, compared: int, differing: int, far: int = 0) -> None:
        """Count a comparison; `far` of the differing ids were not nearly level with ours."""
        self.compared += compared
        self.differing += differing
        self.far += far
        moved = far * _FAR_UP + (compared - far) * _FAR_DOWN
        self.suspicion = max(0.0, self.suspicion + moved)

    @property
    def verdict(self) -> Verdict:
        """What the ids say until now; SAME only while no suspicion is left."""
        coarse = self._coarse
        if coarse is Verdict.FOREIGN or self.suspicion >= _SURE_FOREIGN:
            return Verdict.FOREIGN
        return Verdict.OPEN if self.suspicion > 0 else coarse

    @property
    def _coarse(self) -> Verdict:
        ratio = self.differing * math.log(FOREIGN_RATE / self.tolerance) + (
            self.compared - self.differing
        ) * math.log((1 - FOREIGN_RATE) / (1 - self.tolerance))
        if ratio >= _SURE_FOREIGN:
            return Verdict.FOREIGN
        if ratio <= _SURE_SAME:
            return Verdict.SAME
        if self.compared < IDS_LIMIT:
            return Verdict.OPEN
        return Verdict.FOREIGN if ratio > 0 else Verdict.SAME

    @property
    def words(self) -> str:
        """The counts for a person."""
        return (
            f"{self.differing} of {self.compared} ids differ from the coordinator's own engine, "
            f"where {self.tolerance:.0%} may, and {self.far} by far, where {FAR_RATE:.1%} may"
        )


def tolerance(backend: str, own_backend: str) -> float:
    """The share of ids that may differ between two engines, by what they say they are.

    A node that lies about its engine gains the wider tolerance and no more.
    """
    return SAME_BACKEND_RATE if backend == own_backend else OTHER_BACKEND_RATE


def agree(theirs: Sequence[int], ours: Sequence[int]) -> int:
    """How many ids from the first on are the same."""
    for index, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        if their != our:
            return index
    return min(len(theirs), len(ours))
