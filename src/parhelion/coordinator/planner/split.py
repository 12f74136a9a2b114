"""How a pipeline's layers are split over its members in a given order: exact, under their memory.

For a bound on the slowest stage, the least sum of all stages is found exactly: by giving layers to
the fastest member first where all layers are alike, else (and where that gives a stage a length
that is forbidden) by dynamic programming over layers. The
bounds that matter are the times that some stage can take: the smallest that works is the min-max
split, and a larger one pays only where a faster member can then take more of the layers and few
streams are wanted.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parhelion.coordinator.planner.objective import Speed, load_of, stream_ms
from parhelion.coordinator.planner.terms import Terms
from parhelion.coordinator.planner.tiling import tiles

ROUNDING = 1e-9
"""Times this close, relative to each other, are the same: sums in another order differ by less."""


class Cut(NamedTuple):
    """Where the layers are cut for an order of members, and what that gives."""

    cost_ms: float
    speed: Speed
    order: tuple[int, ...]
    ends: tuple[int, ...]

    def stages(self) -> list[tuple[int, int, int]]:
        """(member, start, end) of each."""
        starts = (0, *self.ends[:-1])
        return list(zip(self.order, starts, self.ends, strict=True))


def split(
    terms: Terms, order: Sequence[int], streams: int, enough_ms: float = math.inf
) -> Cut | None:
    """The cut that makes what `streams` wait smallest; None where the members cannot hold it.

    Of equally good ones the most even is taken. None as well where it is soon seen that they would
    wait longer than `enough_ms`.
    """
    if not _may_hold(terms, order):
        return None
    if len(order) == 1:
        return cut_of(terms, order, (terms.layers,), streams)
    row = _Row(terms, order)
    in_flight, growth = load_of(streams, len(order))
    counts = row.best(terms.ring_ms(order) / growth, in_flight, enough_ms / growth)
    return None if counts is None else row.cut(counts, streams)


def min_max(terms: Terms, order: Sequence[int]) -> Cut | None:
    """The cut whose slowest stage is fastest; of those the one with the least sum."""
    if len(order) == 1 or not _may_hold(terms, order):
        return split(terms, order, 1)
    row = _Row(terms, order)
    # So heavy that nothing but the slowest stage decides.
    counts = row.best(0.0, 1e6)
    return None if counts is None else row.cut(counts, len(order))


def covered(terms: Terms, order: Sequence[int]) -> int:
    """How many layers from the first on these members hold in this order, of any stage length."""
    start = 0
    last = len(order) - 1
    for place, member in enumerate(order):
        left = last - place
        extra = terms.model.head_bytes if place == 0 else 0
        if place == last:
            extra += terms.model.tail_bytes
        end = min(terms.reach(member, start, extra), terms.layers - left)
        if end <= start:
            return start
        start = end
    return start


def holds(terms: Terms, order: Sequence[int]) -> bool:
    """Whether these can hold the model in this order, a layer each at least."""
    if terms.forbidden and not terms.are_alike:
        # Whoever holds as much as it can may leave none to the next one that this one can hold, and
        # without that one the lengths do not come out.
        return tiles(terms, order)
    enough = covered(terms, order) == terms.layers
    return enough and (not terms.forbidden or tiles(terms, order))


def cut_of(terms: Terms, order: Sequence[int], ends: tuple[int, ...], streams: int) -> Cut:
    """A cut with what it gives."""
    stages = list(zip(order, (0, *ends[:-1]), ends, strict=True))
    speed = terms.speed(stages)
    return Cut(stream_ms(speed, streams), speed, tuple(order), ends)


def _may_hold(terms: Terms, order: Sequence[int]) -> bool:
    return len(order) <= terms.layers and holds(terms, order)


class _Row:
    """Members in their order, every time that a stage of them can take, and the sums under it.

    The sums take each stage's longest run of layers that fits anywhere, and any length: never too
    large, and exact where the counts that they come from fit.
    """

    def __init__(self, terms: Terms, order: Sequence[int]) -> None:
        self.terms = terms
        self.order = order
        last = len(order) - 1
        model = terms.model
        self.extra_bytes = [0] * len(order)
        self.extra_bytes[0] += model.head_bytes
        self.extra_bytes[last] += model.tail_bytes
        self.extra_ms = [0.0] * len(order)
        self.extra_ms[0] += terms.head_ms[order[0]]
        self.extra_ms[last] += terms.tail_ms[order[last]]
        self.layer_ms = [terms.layer_ms[member] for member in order]
        self.fastest = sorted(range(len(order)), key=self.layer_ms.__getitem__)
        self.most = [self._most(place) for place in range(len(order))]
        self.bounds_ms = self._bounds_ms()
        self.limits = self._limits()
        self.sums_ms = self._sums_ms()

    def best(self, ring_ms: float, weight: float, enough_ms: float = math.inf) -> list[int] | None:
        """The counts with the least max(sum + ring, weight * slowest); of those the most even."""
        waits_ms = np.maximum(self.sums_ms + ring_ms, weight * self.bounds_ms)
        if waits_ms.min() * (1 - ROUNDING) > enough_ms:
            return None
        # Among the cheapest the smallest bound stands first.
        at = int(np.argmax(waits_ms <= waits_ms.min() * (1 + ROUNDING)))
        counts = self.counts(at)
        if counts is None or self.fits(counts):
            return counts
        return self.exact(ring_ms, weight)

    def counts(self, at: int) -> list[int] | None:
        """Layers of each stage under a bound: one each, the rest to the fastest first."""
        if not math.isfinite(self.sums_ms[at]):
            return None
        counts = [1] * len(self.order)
        left = self.terms.layers - len(self.order)
        for place in self.fastest:
            more = min(left, int(self.limits[place, at]) - 1)
            counts[place] += more
            left -= more
        return counts

    def fits(self, counts: Sequence[int]) -> bool:
        """Whether every stage may have so many layers and fits its member."""
        if not self.terms.forbidden.isdisjoint(counts):
            return False
        if self.terms.are_alike:
            return True
        ends = list(accumulate(counts, initial=0))
        prefix = self.terms.prefix_bytes
        return all(
            prefix[end] - prefix[start] + extra <= self.terms.free_bytes[member]
            for (start, end), extra, member in zip(
                pairwise(ends), self.extra_bytes, self.order, strict=True
            )
        )

    def cut(self, counts: Sequence[int], streams: int) -> Cut:
        """Counts as a cut."""
        return cut_of(self.terms, self.order, tuple(accumulate(counts)), streams)

    def exact(self, ring_ms: float, weight: float) -> list[int] | None:
        """The best counts where layers differ or lengths are forbidden.

        Sums fall and bounds grow, so it is at their crossing.
        """
        tables = [self._costs_ms(place) for place in range(len(self.order))]
        found: dict[int, float] = {}

        def wait_ms(at: int) -> float:
            if at not in found:
                found[at] = float(self._by_stage(tables, at)[-1].min()) + ring_ms
            return found[at]

        # No wait is shorter than with the sums: what is looked for is not before where it is for
        # them, and mostly not far behind.
        least_ms = (self.sums_ms + ring_ms) * (1 - ROUNDING)
        heavy_ms = weight * self.bounds_ms * (1 + ROUNDING)
        begin = _first_true(np.isfinite(least_ms))
        crossing = _first_from(
            _first_true(least_ms <= heavy_ms),
            len(heavy_ms),
            lambda at: wait_ms(at) <= heavy_ms[at],
        )
        near = [at for at in (crossing - 1, crossing) if begin <= at < len(heavy_ms)]
        best = min(near, key=lambda at: max(wait_ms(at), weight * self.bounds_ms[at]))
        allowed_ms = max(wait_ms(best), weight * self.bounds_ms[best]) * (1 + ROUNDING)
        even = _first_from(
            max(begin, _first_true(least_ms <= allowed_ms)),
            best,
            lambda at: wait_ms(at) <= allowed_ms,
        )
        return self._counts(tables, even) if math.isfinite(wait_ms(even)) else None

    def _most(self, place: int) -> int:
        """The most layers that this place can hold."""
        member = self.order[place]
        if place == 0:
            return self.terms.place_first(member).most
        if place == len(self.order) - 1:
            return self.terms.place_last(member).most
        return self.terms.place(member).most

    def _bounds_ms(self) -> npt.NDArray[np.float64]:
        """Every time that a stage can take and the slowest of all might."""
        least_ms = self.terms.layers / sum(1 / ms for ms in self.layer_ms) * (1 - ROUNDING)
        triples = set(zip(self.layer_ms, self.extra_ms, self.most, strict=True))
        times = {
            time
            for ms, extra, most in triples
            for count in range(max(1, int((least_ms - extra) / ms)), most + 1)
            if (time := extra + count * ms) >= least_ms
        }
        return np.array(sorted(times))

    def _limits(self) -> npt.NDArray[np.int64]:
        """Layers of each place (row) under each bound (column)."""
        extra = np.array(self.extra_ms)[:, None]
        times = (self.bounds_ms * (1 + ROUNDING))[None, :] - extra
        return np.minimum(
            np.array(self.most)[:, None],
            (times / np.array(self.layer_ms)[:, None]).astype(np.int64),
        )

    def _sums_ms(self) -> npt.NDArray[np.float64]:
        """The least sum of all stages under each bound; infinite where none is."""
        left = np.full(len(self.bounds_ms), self.terms.layers - len(self.order))
        sums = np.full(len(self.bounds_ms), sum(self.extra_ms) + sum(self.layer_ms))
        for place in self.fastest:
            more = np.minimum(left, self.limits[place] - 1)
            sums += more * self.layer_ms[place]
            left -= more
        sums[(left > 0) | (self.limits.min(axis=0) < 1)] = np.inf
        return sums

    def _costs_ms(self, place: int) -> npt.NDArray[np.float64]:
        """What layers take here, by their number and where they end; infinite: they cannot be here.

        The first stage's end is its number, the last one's is known: these have one dimension.
        """
        sizes = self.terms.runs.sizes_bytes[: self.most[place]]
        lengths = np.arange(1, self.most[place] + 1)
        if place == 0:
            sizes = sizes.diagonal(1)
        elif place == len(self.order) - 1:
            sizes = sizes[:, -1]
        else:
            lengths = lengths[:, None]
        room = self.terms.free_bytes[self.order[place]] - self.extra_bytes[place]
        fits = sizes <= min(room, self.terms.prefix_bytes[-1])
        return np.where(fits, lengths * self.layer_ms[place], np.inf)

    def _by_stage(
        self, tables: Sequence[npt.NDArray[np.float64]], at: int
    ) -> list[npt.NDArray[np.float64]]:
        """For each stage behind the first, by number and end, its least sum with those before."""
        limits = self.limits[:, at]
        starts = self.terms.runs.starts
        best = np.full(self.terms.layers + 1, np.inf)
        best[1 : limits[0] + 1] = tables[0][: limits[0]] + sum(self.extra_ms)
        found: list[npt.NDArray[np.float64]] = []
        for limit, costs in zip(limits[1:-1], tables[1:-1], strict=True):
            found.append(best[starts[:limit]] + costs[:limit])
            best = found[-1].min(axis=0)
        found.append(best[starts[: limits[-1], -1]] + tables[-1][: limits[-1]])
        return found

    def _counts(self, tables: Sequence[npt.NDArray[np.float64]], at: int) -> list[int]:
        """The layers of each stage with the least sum under a bound."""
        end = self.terms.layers
        counts: list[int] = []
        for sums in reversed(self._by_stage(tables, at)):
            of_end = sums if sums.ndim == 1 else sums[:, end]
            counts.append(int(of_end.argmin()) + 1)
            end -= counts[-1]
        return [end, *reversed(counts)]


def _first_true(flags: npt.NDArray[np.bool_]) -> int:
    """Where the first one is; behind the last for none."""
    at = int(flags.argmax())
    return at if flags[at] else len(flags)


def _first_from(begin: int, end: int, is_enough: Callable[[int], bool]) -> int:
    """The first that is enough, `end` for none; quick where it is near: all behind it are too."""
    step = 1
    while begin < end and not is_enough(min(begin + step, end) - 1):
        begin = min(begin + step, end)
        step *= 2
    return bisect_left(range(min(begin + step, end)), True, lo=min(begin, end), key=is_enough)
