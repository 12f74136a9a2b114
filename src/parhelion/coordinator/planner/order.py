"""In which order members stand in a pipeline: hops of the ring, and who can be first and last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations

from parhelion.coordinator.planner.bounds import least_wait_ms
from parhelion.coordinator.planner.fill import order_by_filling
from parhelion.coordinator.planner.split import Cut, covered, holds, split
from parhelion.coordinator.planner.terms import Terms
from parhelion.coordinator.planner.tiling import SOME_LIMIT, order_of_all, order_of_some

ALL_RINGS_LIMIT = 6
"""Up to so many members every ring is looked at (60 of them); more are improved step by step."""

ENDS_LIMIT = 12
"""Pairs of first and last member that are split exactly, cheapest first: all of four members."""

QUICK_LIMIT = 2
"""While members are still being chosen, so many are enough to tell groups apart."""

EXACT_LIMIT = 8
"""Members of which all orders are tried when their layers differ: 256 sets, a millisecond."""

LAST_RESORT_LIMIT = 14
"""Members among which any order is looked for when nothing else was found: 16,384 sets."""


def arranged(
    terms: Terms, group: Sequence[int], streams: int, looks: int = ENDS_LIMIT
) -> Cut | None:
    """The best order found for exactly these members, with its cut; None if they cannot hold it.

    `looks` bounds how many pairs of first and last member are split exactly.
    """
    if len(group) > terms.layers:
        return None
    if len(group) == 1:
        return split(terms, group, streams)
    members = sorted(group, key=lambda member: terms.peers[member])
    best: Cut | None = None
    tried = 0
    for least_ms, order in _by_ends(terms, members, streams):
        if best is not None and (least_ms >= best.cost_ms or tried >= looks):
            break
        if not holds(terms, order):
            continue
        tried += 1
        found = split(terms, order, streams, math.inf if best is None else best.cost_ms)
        if found is not None and (best is None or _key(found) < _key(best)):
            best = found
    if best is None and (order := feasible_order(terms, members)) is not None:
        best = split(terms, order, streams)
    return best


def feasible_order(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """An order in which all of these can hold the model, a layer each at least; None if none is.

    Exact where all layers are alike, and for few members; else the order of size is tried.
    """
    order = _long_enough(terms, members)
    if order is None or not terms.forbidden or holds(terms, order):
        return order
    return order_of_all(terms, members)


def _long_enough(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """The same as if stages might have any length."""
    model = terms.model
    needed = terms.prefix_bytes[-1] + model.head_bytes + model.tail_bytes
    if len(members) > terms.layers or sum(terms.free_bytes[m] for m in members) < needed:
        return None
    if terms.are_alike:
        ends = _roomiest_ends(terms, members)
        if ends is None:
            return None
        between = [member for member in members if member not in ends]
        order = (ends[0], *between, ends[1]) if len(members) > 1 else (members[0],)
        return order if covered(terms, order) == terms.layers else None
    if len(members) <= EXACT_LIMIT:
        return _exhaustive(terms, members)
    by_size = sorted(members, key=lambda member: (-terms.free_bytes[member], terms.peers[member]))
    for head in by_size[:ENDS_LIMIT]:
        for tail in by_size:
            order = (head, *(m for m in by_size if m not in (head, tail)), tail)
            if head != tail and holds(terms, order):
                return order
    return None


def _key(cut: Cut) -> tuple[float, float, float]:
    return (cut.cost_ms, cut.speed.token_ms, cut.speed.bottleneck_ms)


def _by_ends(
    terms: Terms, members: Sequence[int], streams: int
) -> list[tuple[float, tuple[int, ...]]]:
    """For each pair of first and last member the best ring, by what it takes at least."""
    size = len(members)
    hops = [[0.0 if a == b else terms.hop_ms(a, b) for b in members] for a in members]
    rings = all_rings(size) if size <= ALL_RINGS_LIMIT else (short_ring(hops),)
    lengths_ms = [
        sum([hops[a][b] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]) for ring in rings
    ]
    shortest_first = sorted(range(len(rings)), key=lengths_ms.__getitem__)
    pairs = size * (size - 1) if size <= ALL_RINGS_LIMIT else 2 * size
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
    for at in shortest_first:
        ring = rings[at]
        for turn in range(size):
            first, last = ring[turn], ring[turn - 1]
            if (first, last) not in best:
                order = ring[turn:] + ring[:turn]
                best[first, last] = (lengths_ms[at], order)
                best[last, first] = (lengths_ms[at], order[::-1])
        if len(best) == pairs:
            break
    firsts = [terms.place_first(member) for member in members]
    lasts = [terms.place_last(member) for member in members]
    between = [terms.place(member) for member in members]
    found: list[tuple[float, tuple[int, ...]]] = []
    for ring_ms, order in best.values():
        places = [between[place] for place in order]
        places[0], places[-1] = firsts[order[0]], lasts[order[-1]]
        least_ms = least_wait_ms(places, terms.layers, ring_ms, streams)
        if math.isfinite(least_ms):
            found.append((least_ms, tuple(members[place] for place in order)))
    # Members stand in the order of their ids, so that equal ones come in one order always.
    return sorted(found)


@cache
def all_rings(size: int) -> tuple[tuple[int, ...], ...]:
    """Every ring of so many places, each in one direction only."""
    if size < 4:
        return (tuple(range(size)),)
    return tuple((0, *rest) for rest in permutations(range(1, size)) if rest[0] < rest[-1])


def short_ring(hops: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """A short ring through all places: each inserted where it costs least, then 2-opt and moves."""
    ring = [0]
    for place in range(1, len(hops)):
        costs = [
            hops[a][place] + hops[place][b] - hops[a][b]
            for a, b in zip(ring, (*ring[1:], ring[0]), strict=True)
        ]
        ring.insert(costs.index(min(costs)) + 1, place)
    # Each round makes the ring shorter; so many of them are enough for any ring seen.
    for _ in range(len(hops)):
        if not (_uncross(ring, hops) or _move_one(ring, hops)):
            break
    return tuple(ring)


def _uncross(ring: list[int], hops: Sequence[Sequence[float]]) -> bool:
    """Turn round parts of the ring where that makes it shorter; whether any was."""
    size = len(ring)
    better = False
    for i in range(size - 1):
        for j in range(i + 2, size - (i == 0)):
            a, b, c, d = ring[i], ring[i + 1], ring[j], ring[(j + 1) % size]
            if hops[a][c] + hops[b][d] < (hops[a][b] + hops[c][d]) * (1 - 1e-12):
                ring[i + 1 : j + 1] = ring[i + 1 : j + 1][::-1]
                better = True
    return better


def _move_one(ring: list[int], hops: Sequence[Sequence[float]]) -> bool:
    """Move single places to where they cost less; whether any was."""
    better = False
    for place in list(ring):
        at = ring.index(place)
        rest = ring[:at] + ring[at + 1 :]
        costs = [
            hops[a][place] + hops[place][b] - hops[a][b]
            for a, b in zip(rest, (*rest[1:], rest[0]), strict=True)
        ]
        before, after = rest[at - 1], rest[at % len(rest)]
        had = hops[before][place] + hops[place][after] - hops[before][after]
        least = min(costs)
        if least < had - 1e-12 * abs(had) - 1e-12:
            rest.insert(costs.index(least) + 1, place)
            ring[:] = rest
            better = True
    return better


def _roomiest_ends(terms: Terms, members: Sequence[int]) -> tuple[int, int] | None:
    """Who loses fewest layers by also holding the head, and the tail; None if none can."""
    if len(members) == 1:
        return (members[0], members[0])
    model = terms.model
    heads = _by_loss(terms, members, model.head_bytes)
    tails = _by_loss(terms, members, model.tail_bytes)
    pairs = [
        (lost + also, head, tail)
        for lost, head in heads[:2]
        for also, tail in tails[:2]
        if head != tail
    ]
    return min(pairs)[1:] if pairs else None


def _by_loss(terms: Terms, members: Sequence[int], extra_bytes: int) -> list[tuple[int, int]]:
    found = [
        (terms.room[member] - room, member)
        for member in members
        if (room := terms.room_beside(member, extra_bytes)) > 0
    ]
    return sorted(found)


def _exhaustive(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """An order of all of these that holds the model."""
    if len(members) == 1:
        return (members[0],) if terms.holds_whole(members[0]) else None
    everyone = (1 << len(members)) - 1
    far = _furthest(terms, members, all_of_them=True)
    for last, member in enumerate(members):
        if far[everyone ^ (1 << last)][0] >= terms.tail_start(member):
            return _order_of(members, far, everyone ^ (1 << last), last)
    return None


def any_order(
    terms: Terms, members: Sequence[int], *, by_filling: bool = True
) -> tuple[int, ...] | None:
    """Some of these in an order that holds the model; exact for few members.

    Of many that differ from layer to layer one may be found `by_filling` only, which takes longer.
    """
    found = _quick_order(terms, members)
    is_exact = terms.are_alike or len(members) <= min(SOME_LIMIT, LAST_RESORT_LIMIT)
    if found is not None or is_exact or not by_filling:
        return found
    return order_by_filling(terms, members)


def _quick_order(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """Some of these in an order that holds the model, as few as can."""
    for member in members:
        if terms.holds_whole(member):
            return (member,)
    if terms.forbidden:
        return order_of_some(terms, members)
    if len(members) > LAST_RESORT_LIMIT:
        return feasible_order(terms, members[: terms.layers])
    far = _furthest(terms, members, all_of_them=False)
    starts = [terms.tail_start(member) for member in members]
    for mask in sorted(far, key=lambda mask: (mask.bit_count(), mask)):
        for last, start in enumerate(starts):
            if not mask >> last & 1 and far[mask][0] >= start and mask:
                return _order_of(members, far, mask, last)
    return None


def _furthest(
    terms: Terms, members: Sequence[int], *, all_of_them: bool
) -> dict[int, tuple[int, int]]:
    """For each set how far it reaches at most and who is last then, from sets with one less.

    Reaching further never hurts: who holds [a, c) also holds [b, c) of it.
    """
    size = len(members)
    far: dict[int, tuple[int, int]] = {0: (0, -1)}
    for mask in range(1, 1 << size):
        best = (-1, -1)
        extra = terms.model.head_bytes if mask & (mask - 1) == 0 else 0
        # Those still to come need a layer each.
        top = terms.layers - (size - mask.bit_count() if all_of_them else 1)
        for place, member in enumerate(members):
            if mask >> place & 1:
                start = far[mask ^ (1 << place)][0]
                end = min(top, terms.reach(member, start, extra)) if start >= 0 else -1
                if end > start >= 0 and end > best[0]:
                    best = (end, place)
        far[mask] = best
    return far


def _order_of(
    members: Sequence[int], far: dict[int, tuple[int, int]], mask: int, last: int
) -> tuple[int, ...]:
    places = [last]
    while mask:
        places.append(far[mask][1])
        mask ^= 1 << places[-1]
    return tuple(members[place] for place in reversed(places))
