"""The best single pipeline among some members: from a few beginnings, by one change at a time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parhelion.coordinator.planner.bounds import least_ring_ms, least_waits_ms
from parhelion.coordinator.planner.order import QUICK_LIMIT, any_order, arranged, feasible_order
from parhelion.coordinator.planner.split import ROUNDING, Cut, split
from parhelion.coordinator.planner.terms import Terms

STEP_LOOKS = 8
"""Of all changes by one member so many are arranged, those first that can help most."""


@dataclass(slots=True)
class Search:
    """Remembers every group that was looked at; bounded, so that planning takes bounded time."""

    terms: Terms
    looks_left: int
    seen: dict[tuple[tuple[int, ...], int], Cut | None] = field(
        default_factory=dict[tuple[tuple[int, ...], int], Cut | None]
    )

    resorts: dict[tuple[int, ...], tuple[int, ...] | None] = field(
        default_factory=dict[tuple[int, ...], tuple[int, ...] | None]
    )

    def best_cut(self, group: Sequence[int], streams: int) -> Cut | None:
        """The best arrangement of exactly these members."""
        key = (tuple(sorted(group)), streams)
        if key not in self.seen:
            self.looks_left -= 1
            self.seen[key] = arranged(self.terms, key[0], streams, QUICK_LIMIT)
        return self.seen[key]

    def best_single(self, members: Sequence[int], streams: int) -> Cut | None:
        """The best pipeline found with any of these members."""
        best: Cut | None = None
        for group in self._beginnings(members):
            # Of many that differ, an order may be known for a group in which no other is found.
            begun = self.best_cut(group, streams) or split(self.terms, group, streams)
            if begun is None:
                continue
            found = self.improved(begun, members, streams)
            if best is None or _is_better(found, best):
                best = found
        return best

    def improved(self, cut: Cut, members: Sequence[int], streams: int) -> Cut:
        """A pipeline after every change by one of these members that helps; never a worse one."""
        while self.looks_left > 0:
            better = self._step(cut, members, streams)
            if better is None:
                return cut
            cut = better
        return cut

    def _step(self, cut: Cut, members: Sequence[int], streams: int) -> Cut | None:
        """The best of the changes that promise most; None where none of them helps."""
        best = cut
        promising = [
            (least_ms, group)
            for group in _changed(cut.order, members)
            if (least_ms := _least_cost_ms(self.terms, group, streams, cut.cost_ms)) < cut.cost_ms
        ]
        for least_ms, group in heapq.nsmallest(STEP_LOOKS, promising):
            if self.looks_left <= 0 or least_ms >= best.cost_ms:
                break
            found = self.best_cut(group, streams)
            if found is not None and _is_better(found, best):
                best = found
        return None if best is cut else best

    def _beginnings(self, members: Sequence[int]) -> Iterator[list[int]]:
        """Groups that hold the model: by room, by speed, by nearness to the roomiest, and all."""
        terms = self.terms
        usable = [member for member in members if terms.may_hold(member)]
        peers = terms.peers
        roomiest = sorted(usable, key=lambda m: (-terms.free_bytes[m], peers[m]))
        fastest = sorted(usable, key=lambda m: (terms.layer_ms[m], peers[m]))
        orders = [fastest, roomiest]
        if roomiest:
            hub = roomiest[0]
            orders.append(
                sorted(usable, key=lambda m: (0.0 if m == hub else terms.hop_ms(hub, m), peers[m]))
            )
        for ranked in orders:
            if (group := self._enough(ranked)) is not None:
                yield group
        wholes = [m for m in usable if terms.holds_whole(m)]
        if wholes:
            yield [min(wholes, key=lambda m: (terms.layer_ms[m], peers[m]))]

    def _enough(self, ranked: Sequence[int]) -> list[int] | None:
        """The shortest beginning of this list that holds the model, of those worth a look."""
        room = 0
        for count, member in enumerate(ranked[: self.terms.layers], start=1):
            room += self.terms.room[member]
            if room < self.terms.layers:
                continue
            if feasible_order(self.terms, ranked[:count]) is not None:
                return list(ranked[:count])
        if self.terms.are_alike:
            # The roomiest can do what any others can, so that one of the lists has shown it.
            return None
        # What differs from layer to layer may fit where the largest layer would not, and some of
        # these may have allowed lengths where the first of them have none.
        everyone = tuple(sorted(ranked))
        if everyone not in self.resorts:
            # Once, whether there is any pipeline at all; of who is left after it more quickly.
            self.resorts[everyone] = any_order(self.terms, ranked, by_filling=not self.resorts)
        order = self.resorts[everyone]
        return None if order is None else list(order)


def _changed(order: Sequence[int], members: Sequence[int]) -> Iterator[list[int]]:
    """The groups with one member less, exchanged, or more."""
    inside = set(order)
    outside = [member for member in members if member not in inside]
    for gone in order:
        rest = [member for member in order if member != gone]
        if rest:
            yield rest
        for new in outside:
            yield [*rest, new]
    for new in outside:
        yield [*order, new]


def _least_cost_ms(terms: Terms, group: Sequence[int], streams: int, enough_ms: float) -> float:
    """No pipeline of exactly these members costs less; not looked at closer from `enough_ms` on."""
    places = [terms.place(member) for member in group]
    alone_ms, crowded_ms = least_waits_ms(places, terms.layers, streams, enough_ms)
    if max(alone_ms, crowded_ms) < enough_ms:
        alone_ms += least_ring_ms(terms, group)
    return max(alone_ms, crowded_ms)


def _is_better(new: Cut, old: Cut) -> bool:
    """Cheaper by more than rounding; else quicker for one stream; else with fewer members."""
    slack_ms = old.cost_ms * ROUNDING
    if abs(new.cost_ms - old.cost_ms) > slack_ms:
        return new.cost_ms < old.cost_ms
    if abs(new.speed.token_ms - old.speed.token_ms) > slack_ms:
        return new.speed.token_ms < old.speed.token_ms
    return len(new.order) < len(old.order)
