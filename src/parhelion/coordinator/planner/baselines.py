"""Two plain ways to split a model over nodes, as what a plan is measured against."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from parhelion.coordinator.planner.split import Cut, cut_of
from parhelion.coordinator.planner.terms import Terms

Weigh = Callable[[Terms, int], float]

FEWEST = ", fewest members"
"""What is added to the name of a split over the first members that are enough."""


def equal_split(terms: Terms, members: int | None = None) -> Cut | None:
    """The members in joining order, as many layers on each."""
    return _weighed(terms, lambda _terms, _member: 1.0, members)


def memory_split(terms: Terms, members: int | None = None) -> Cut | None:
    """The members in joining order, layers in proportion to the memory that each offers."""
    return _weighed(terms, lambda terms, member: float(max(0, terms.free_bytes[member])), members)


def baselines(terms: Terms) -> Iterator[tuple[str, Cut | None]]:
    """Both, once over all members and once over the first that are enough."""
    ways = (("equal split in joining order", equal_split), ("split by memory", memory_split))
    for name, way in ways:
        yield name, way(terms)
        fewest = (way(terms, count) for count in range(1, len(terms.peers) + 1))
        yield name + FEWEST, next((cut for cut in fewest if cut is not None), None)


def _weighed(terms: Terms, weigh: Weigh, members: int | None) -> Cut | None:
    """Layers by weight, as far as memory and lengths allow; the rest goes to the neighbours.

    Who can hold nothing is left out: a stage has a layer at least.
    """
    index = {peer: at for at, peer in enumerate(terms.peers)}
    first = [index[peer] for peer in terms.joined[:members]]
    order = [member for member in first if terms.may_hold(member)][: terms.layers]
    total = sum(weigh(terms, member) for member in order)
    if not order or not total:
        return None
    needed = _needed(terms, order)
    ends: list[int] = []
    wanted = 0.0
    for place, member in enumerate(order):
        wanted += terms.layers * weigh(terms, member) / total
        start = ends[-1] if ends else 0
        extra = terms.model.head_bytes if place == 0 else 0
        if place == len(order) - 1:
            extra += terms.model.tail_bytes
        longest = terms.reach(member, start, extra)
        longest = min(longest, terms.layers - (len(order) - 1 - place))
        shortest = max(start + 1, needed[place])
        allowed = [end for end in range(shortest, longest + 1) if terms.allows(end - start)]
        if not allowed:
            return None
        goal = round(wanted)
        ends.append(min((abs(end - goal), end) for end in allowed)[1])
    return cut_of(terms, order, tuple(ends), terms.streams)


def _needed(terms: Terms, order: Sequence[int]) -> list[int]:
    """Where each stage must end at least, so that those behind it can hold the rest."""
    needed = [terms.layers]
    extra = terms.model.tail_bytes
    for member in reversed(order[1:]):
        room = max(0, terms.free_bytes[member] - extra)
        needed.append(bisect_left(terms.prefix_bytes, terms.prefix_bytes[needed[-1]] - room))
        extra = 0
    return needed[::-1]
