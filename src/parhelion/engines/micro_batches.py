"""How many decoding sequences go round the ring together, by what a step costs and the way takes.

The usual rule deals them evenly to as many micro-batches as there are stages. It loses where a step
of more rows costs less (llama.cpp has quick products for four rows and more), and where the way
takes longer than the work, so that more and smaller micro-batches would hide it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

BETTER = 0.9
"""Another size is taken only where a round is estimated at so much of what it takes now: what it is
made of are measurements of a busy machine, and changing costs part of a round."""

HOP_MS = 0.6
"""What a frame costs beside its step: processes and threads are woken (docs/benchmarks.md). Without
it single rows would look free where a link is far."""

COST_SAMPLES = 9
"""Steps that are remembered for each number of rows: contexts grow, and so does a step."""

KNOWN_SAMPLES = 3
"""Fewer say nothing: one of them may have been held up, or was the first with cold caches."""

AWAY_SAMPLES = 64
"""Flights that are remembered, of which the shortest sixteenth counts: in a full ring most of them
waited for another, and that is not the way's length."""

ROUND_SAMPLES = 32
"""Rounds of single sequences that are remembered for each size."""

KNOWN_ROUNDS = 8
"""Fewer say nothing of a size: the first ones are still in the order of the size before."""

STALE_S = 30.0
"""What was not seen for so long is not known any more: links, contexts and neighbours change. So
the usual rule has a few rounds as often, and another size must prove itself again."""

TRIES = 16
"""Steps within which a trial must have come to its samples; else it waits for STALE_S."""


class Cut(NamedTuple):
    """At most so many sequences in one micro-batch, and so many of these under way."""

    rows: int
    flights: int


def usual(active: int, stages: int) -> Cut:
    """One micro-batch for each stage: what is done until costs are known."""
    return Cut(math.ceil(active / stages), stages)


def cut(active: int, stages: int, rows: int) -> Cut:
    """Micro-batches of `rows`, all of them under way."""
    even = usual(active, stages)
    return even if rows == even.rows else Cut(rows, math.ceil(active / rows))


def round_ms(
    active: int, stages: int, rows: int, costs: Mapping[int, float], away_ms: float
) -> float:
    """Until each of `active` sequences has one id more, in micro-batches of at most `rows`.

    Either this stage is never idle, or a micro-batch goes round without waiting; the other stages
    are taken to cost what this one does, because the planner makes them so.
    """
    whole, rest = divmod(active, rows)
    work_ms = whole * (costs[rows] + HOP_MS)
    if rest:
        work_ms += costs.get(rest, costs[rows]) + HOP_MS
    return max(work_ms, stages * (costs[rows] + HOP_MS) + away_ms)


def sizes(active: int, stages: int) -> tuple[int, ...]:
    """What is compared: powers of two, as quick products have them, and even shares."""
    powers = (1 << n for n in range(active.bit_length()))
    return tuple(sorted({*powers, usual(active, stages).rows, usual(active, 2 * stages).rows}))


def estimates(
    active: int,
    stages: int,
    costs: Mapping[int, float],
    away_ms: float,
    seen_ms: Mapping[int, float],
) -> dict[int, float]:
    """What a round takes by size: as seen, else as it should be beside the usual rule's as seen.

    Costs must name the usual rule's step. Whatever slows all sizes down alike makes no other one
    look better.
    """
    even = usual(active, stages).rows
    due_ms = round_ms(active, stages, even, costs, away_ms)
    scale = seen_ms.get(even, due_ms) / due_ms
    return {
        rows: seen_ms.get(rows, scale * round_ms(active, stages, rows, costs, away_ms))
        for rows in sizes(active, stages)
        if rows in costs
    }


def choose(
    active: int,
    stages: int,
    costs: Mapping[int, float],
    away_ms: float | None,
    seen_ms: Mapping[int, float],
    had: int | None,
) -> int:
    """Rows of a micro-batch; `had` is what was chosen for as many sequences before.

    Never estimated worse than the usual rule, which stands where costs are not known.
    """
    even = usual(active, stages).rows
    if active <= 1 or away_ms is None or even not in costs:
        return even
    takes_ms = estimates(active, stages, costs, away_ms, seen_ms)
    now = even if had is None else had
    # Back to the usual at once: no margin is due to what has become worse.
    if now not in takes_ms or takes_ms[now] > takes_ms[even]:
        now = even
    best = min(takes_ms, key=takes_ms.__getitem__)
    return best if takes_ms[best] < BETTER * takes_ms[now] else now


def worth_a_trial(
    active: int, stages: int, costs: Mapping[int, float], away_ms: float | None
) -> tuple[int, ...]:
    """Sizes of unknown cost that would pay if their step were as short as the shortest known."""
    even = usual(active, stages).rows
    if active <= 1 or away_ms is None or even not in costs:
        return ()
    if 1 not in costs:
        return (1,)
    now_ms = round_ms(active, stages, even, costs, away_ms)
    least_ms = min(costs.values())
    return tuple(
        rows
        for rows in sizes(active, stages)
        if rows not in costs
        and round_ms(active, stages, rows, {rows: least_ms}, away_ms) < BETTER * now_ms
    )


class Seen:
    """The latest measurements of each kind, as long as they are fresh."""

    def __init__(self, samples: int, enough: int) -> None:
        self._samples, self._enough = samples, enough
        self._kept: dict[int, tuple[float, deque[float]]] = {}

    def add(self, kind: int, took_ms: float, now_s: float) -> None:
        """One more; what is stale goes first."""
        at_s, kept = self._kept.get(kind, (now_s, None))
        if kept is None or now_s - at_s > STALE_S:
            kept = deque(maxlen=self._samples)
        kept.append(took_ms)
        self._kept[kind] = now_s, kept

    def known(self, now_s: float) -> dict[int, float]:
        """Of each kind its quickest third: what else runs on a machine only ever adds."""
        return {
            kind: _among(kept, 3)
            for kind, (at_s, kept) in self._kept.items()
            if len(kept) >= self._enough and now_s - at_s <= STALE_S
        }


class MicroBatches:
    """Learns what steps, flights and rounds take, and cuts by it.

    A size whose cost is unknown is tried for a few steps where it could pay.
    """

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._steps = Seen(COST_SAMPLES, KNOWN_SAMPLES)
        self._rounds: dict[int, Seen] = {}
        self._away: deque[float] = deque(maxlen=AWAY_SAMPLES)
        self._tries: dict[int, tuple[float, int]] = {}
        self._trying: int | None = None
        self._had: dict[int, int] = {}
        self._cuts: dict[tuple[int, bool], Cut] = {}

    def cut(self, active: int, now_s: float, *, may_try: bool) -> Cut:
        """For so many decoding sequences; trials are for when no prompt is beside them."""
        known = self._cuts.get((active, may_try))
        if known is None:
            known = self._cuts[active, may_try] = self._decide(active, now_s, may_try)
        return known

    def stepped(self, rows: int, took_ms: float, now_s: float) -> None:
        """A step of decoding sequences alone is done."""
        self._steps.add(rows, took_ms, now_s)
        if self._trying is not None:
            since_s, tries = self._tries.get(self._trying, (now_s, 0))
            if now_s - since_s > STALE_S:
                since_s, tries = now_s, 0
            self._tries[self._trying] = since_s, tries + 1
        self._cuts.clear()

    def flew(self, rows: int, took_ms: float, now_s: float) -> None:
        """Such a micro-batch has come back; `took_ms` from the beginning of its step here."""
        cost_ms = self._steps.known(now_s).get(rows)
        if cost_ms is not None:
            self._away.append(max(0.0, took_ms - self._stages * (cost_ms + HOP_MS)))
            self._cuts.clear()

    def went_round(self, active: int, rows: int, took_ms: float, now_s: float) -> None:
        """From one step of a sequence to its next, both among as many and cut the same."""
        self._rounds.setdefault(active, Seen(ROUND_SAMPLES, KNOWN_ROUNDS)).add(rows, took_ms, now_s)

    def _decide(self, active: int, now_s: float, may_try: bool) -> Cut:
        costs = self._steps.known(now_s)
        away_ms = _among(self._away, 16) if len(self._away) >= KNOWN_SAMPLES else None
        self._trying = None
        if may_try:
            unknown = worth_a_trial(active, self._stages, costs, away_ms)
            self._trying = next((n for n in unknown if self._may_try(n, now_s)), None)
        if self._trying is not None:
            return cut(active, self._stages, self._trying)
        rounds = self._rounds.get(active)
        seen_ms = rounds.known(now_s) if rounds is not None else {}
        rows = choose(active, self._stages, costs, away_ms, seen_ms, self._had.get(active))
        self._had[active] = rows
        return cut(active, self._stages, rows)

    def _may_try(self, rows: int, now_s: float) -> bool:
        since_s, tries = self._tries.get(rows, (now_s, 0))
        return tries < TRIES or now_s - since_s > STALE_S


def _among(samples: deque[float], part: int) -> float:
    """The slowest of the quickest `part`th."""
    return sorted(samples)[(len(samples) - 1) // part]
