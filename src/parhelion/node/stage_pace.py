"""How fast a stage steps: its longest step, the one that it owes, and how many were slow in a row.

Pure: times and rows are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOW_TIMES = 5.0
"""A step that takes so many of its usual ones is slow, as the coordinator has it (DESIGN 5)."""

SLOW_LEAST_MS = 100.0
"""A shorter step is never slow: on a machine that does much else a step of 8 ms waits for the
processor for many times its own length, again and again, and no stream is held up by that."""

KNOWN_STEPS = 20
"""Before so many steps of a kind nobody knows what is usual."""

USUAL_WEIGHT = 0.1
"""Of one step in what is usual."""


@dataclass(slots=True)
class _Usual:
    """What steps of one kind take: the mean at first, then one that follows slowly."""

    steps: int = 0
    ms: float = 0.0

    def learn(self, took_ms: float) -> None:
        self.steps += 1
        self.ms += max(USUAL_WEIGHT, 1 / self.steps) * (took_ms - self.ms)


class SlowRun:
    """Counts the steps in a row that took SLOW_TIMES what is usual for about as many rows.

    A step of a prompt's chunk has hundreds of rows and takes many times one of a single id, so that
    each kind has its own usual: of 1 row, 2 or 3, 4 to 7 and so on. Slow steps are not learned
    from: what is usual would be as slow before anybody has noticed.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._usual: dict[int, _Usual] = {}
        """By the binary length of the rows: a dozen at most, for a batch has a few thousand."""

    def stepped(self, rows: int, took_ms: float) -> None:
        """A step has ended; one of a kind that is not known yet says nothing of the run."""
        usual = self._usual.setdefault(max(0, rows).bit_length(), _Usual())
        is_known = usual.steps >= KNOWN_STEPS
        if is_known and took_ms > max(SLOW_LEAST_MS, SLOW_TIMES * usual.ms):
            self.steps += 1
            return
        usual.learn(took_ms)
        if is_known:
            self.steps = 0

    def anew(self) -> None:
        """A new ring: where it was slow, the ring was made by how it is now, and that is usual.

        Otherwise one that stays slow and has no better place would end every ring after a moment,
        and its streams would be lost after a few of them.
        """
        if self.steps:
            self.steps = 0
            self._usual.clear()


class Pace:
    """How long a stage's steps took since that was told, and since when it owes the next one.

    `busy_ms` is what the steps before the first of these took, `rows` what they carried.
    """

    def __init__(self, busy_ms: float = 0.0, rows: int = 0) -> None:
        self._busy_ms, self._rows = busy_ms, rows
        self._longest_ms = 0.0
        self._owed_since_s: float | None = None
        self._run = SlowRun()

    def fed(self, now_s: float) -> None:
        """Rows came that it has to step."""
        if self._owed_since_s is None:
            self._owed_since_s = now_s

    def stepped(self, busy_ms: float, rows: int) -> None:
        """A step has ended; `busy_ms` is what all of them took, `rows` what all carried."""
        took_ms = max(0.0, busy_ms - self._busy_ms)
        self._run.stepped(rows - self._rows, took_ms)
        self._longest_ms = max(self._longest_ms, took_ms)
        self._busy_ms, self._rows = busy_ms, rows
        self._owed_since_s = None

    def linked(self) -> None:
        """It becomes part of a new ring."""
        self._run.anew()

    def tell_ms(self, now_s: float | None) -> float:
        """The longest step since the last telling, or the present one's so far; 0 without any.

        None: it owes none. A machine that stands still again and again steps quickly in between:
        its last step alone would hide that from whoever asks at the wrong moments.
        """
        longest_ms, self._longest_ms = self._longest_ms, 0.0
        if now_s is None or self._owed_since_s is None:
            return longest_ms
        return max(longest_ms, (now_s - self._owed_since_s) * 1e3)

    @property
    def slow_steps(self) -> int:
        """So many steps in a row, up to the last one, were slow."""
        return self._run.steps
