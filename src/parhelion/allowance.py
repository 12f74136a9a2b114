"""A token bucket for one thing that strangers decide the number of; pure, the time is told."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

ALLOWANCES_LIMIT = 16_384
"""Each is some 200 bytes; whoever is pushed out starts again with a full one, which is lenient."""


@dataclass(slots=True)
class Allowance:
    """So many at once, and so many a second after; it starts full."""

    per_s: float
    burst: float
    left: float = field(init=False)
    _at_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.left = self.burst

    def take(self, now_s: float) -> bool:
        """Whether one more is within the allowance."""
        if self._at_s is not None:
            self.left = min(self.burst, self.left + max(0.0, now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


class Allowances:
    """An allowance for each name, kept for the latest who came."""

    def __init__(self, per_s: float, burst: float, limit: int = ALLOWANCES_LIMIT) -> None:
        self._per_s = per_s
        self._burst = burst
        self._limit = limit
        self._kept: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, name: str, now_s: float) -> bool:
        """Whether one more is within the allowance of `name`, which starts full."""
        return self._of(name).take(now_s)

    def give_back(self, name: str, times: float = 1.0) -> None:
        """Undo what was taken; below zero it is a debt, of as much as the burst at most."""
        found = self._of(name)
        found.left = max(-self._burst, min(self._burst, found.left + times))

    def _of(self, name: str) -> Allowance:
        found = self._kept.get(name)
        if found is None:
            found = self._kept[name] = Allowance(self._per_s, self._burst)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(name)
        return found
