"""Which members can hold a model of which some stage lengths are forbidden.

Without such lengths a set of members is known by how far it reaches: who holds layers [a, c) holds
[b, c) as well. With them a stage may have to stop earlier, so every end that can be reached counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from parhelion.coordinator.planner.terms import Terms

SOME_LIMIT = 14
"""Members of which every set is looked at: 16,384 sets, about 0.1 s where nothing quicker helps."""

ALL_LIMIT = 8
"""The same where just one group is looked at, of many: 256 sets, a few milliseconds."""

WORDS_LIMIT = 5

Most = Callable[[Terms, int], tuple[int, int, int]]
"""How many layers a member can hold at most: between others, as the first, as the last."""

Bits = int
"""A set of layer numbers, or of lengths: number n is in it where bit n is 1."""


def tiles(terms: Terms, order: Sequence[int]) -> bool:
    """Whether these, in this order, can hold all layers with a stage of an allowed length each."""
    ends = 1
    for member in order:
        ends = _next(terms, ends, member)
    return ends >> terms.layers & 1 == 1


def _next(terms: Terms, ends: Bits, member: int) -> Bits:
    """Where a stage of this member can end behind those that end there."""
    table = _ends_of(terms, member)
    return _union(table[start] for start in _numbers(ends))


def _ends_of(terms: Terms, member: int) -> list[Bits]:
    """For each first layer where a stage of this member can end; the last entry has none."""
    found = terms.ends.get(member)
    if found is None:
        found = [_ends_from(terms, member, start) for start in range(terms.layers)] + [0]
        terms.ends[member] = found
    return found


def ends_of(terms: Terms, member: int, start: int, most: int) -> list[int]:
    """Where a stage of this member from there on can end, the last one first; so many at most."""
    ends, found = _ends_of(terms, member)[start], list[int]()
    while ends and len(found) < most:
        found.append(ends.bit_length() - 1)
        ends ^= 1 << found[-1]
    return found


def begins_of_last(terms: Terms, members: Sequence[int]) -> list[int]:
    """Where one more member could begin as the last stage, behind some of the first of these."""
    begins = ends = 1
    for member in members[: terms.layers - 1]:
        ends = _next(terms, ends, member)
        begins |= ends
    before = begins & ~(1 << terms.layers)
    return [start for start in _numbers(before) if terms.allows(terms.layers - start)]


def in_words(lengths: Collection[int]) -> str:
    """The forbidden lengths for a person, who reads no more than a few."""
    said = [str(length) for length in sorted(lengths)]
    if len(said) > WORDS_LIMIT:
        said[WORDS_LIMIT:] = [f"{len(said) - WORDS_LIMIT} other numbers"]
    return " or ".join(said)


def may_tile(terms: Terms, members: Sequence[int]) -> bool:
    """False where the lengths that are allowed cannot come to all layers, whoever is where."""
    if not terms.forbidden or any(terms.holds_whole(member) for member in members):
        return True
    return _by_sums(terms, members, _hoped, all_of_them=False) is not None


def order_of_all(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """An order in which all of these hold the model; None if none was found.

    Exact where all layers are alike, and for few members.
    """
    found = _by_sums(terms, members, _sure, all_of_them=True)
    if found is None and not terms.are_alike and len(members) <= ALL_LIMIT:
        found = _by_sets(terms, members, all_of_them=True)
    return found


def order_of_some(terms: Terms, members: Sequence[int]) -> tuple[int, ...] | None:
    """Some of these in an order that holds the model, those that come first if they can.

    Exact where all layers are alike, and for few members.
    """
    found = _by_sums(terms, members, _sure, all_of_them=False)
    if found is None and not terms.are_alike and len(members) <= SOME_LIMIT:
        found = _by_sets(terms, members, all_of_them=False)
    return found


def _ends_from(terms: Terms, member: int, start: int) -> Bits:
    end = terms.reach(member, start, terms.model.head_bytes if start == 0 else 0)
    if end == terms.layers and terms.stage_bytes(start, end) > terms.free_bytes[member]:
        end -= 1
    return _up_to(end - start, terms) << start


def _up_to(most: int, terms: Terms) -> Bits:
    """The allowed lengths of at most so many layers."""
    return ((1 << (max(0, most) + 1)) - 2) & ~sum(1 << length for length in terms.forbidden)


def _by_sums(
    terms: Terms, members: Sequence[int], most: Most, *, all_of_them: bool
) -> tuple[int, ...] | None:
    """First, last and the others by the sums of their lengths, as if layers were all alike.

    `sums[place][ends]` are the sums that members before a place can have; where `ends` has 1 in it,
    a first stage is among them, with 2 a last one.
    """
    if len(members) == 1:
        return (members[0],) if tiles(terms, members) else None
    lengths = [_lengths(terms, *most(terms, member)) for member in members]
    every = (1 << (terms.layers + 1)) - 1
    sums: list[list[Bits]] = [[1, 0, 0, 0]]
    for middle, first, last in lengths:
        had = sums[-1]
        now = [0] * 4 if all_of_them else list(had)
        for ends in range(4):
            now[ends] |= _plus(had[ends], middle)
            if ends & 1:
                now[ends] |= _plus(had[ends ^ 1], first)
            if ends & 2:
                now[ends] |= _plus(had[ends ^ 2], last)
        sums.append([one & every for one in now])
        if not all_of_them and sums[-1][3] >> terms.layers & 1:
            break
    if not sums[-1][3] >> terms.layers & 1:
        return None
    return _traced(members, lengths, sums, terms.layers, all_of_them=all_of_them)


def _traced(
    members: Sequence[int],
    lengths: Sequence[tuple[Bits, Bits, Bits]],
    sums: Sequence[Sequence[Bits]],
    layers: int,
    *,
    all_of_them: bool,
) -> tuple[int, ...]:
    """Who has which part in the sums that come to all layers, from the last member back."""
    roles: dict[int, list[int]] = {0: [], 1: [], 2: []}
    left, ends = layers, 3
    for place in range(len(sums) - 2, -1, -1):
        had = sums[place]
        if not all_of_them and had[ends] >> left & 1:
            continue
        role, length = next(
            (role, length)
            for role, allowed in enumerate(lengths[place])
            if role & ends == role
            for length in _numbers(allowed)
            if length <= left and had[ends ^ role] >> (left - length) & 1
        )
        roles[role].append(members[place])
        left, ends = left - length, ends ^ role
    return (*roles[1], *reversed(roles[0]), *roles[2])


def _lengths(terms: Terms, middle: int, first: int, last: int) -> tuple[Bits, Bits, Bits]:
    return _up_to(middle, terms), _up_to(first, terms), _up_to(last, terms)


def _sure(terms: Terms, member: int) -> tuple[int, int, int]:
    """What it can hold, of any layers, between others, as the first and as the last of several."""
    first = terms.room_beside(member, terms.model.head_bytes)
    return terms.room[member], first, terms.room_beside(member, terms.model.tail_bytes)


def _hoped(terms: Terms, member: int) -> tuple[int, int, int]:
    """The same of those layers that are smallest; all one where layers are alike."""
    first, last = terms.place_first(member).most, terms.place_last(member).most
    return terms.place(member).most, first, last


def _by_sets(terms: Terms, members: Sequence[int], *, all_of_them: bool) -> tuple[int, ...] | None:
    """Every set of members with every end that it can reach in some order, smaller sets first."""
    steps = [_steps(terms, member) for member in members]
    reach = np.zeros((1 << len(members), terms.layers + 1), dtype=np.float32)
    reach[0, 0] = 1
    masks = np.arange(1 << len(members))
    sizes = sum((masks >> place & 1 for place in range(len(members))), np.zeros_like(masks))
    for size in range(1, len(members) + 1):
        for place, step in enumerate(steps):
            chosen = masks[(sizes == size) & (masks >> place & 1 == 1)]
            more = reach[chosen ^ (1 << place)] @ step > 0
            reach[chosen] = np.maximum(reach[chosen], more)
        whole = masks[(sizes == size) & (reach[:, -1] > 0)]
        if len(whole) and (not all_of_them or size == len(members)):
            return _order_of(members, steps, reach, int(whole[0]))
    return None


def _steps(terms: Terms, member: int) -> npt.NDArray[np.float32]:
    """Row: first layer, column: end; 1 where a stage of this member can be there."""
    prefix = np.array(terms.prefix_bytes, dtype=np.int64)
    sizes = prefix[None, :] - prefix[:, None]
    sizes[0] += terms.model.head_bytes
    sizes[:, -1] += terms.model.tail_bytes
    lengths = np.arange(len(prefix))[None, :] - np.arange(len(prefix))[:, None]
    allowed = (lengths > 0) & np.isin(lengths, list(terms.forbidden), invert=True)
    return (allowed & (sizes <= terms.free_bytes[member])).astype(np.float32)


def _order_of(
    members: Sequence[int],
    steps: Sequence[npt.NDArray[np.float32]],
    reach: npt.NDArray[np.float32],
    mask: int,
) -> tuple[int, ...]:
    order: list[int] = []
    end = reach.shape[1] - 1
    while mask:
        place, start = next(
            (place, int(np.argmax(starts)))
            for place, step in enumerate(steps)
            if mask >> place & 1 and (starts := reach[mask ^ (1 << place)] * step[:, end] > 0).any()
        )
        order.append(members[place])
        mask, end = mask ^ (1 << place), start
    return tuple(reversed(order))


def _numbers(bits: Bits) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _union(sets: Iterator[Bits]) -> Bits:
    found = 0
    for one in sets:
        found |= one
    return found


def _plus(sums: Bits, lengths: Bits) -> Bits:
    """Every sum of one of each."""
    if not sums:
        return 0
    return _union(sums << length for length in _numbers(lengths))
