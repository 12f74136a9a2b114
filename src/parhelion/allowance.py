"""A token bucket for one thing that strangers decide the number of; pure, the time is told."""

from __future__ import annotations

from dataclasses import dataclass, field


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
