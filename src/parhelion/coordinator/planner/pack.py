"""Packing members into disjoint groups of which each can hold the model."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence

from parhelion.coordinator.planner.order import feasible_order
from parhelion.coordinator.planner.terms import Terms

NEAR_CHOICES = 8
"""Among so many of the largest that are left the nearest is taken, where distance is looked at."""

Groups = list[list[int]]


def most_groups(terms: Terms, members: Sequence[int]) -> int:
    """No packing has more groups than this: all room, in layers, over the layers of the model."""
    return sum(terms.room[member] for member in members) // terms.layers


def packed(terms: Terms, members: Sequence[int], groups: int, near: int = 1) -> Groups | None:
    """So many groups that each hold the model, or None: largest first into the neediest.

    Where one member can close the neediest group the smallest that does is taken, so that room is
    not wasted. `near` > 1 looks at so many candidates and takes the one with the shortest hop.
    """
    left = sorted(
        (member for member in members if terms.room[member] > 0),
        key=lambda member: (terms.room[member], terms.peers[member]),
    )
    found: Groups = [[] for _ in range(groups)]
    needs = [(-terms.layers, group) for group in range(groups)]
    while needs:
        need, neediest = needs[0]
        if not left or len(found[neediest]) * terms.shortest >= terms.layers:
            return None
        at = bisect_left(left, -need, key=terms.room.__getitem__)
        closes = at < len(left)
        choices = range(at, at + near) if closes else range(len(left) - near, len(left))
        taken = _nearest(terms, found[neediest], left, choices, closes)
        found[neediest].append(left.pop(taken))
        missing = _missing(terms, found[neediest])
        if missing > 0:
            heapq.heapreplace(needs, (-missing, neediest))
        else:
            heapq.heappop(needs)
    return found


def _nearest(terms: Terms, group: list[int], left: list[int], choices: range, closes: bool) -> int:
    """The place in `left` to take: by hop to the group, then the smallest to close or largest."""
    if not group or len(choices) < 2:
        return choices[0] if closes else choices[-1]
    return min(
        range(max(0, choices.start), min(len(left), choices.stop)),
        key=lambda at: (
            min(terms.hop_ms(left[at], member) for member in group),
            at if closes else -at,
        ),
    )


def _missing(terms: Terms, group: list[int]) -> int:
    """Layers that the group cannot hold yet; at least one while no order of it holds the model."""
    missing = terms.layers - sum(terms.room[member] for member in group)
    if missing > 0:
        return missing
    return 0 if feasible_order(terms, group) is not None else 1
