"""Whether a node's greedy ids are the model's own: a sequential test against our engine's; pure.

Wald's sequential probability ratio test ("Sequential Tests of Statistical Hypotheses", 1945): each
id that was compared moves the log-likelihood ratio of "another model" against "the same model on
another machine" up or down, until one is sure enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

FOREIGN_RATE = 0.35
"""Of ids that differ where another model, a cut context or noise stands behind them. Two small
models of one family differ in half of their ids on free text; what differs in less is nearer to
another rounding (8-bit weights served for 16-bit) than to another model, and is not seen here."""

SAME_BUILD_RATE = 0.02
"""Of ids that differ between two runs of one build: ties, decided by the order of sums."""

OTHER_BUILD_RATE = 0.06
"""The same across builds and processors, whose kernels round differently."""

FALSE_ALARM = 1e-4
"""An honest node refused: one in ten thousand tests."""

MISSED = 1e-2
"""A foreign one let in, until the next test."""

IDS_LIMIT = 256
"""Without a decision after so many ids the nearer one is taken."""


class Verdict(Enum):
    """What a test says so far."""

    OPEN = "open"
    SAME = "same"
    FOREIGN = "foreign"


@dataclass(slots=True)
class Tally:
    """Ids of one node for one model that were compared, and how many differed."""

    tolerance: float
    compared: int = 0
    differing: int = 0

    def add(self, compared: int, differing: int) -> None:
        """Count a comparison."""
        self.compared += compared
        self.differing += differing

    @property
    def verdict(self) -> Verdict:
        """What the ids say until now."""
        ratio = self.differing * math.log(FOREIGN_RATE / self.tolerance) + (
            self.compared - self.differing
        ) * math.log((1 - FOREIGN_RATE) / (1 - self.tolerance))
        if ratio >= math.log((1 - MISSED) / FALSE_ALARM):
            return Verdict.FOREIGN
        if ratio <= math.log(MISSED / (1 - FALSE_ALARM)):
            return Verdict.SAME
        if self.compared < IDS_LIMIT:
            return Verdict.OPEN
        return Verdict.FOREIGN if ratio > 0 else Verdict.SAME

    @property
    def words(self) -> str:
        """The counts for a person."""
        return (
            f"{self.differing} of {self.compared} greedy ids differ from the coordinator's own "
            f"engine, where {self.tolerance:.0%} may"
        )


def tolerance(backend: str, own_backend: str) -> float:
    """The share of ids that may differ between two builds, by what they say they are.

    A node that lies about its build gains the wider tolerance and no more.
    """
    return SAME_BUILD_RATE if backend == own_backend else OTHER_BUILD_RATE


def agree(theirs: Sequence[int], ours: Sequence[int]) -> int:
    """How many ids from the first on are the same."""
    for index, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        if their != our:
            return index
    return min(len(theirs), len(ours))
