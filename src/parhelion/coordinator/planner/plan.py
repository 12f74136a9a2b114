"""plan(pool): which members form which pipelines, and what a model without one lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from parhelion.coordinator.planner.objective import mean_stream_ms
from parhelion.coordinator.planner.order import any_order, arranged
from parhelion.coordinator.planner.pack import NEAR_CHOICES, Groups, most_groups, packed
from parhelion.coordinator.planner.search import Search
from parhelion.coordinator.planner.shape import (
    Member,
    ModelShape,
    Pipeline,
    Plan,
    Pool,
    Stage,
    Unplaced,
)
from parhelion.coordinator.planner.split import Cut
from parhelion.coordinator.planner.terms import Terms, terms_of
from parhelion.coordinator.planner.tiling import begins_of_last, in_words, may_tile

SMALL_POOL = 16
"""Up to so many members every number of pipelines is tried, and every pipeline is improved."""

LOOKS_SMALL = 600
LOOKS_LARGE = 30
"""Groups that are arranged beyond those of the packing: what 32 members in 50 ms allow."""

IMPROVED_LIMIT = 2
"""Of all packings so many, the best as they are, are improved further."""

POLISHED_LIMIT = 32
"""Of the pipelines chosen so many are arranged with more care: in larger pools all are alike."""

STEP_DIVISOR = 32
"""From the most pipelines down, by one and, in large pools, by a 32nd: the packing is greedy, and
one more pipeline of a hundred is not worth a hundred packings."""

Stages = tuple[Stage, ...]


def plan(pool: Pool) -> Plan:
    """A plan for every model of the pool; the same pool gives the same plan.

    Of several models the largest chooses first and takes one pipeline; when each has had its turn,
    what is left goes to them by their demand.
    """
    models = sorted(pool.models, key=lambda model: (-model.whole_bytes, model.digest))
    at_most = None if len(models) == 1 else 1
    left: Sequence[Member] = pool.members
    made: list[tuple[ModelShape, Stages]] = []
    unplaced: list[Unplaced] = []
    for model in models:
        found = placed(model, pool, left, at_most)
        if not found:
            unplaced.append(lacking(model, pool, left))
        made += [(model, stages) for stages in found]
        left = without(left, found)
    if at_most is not None:
        for model in sorted(models, key=lambda model: -pool.streams_of(model.digest)):
            found = placed(model, pool, left)
            made += [(model, stages) for stages in found]
            left = without(left, found)
    return Plan(
        epoch=1,
        pipelines=tuple(
            Pipeline(id=pipeline_id(number), digest=model.digest, stages=stages)
            for number, (model, stages) in enumerate(made, start=1)
        ),
        standby=tuple(sorted(member.peer for member in left)),
        unplaced=tuple(unplaced),
        minted=len(made),
    )


def pipeline_id(number: int) -> str:
    """The id of the n-th pipeline that was ever made under a plan."""
    return f"pipeline-{number}"


def without(members: Iterable[Member], found: Iterable[Stages]) -> list[Member]:
    """The members that are in none of these pipelines."""
    taken = {stage.peer for stages in found for stage in stages}
    return [member for member in members if member.peer not in taken]


def placed(
    model: ModelShape, pool: Pool, members: Sequence[Member], at_most: int | None = None
) -> list[Stages]:
    """The stages of the best pipelines of a model on these members; none where it has no room."""
    terms = terms_of(model, pool, members)
    everyone = [member for member in range(len(terms.peers)) if terms.may_hold(member)]
    room_bytes = sum(terms.free_bytes[member] for member in everyone)
    if not terms.layers or room_bytes < model.whole_bytes or not may_tile(terms, everyone):
        return []
    plans = [cuts[:at_most] for cuts in _candidates(terms, everyone) if cuts]
    if not plans:
        return []
    best = _polished(terms, min(plans, key=lambda cuts: _key(terms, cuts)))
    return [stages_of(terms, cut) for cut in best]


def stages_of(terms: Terms, cut: Cut) -> Stages:
    """A cut by peer ids."""
    return tuple(Stage(terms.peers[member], *layers) for member, *layers in cut.stages())


def lacking(
    model: ModelShape, pool: Pool, members: Sequence[Member], who: str = "free members"
) -> Unplaced:
    """What a model needs that these members cannot hold, in bytes that one more must offer.

    No bytes are said where all that could be added is a stage of a forbidden length. `who` is what
    the members are called.
    """
    terms = terms_of(model, pool, members)
    if not terms.layers:
        return Unplaced(digest=model.digest, missing_bytes=0, reason="it has no layers")
    usable = _roomiest(terms)
    held = _reached(terms, usable)
    begins = [held] if not terms.forbidden else begins_of_last(terms, usable)
    missing = terms.stage_bytes(begins[-1], terms.layers) if begins else 0
    reason = (
        f"{len(usable)} of {len(members)} {who} can hold a layer of it, "
        f"{_together(terms, members, held)}; "
    )
    if begins:
        # Rounded up: who gives just this is enough.
        room = f"{-(-missing // 2**20)} MiB" if missing >= 2**20 else f"{missing} bytes"
        reason += f"one more with {room} for layers, beside what its process takes, would do"
    else:
        reason += "no single one more was found that would do"
    return Unplaced(digest=model.digest, missing_bytes=missing, reason=reason)


def _roomiest(terms: Terms) -> list[int]:
    """Who can hold layers, those with most memory first."""
    usable = [member for member in range(len(terms.peers)) if terms.may_hold(member)]
    return sorted(usable, key=lambda member: (-terms.free_bytes[member], terms.peers[member]))


def _together(terms: Terms, members: Sequence[Member], held: int) -> str:
    """What members hold together, and what keeps them from more if it is not their memory."""
    if not terms.forbidden:
        return f"together {held} of {terms.layers} layers"
    any_length = terms_of(
        msgspec.structs.replace(terms.model, forbidden_lengths=()), terms.pool, members
    )
    usable = _roomiest(any_length)
    lengths = in_words(terms.forbidden)
    if any_order(any_length, usable) is None:
        return f"together {held} of {terms.layers} layers, and no stage may have {lengths}"
    return f"together all {terms.layers}, but only in stages that may not be: of {lengths} layers"


def _reached(terms: Terms, order: Sequence[int]) -> int:
    """Layers that these hold before one more that would be the last stage."""
    end = 0
    for member in order[: terms.layers - 1]:
        end = terms.reach(member, end, terms.model.head_bytes if end == 0 else 0)
    return min(end, terms.layers - 1)


def _candidates(terms: Terms, everyone: list[int]) -> Iterator[list[Cut]]:
    """Sets of pipelines worth comparing: packed from the most down, and the best one by one."""
    small = len(everyone) <= SMALL_POOL
    search = Search(terms, LOOKS_SMALL if small else LOOKS_LARGE)
    most = most_groups(terms, everyone)
    few = -(-terms.streams // max(1, most))
    for share in sorted({few, terms.streams}) if small else [few]:
        yield _one_by_one(search, everyone, share, at_most=None if small else 1)
    begun = sorted(_packings(search, everyone, most), key=lambda cuts: _key(terms, cuts))
    for cuts in begun[:IMPROVED_LIMIT]:
        yield _improved(search, everyone, cuts)


def _packings(search: Search, members: Sequence[int], most: int) -> Iterator[list[Cut]]:
    """Members packed into as many pipelines as they can form; in a small pool also into fewer."""
    count = most
    while count > 0:
        found = False
        for near in (1, NEAR_CHOICES):
            groups = packed(search.terms, members, count, near)
            if groups is not None:
                found = True
                yield _cuts(search, groups)
        if found and len(members) > SMALL_POOL:
            return
        count -= max(1, most // STEP_DIVISOR)


def _cuts(search: Search, groups: Groups) -> list[Cut]:
    share = -(-search.terms.streams // len(groups))
    return [cut for group in groups if (cut := search.best_cut(group, share)) is not None]


def _one_by_one(
    search: Search, members: Sequence[int], share: int, at_most: int | None
) -> list[Cut]:
    """The best pipeline, then the best of what is left, and so on; the rest is packed."""
    cuts: list[Cut] = []
    left = list(members)
    while at_most is None or len(cuts) < at_most:
        cut = search.best_single(left, share)
        if cut is None:
            return cuts
        cuts.append(cut)
        left = [member for member in left if member not in cut.order]
    more = next(_packings(search, left, most_groups(search.terms, left)), [])
    return [*cuts, *more]


def _improved(search: Search, members: Sequence[int], begun: Sequence[Cut]) -> list[Cut]:
    """Packed pipelines, each improved by what no other uses; and more of what is left."""
    cuts = list(begun)
    share = -(-search.terms.streams // len(cuts))
    free = set(members).difference(*(cut.order for cut in cuts))
    for place, cut in enumerate(cuts):
        if not free or search.looks_left <= 0:
            break
        free |= set(cut.order)
        cuts[place] = search.improved(cut, sorted(free), share)
        free -= set(cuts[place].order)
    if len(members) <= SMALL_POOL:
        cuts += _one_by_one(search, sorted(free), share, at_most=None)
    return cuts


def _polished(terms: Terms, cuts: list[Cut]) -> list[Cut]:
    """The same members, each pipeline with more first and last stages tried; never worse."""
    share = -(-terms.streams // len(cuts))
    for place, cut in enumerate(cuts[:POLISHED_LIMIT]):
        found = arranged(terms, cut.order, share)
        tried = cuts if found is None else [*cuts[:place], found, *cuts[place + 1 :]]
        cuts = min(cuts, tried, key=lambda one: _key(terms, one))
    return cuts


def _key(terms: Terms, cuts: Sequence[Cut]) -> tuple[float, float, int]:
    """What the streams wanted wait; then all that the pool can give; then few members."""
    waited_ms = mean_stream_ms([cut.speed for cut in cuts], terms.streams)
    rate = sum(1 / cut.speed.bottleneck_ms for cut in cuts)
    members = sum(len(cut.order) for cut in cuts)
    return (_rounded(waited_ms), -_rounded(rate), members)


def _rounded(value: float) -> float:
    """Nine digits: sums in another order differ by less, and must not decide."""
    return float(f"{value:.9g}")
