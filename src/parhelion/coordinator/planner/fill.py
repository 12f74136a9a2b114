"""An order for many members of which few fit: memory is filled so that as little as can be is lost.

Which sets of more than a dozen members hold layers of different sizes cannot be looked at one by
one. So layers are given out from the first on, and of all ways to come to the same layer only those
that left least memory unused are followed. It may miss an order; what it finds is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from typing import NamedTuple

from parhelion.coordinator.planner.terms import Terms
from parhelion.coordinator.planner.tiling import ends_of

WAYS_LIMIT = 16
"""Ways to each layer that are followed: more find little more, and take as much longer."""

ENDS_LIMIT = 3
"""Of the ends of a stage the last ones, where some lengths are forbidden: else the last is best."""

MEMBERS_LIMIT = 48
"""Those with most memory: more of them leave room enough that a quicker search finds it."""


class Way(NamedTuple):
    """Members up to some layer, in order, and what of their memory is unused."""

    lost_bytes: int
    order: tuple[int, ...]


def order_by_filling(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """Some of these in an order that holds the model; None if none was found."""
    roomiest = sorted(members, key=lambda member: (-terms.free_bytes[member], terms.peers[member]))
    usable = roomiest[:MEMBERS_LIMIT]
    if sum(terms.free_bytes[member] for member in usable) < terms.model.whole_bytes:
        return None
    ends = ENDS_LIMIT if terms.forbidden else 1
    # By the members that were used: of two orders of them only the better one goes on.
    ways: list[dict[frozenset[int], Way]] = [{} for _ in range(terms.layers)]
    ways[0][frozenset()] = Way(0, ())
    for start, here in enumerate(ways):
        for used, way in nsmallest(WAYS_LIMIT, here.items(), key=lambda item: item[1]):
            alike: set[int] = set()
            for member in usable:
                free = terms.free_bytes[member]
                if member in used or free in alike:
                    continue
                alike.add(free)
                for end in ends_of(terms, member, start, ends):
                    if end == terms.layers:
                        return (*way.order, member)
                    lost = way.lost_bytes + free - terms.stage_bytes(start, end)
                    key = used | {member}
                    had = ways[end].get(key)
                    if had is None or lost < had.lost_bytes:
                        ways[end][key] = Way(lost, (*way.order, member))
    return None
