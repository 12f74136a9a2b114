"""What a pipeline takes at least, seen quickly: so that most of them need no split at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parhelion.coordinator.planner.objective import load_of
from parhelion.coordinator.planner.terms import Place, Terms


def least_wait_ms(places: Sequence[Place], layers: int, ring_ms: float, streams: int) -> float:
    """No split over these makes a stream wait less; infinite where they cannot hold the layers."""
    alone_ms, crowded_ms = least_waits_ms(places, layers, streams)
    return max(alone_ms + ring_ms, crowded_ms)


def least_waits_ms(
    places: Sequence[Place], layers: int, streams: int, enough_ms: float = math.inf
) -> tuple[float, float]:
    """The same as its two parts: to the first the ring is still to be added.

    As if layers could be cut in parts. The second is left out where the first is `enough_ms`.
    """
    left = layers
    alone_ms = 0.0
    for layer_ms, most, extra_ms in sorted(places):
        if most < 1:
            return math.inf, math.inf
        count = left if left < most else most
        alone_ms += count * layer_ms + extra_ms
        left -= count
    if left > 0:
        return math.inf, math.inf
    in_flight, growth = load_of(streams, len(places))
    if alone_ms * growth >= enough_ms or in_flight == 1:
        # The slowest of all takes no longer than all together.
        return alone_ms * growth, 0.0
    return alone_ms * growth, in_flight * growth * _least_slowest_ms(places, layers)


def _least_slowest_ms(places: Sequence[Place], layers: int) -> float:
    """The slowest stage's time at least: who is full leaves the rest to the others."""
    left = float(layers)
    per_ms = 0.0
    full: list[tuple[float, float, float]] = []
    for layer_ms, most, extra_ms in places:
        share = 1 / layer_ms
        held = most + extra_ms * share
        left += extra_ms * share
        per_ms += share
        full.append((held * layer_ms, share, held))
    full.sort()
    for full_ms, share, held in full:
        if full_ms * per_ms >= left:
            break
        left -= held
        per_ms -= share
    return left / per_ms if per_ms > 1e-12 else 0.0


def least_ring_ms(terms: Terms, group: Sequence[int]) -> float:
    """No ring through all of these is shorter: two hops touch each, and each hop touches two."""
    if len(group) < 2:
        return 0.0
    rows: list[list[float]] = [[] for _ in group]
    for at, member in enumerate(group):
        for before in range(at):
            hop_ms = terms.hop_ms(member, group[before])
            rows[at].append(hop_ms)
            rows[before].append(hop_ms)
    ring_ms = 0.0
    for row in rows:
        row.sort()
        ring_ms += row[0] + row[min(1, len(row) - 1)]
    return ring_ms / 2
