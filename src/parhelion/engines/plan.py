"""The pure decisions of the batching loop: what one step decodes, and which prefix is reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

SMOOTH_RATIO = 2.6
"""A step with prefill may take this much of a usual one without: the p95 of running streams' gaps
must stay under 3x, and both p95s stand about as far above their usual step."""

SHORTEST_REUSE = 16
"""Copying a shorter prefix saves less than it costs to look after."""

TAIL_GIVEN_UP = 64
"""A parked sequence is taken over, not copied, if at most this many of its ids would be lost."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """A sequence whose prompt is not yet all in the KV memory; `cap` limits one step's share."""

    seq: int
    remaining: int
    cap: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured speed: a bare step of the present streams, and one more id of prefill."""

    decode_ms: float
    prefill_id_ms: float


def prefill_budget(pace: Pace, streams: int, step_budget_ms: float, largest: int) -> int:
    """How many ids of prompt this step may carry beside `streams` decoding sequences.

    They may take `step_budget_ms`, so that a cancel waits no longer for them, and as much as the
    running streams' gaps allow.
    """
    spare_ms = step_budget_ms
    if streams > 0:
        spare_ms = min(spare_ms, (SMOOTH_RATIO - 1.0) * pace.decode_ms)
    # At least one, so that a slow machine still gets there.
    return max(1, min(largest - streams, int(spare_ms / max(pace.prefill_id_ms, 1e-6))))


def share_prefill(waiting: Sequence[Prefill], budget: int) -> tuple[tuple[int, int], ...]:
    """Deal `budget` ids to the waiting sequences (oldest first): (seq, ids) pairs.

    The oldest gets half, so nobody starves; the rest goes to those nearest to their first id, so
    that a short prompt does not wait for a long one.
    """
    if not waiting:
        return ()
    shares: dict[int, int] = {}
    oldest = waiting[0]
    first = budget if len(waiting) == 1 else (budget + 1) // 2
    shares[oldest.seq] = min(first, oldest.remaining, oldest.cap)
    left = budget - shares[oldest.seq]
    for one in sorted(waiting[1:], key=lambda one: one.remaining):
        take = min(left, one.remaining, one.cap)
        if take > 0:
            shares[one.seq] = take
            left -= take
    if left > 0:
        more = min(left, oldest.remaining - shares[oldest.seq], oldest.cap - shares[oldest.seq])
        shares[oldest.seq] += max(0, more)
    return tuple(shares.items())


class PaceMeter:
    """Turns measured steps into a Pace; forgets slowly, so that one hiccup changes little."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        # Before anything is measured: a small model on one core.
        self._stream_ms = 10.0
        self._decode_ms: dict[int, float] = {}
        self._prefill_id_ms = 10.0

    def pace(self, streams: int) -> Pace:
        """The speed to expect with so many decoding streams."""
        decode_ms = self._decode_ms.get(streams, self._stream_ms * streams)
        return Pace(decode_ms, self._prefill_id_ms)

    def measured(self, streams: int, prefill_ids: int, took_ms: float) -> None:
        """Take one step into account."""
        if prefill_ids == 0:
            known = self._decode_ms.get(streams, took_ms)
            self._decode_ms[streams] = known + self.WEIGHT * (_clip(took_ms, known) - known)
            self._stream_ms += self.WEIGHT * (took_ms / max(1, streams) - self._stream_ms)
            return
        beside_ms = self.pace(streams).decode_ms if streams else 0.0
        # Never less than a quarter of the mean: an overestimated decode must not open the gates.
        floor_ms = 0.25 * took_ms / (prefill_ids + streams)
        sample = max(floor_ms, (took_ms - beside_ms) / prefill_ids)
        known = self._prefill_id_ms
        self._prefill_id_ms += self.WEIGHT * (_clip(sample, known) - known)


def _clip(sample: float, known: float) -> float:
    """A neighbour that takes the processor for a moment must not look like our own slowness."""
    return min(sample, 4.0 * known)


@dataclass(frozen=True, slots=True)
class Held:
    """Ids that a sequence has in the KV memory, and under which scope; `parked`: nobody runs it."""

    seq: int
    scope: str
    ids: NDArray[Any]
    parked: bool


@dataclass(frozen=True, slots=True)
class Reuse:
    """The first `length` ids are in `seq`'s memory: take the sequence over, or copy from it."""

    seq: int
    length: int
    take_over: bool


def reusable(wanted: NDArray[Any], scope: str, held: Sequence[Held]) -> Reuse | None:
    """The longest common prefix among sequences of the same scope.

    The last wanted id is never reused: its logits are what the first choice needs.
    """
    best: Reuse | None = None
    for one in held:
        if one.scope != scope:
            continue
        length = min(common_prefix(wanted, one.ids), len(wanted) - 1)
        if length >= SHORTEST_REUSE and (best is None or length > best.length):
            gives_up_little = len(one.ids) - length <= TAIL_GIVEN_UP
            best = Reuse(one.seq, length, one.parked and gives_up_little)
    return best


def common_prefix(a: NDArray[Any], b: NDArray[Any]) -> int:
    """How many leading ids two sequences share."""
    shortest = min(len(a), len(b))
    differs = a[:shortest] != b[:shortest]
    first = int(differs.argmax()) if shortest else 0
    return first if shortest and differs[first] else shortest
