"""Which job of a stage took how much of its time: each step's, shared by the rows it had of each.

A stage's own frames say that: how many rows of each job are in a frame of hidden states, and how
far each has been read in a frame of ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Key = tuple[str, int]


class Shares:
    """Milliseconds a job, over the steps that it was in; `busy_ms` is what those before took."""

    def __init__(self, busy_ms: float = 0.0) -> None:
        self._busy_ms = busy_ms
        self._read: dict[Key, int] = {}
        self._share_ms: dict[Key, float] = {}

    def begin(self, key: Key, held: int) -> None:
        """A job is open, with its first `held` ids read."""
        self._read[key] = held
        self._share_ms[key] = 0.0

    def add(self, frame: bytes, busy_ms: float) -> None:
        """A step ended with this frame; `busy_ms` is what all steps have taken by now."""
        took_ms = max(0.0, busy_ms - self._busy_ms)
        self._busy_ms = busy_ms
        rows = self._rows(frame)
        total = sum(rows.values())
        for key in rows.keys() & self._share_ms.keys():
            self._share_ms[key] += took_ms * rows[key] / total

    def settle(self, key: Key) -> float:
        """What a job took in all; it is forgotten."""
        self._read.pop(key, None)
        return self._share_ms.pop(key, 0.0)

    def _rows(self, frame: bytes) -> Mapping[Key, int]:
        rows: dict[Key, int] = {}
        for key, read_to in _read_to(frame):
            before = self._read.get(key, read_to)
            # Whatever its place in the step, a job that was in it had a row there.
            rows[key] = max(1, read_to - before)
            if key in self._read:
                self._read[key] = max(read_to, before)
        return rows


def jobs_of(frame: bytes) -> Iterator[Key]:
    """For whom a frame that was found whole asks for a step.

    Of hidden states for all; of ids for those that have a new one and go on with it.
    """
    return (key for key, _, asks in _entries(frame) if asks)


def _read_to(frame: bytes) -> Iterator[tuple[Key, int]]:
    """Each job of a frame, and how many of its ids are read behind it."""
    return ((key, read_to) for key, read_to, _ in _entries(frame))


def _entries(frame: bytes) -> Iterator[tuple[Key, int, bool]]:
    """Each job of a frame, how many of its ids are read behind it, whether it asks for a step."""
    # Here, because the room of the engines loads numpy, which only who has a stage needs.
    from parhelion.engines.hidden import ENTRY, HEADER, Kind

    _, _, kind, *_, count, _ = HEADER.unpack_from(frame)
    at = HEADER.size
    for _ in range(count):
        size, flag, attempt, start, rows = ENTRY.unpack_from(frame, at)
        at += ENTRY.size
        job = frame[at : at + size].decode("ascii")
        at += size
        if kind == Kind.HIDDEN:
            yield (job, attempt), start + rows, True
        else:
            yield (job, attempt), start, rows > 0 and not flag
