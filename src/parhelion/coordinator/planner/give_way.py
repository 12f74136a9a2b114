"""Which pipelines give way to a model that nobody serves: never the only one of another model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice, product

from parhelion.coordinator.planner.draft import Draft
from parhelion.coordinator.planner.order import any_order
from parhelion.coordinator.planner.shape import Member, ModelShape, Pipeline
from parhelion.coordinator.planner.tiling import may_tile

LOOKS_LIMIT = 64
"""Sets of members whose orders are looked for, for each model without a place: most are told apart
by their memory alone, and of those that are not an order takes up to 0.1 s."""


def giving_way(draft: Draft, model: ModelShape) -> list[Pipeline]:
    """As few pipelines as make room for this model, each of a model that keeps another one.

    One where one is enough; else none of them could stay. Who gives way first: of the model with
    most pipelines the slowest, of equal ones the newest.
    """
    spare = _spare(draft)
    ranked = sorted(
        chain.from_iterable(spare.values()),
        key=lambda one: (
            -len(spare[one.digest]),
            -draft.cost_ms(one.digest, one.stages),
            -int(one.id.split("-")[1]),
        ),
    )
    looks = _Looks(draft, model)
    # More members never hold less: so this tells quickly where nothing helps.
    if not ranked or not looks.hold(ranked):
        return []
    for one in ranked:
        if looks.hold([one]):
            return [one]
    for kept in islice(product(*_by_room(draft, model, spare)), LOOKS_LIMIT):
        gone = [one for one in ranked if one not in kept]
        if looks.hold(gone):
            return _fewer(gone, looks)
    return []


def within_reach(draft: Draft, model: ModelShape) -> list[Member]:
    """Who is free or could be, if all gave way that may: what a model without a place can count on.

    Of each model that pipeline stays which could give least.
    """
    kept = [ids[0] for ids in _by_room(draft, model, _spare(draft))]
    gone = [one for ones in _spare(draft).values() for one in ones if one not in kept]
    return draft.members_of([*draft.free(), *(peer for one in gone for peer in one.peers)])


class _Looks:
    """Whether who is free can hold the model together with the members of some pipelines."""

    def __init__(self, draft: Draft, model: ModelShape) -> None:
        self._terms, self._index = draft.terms(model.digest)
        self._free = draft.free()
        self._left = LOOKS_LIMIT

    def hold(self, gone: Sequence[Pipeline]) -> bool:
        terms = self._terms
        peers = [*self._free, *(peer for one in gone for peer in one.peers)]
        usable = [
            member
            for peer in peers
            if (member := self._index.get(peer)) is not None and terms.may_hold(member)
        ]
        room_bytes = sum(terms.free_bytes[member] for member in usable)
        if not terms.layers or room_bytes < terms.model.whole_bytes or self._left < 1:
            return False
        self._left -= 1
        roomiest = sorted(usable, key=lambda one: (-terms.free_bytes[one], terms.peers[one]))
        return may_tile(terms, roomiest) and any_order(terms, roomiest) is not None


def _spare(draft: Draft) -> dict[str, list[Pipeline]]:
    """The pipelines of the models that have more than one, by model."""
    by_model: dict[str, list[Pipeline]] = {}
    for one in draft.pipelines:
        by_model.setdefault(one.digest, []).append(one)
    return {digest: ones for digest, ones in by_model.items() if len(ones) > 1}


def _by_room(
    draft: Draft, model: ModelShape, spare: dict[str, list[Pipeline]]
) -> list[list[Pipeline]]:
    """Those of each model, the one first that could give this model least."""
    terms, index = draft.terms(model.digest)

    def room(one: Pipeline) -> tuple[int, int]:
        members = [index[peer] for peer in one.peers if peer in index]
        return sum(terms.room[member] for member in members), int(one.id.split("-")[1])

    return [sorted(ones, key=room) for ones in spare.values()]


def _fewer(gone: Sequence[Pipeline], looks: _Looks) -> list[Pipeline]:
    """A part of these that is enough, and of which none could stay: from the first on."""
    least, enough = 1, len(gone)
    while least < enough:
        middle = (least + enough) // 2
        if looks.hold(gone[:middle]):
            enough = middle
        else:
            least = middle + 1
    needed = list(gone[:enough])
    for one in reversed(gone[: enough - 1]):
        fewer = [other for other in needed if other is not one]
        if looks.hold(fewer):
            needed = fewer
    return needed
