"""The numbers of one model on one pool's members: what each holds, what each takes, each hop."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parhelion.coordinator.planner.objective import Speed
from parhelion.coordinator.planner.shape import Member, ModelShape, Pool

LAYER_MS_UNKNOWN = 1.0
"""A layer's time where no member was measured: any number gives the same plan."""


class Place(NamedTuple):
    """A member in a pipeline: its time for a layer, how many it can hold, what comes on top."""

    layer_ms: float
    most: int
    extra_ms: float = 0.0


class Runs(NamedTuple):
    """Layers in a row, by their number less one (row) and where they end (column)."""

    starts: npt.NDArray[np.intp]
    sizes_bytes: npt.NDArray[np.int64]
    """More than any where there are none, or where no stage may have so many layers."""


@dataclass(slots=True)
class Terms:
    """Members are indices here, in the order of their peer ids: that is how ties are broken.

    Every answer about memory counts whole layers. `joined` are the peers in joining order.
    """

    model: ModelShape
    pool: Pool
    peers: list[str]
    joined: list[str]
    free_bytes: list[int]
    layer_ms: list[float]
    head_ms: list[float]
    tail_ms: list[float]
    streams: int
    prefix_bytes: list[int]
    """Bytes of the layers before each, with their KV memory."""
    smallest_bytes: int
    largest_bytes: int
    room: list[int]
    """Layers that each member can hold wherever they lie: exact where all layers are alike. None
    where all so few are forbidden; else of any number, for groups that make up for each other."""
    forbidden: frozenset[int] = frozenset()
    """Lengths that no stage may have; `tiling` is needed where there are any."""
    ends: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    all_runs: Runs | None = None
    places: dict[int, Place] = field(default_factory=dict[int, Place])
    hops_ms: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    @property
    def layers(self) -> int:
        """How many the model has."""
        return len(self.prefix_bytes) - 1

    @property
    def are_alike(self) -> bool:
        """Whether all layers take as much memory."""
        return self.smallest_bytes == self.largest_bytes

    def hop_ms(self, one: int, other: int) -> float:
        """One way between two members: half of their round trip."""
        found = self.hops_ms.get((one, other))
        if found is None:
            lower, higher = sorted((self.peers[one], self.peers[other]))
            measured = self.pool.rtt(lower, higher)
            known = measured is not None and math.isfinite(measured) and measured >= 0
            found = (measured if known and measured is not None else self.pool.rtt_unknown_ms) / 2
            self.hops_ms[one, other] = self.hops_ms[other, one] = found
        return found

    def ring_ms(self, order: Sequence[int]) -> float:
        """A token's way through the stages and its id's way back; nothing for one stage."""
        if len(order) < 2:
            return 0.0
        ends = zip(order, [*order[1:], order[0]], strict=True)
        return sum(self.hop_ms(one, other) for one, other in ends)

    def reach(self, member: int, start: int, extra_bytes: int = 0) -> int:
        """The end of the longest stage from `start` that this member can hold."""
        room = self.free_bytes[member] - extra_bytes
        if room < 0:
            return start
        return max(start, bisect_right(self.prefix_bytes, self.prefix_bytes[start] + room) - 1)

    @property
    def runs(self) -> Runs:
        """Every run of layers."""
        if self.all_runs is None:
            prefix = np.array(self.prefix_bytes, dtype=np.int64)
            ends = np.arange(len(prefix))[None, :]
            lengths = np.arange(1, len(prefix))[:, None]
            starts = np.maximum(0, ends - lengths)
            allowed = np.isin(lengths, list(self.forbidden), invert=True) & (lengths <= ends)
            sizes = np.where(allowed, prefix[ends] - prefix[starts], np.iinfo(np.int64).max)
            self.all_runs = Runs(starts, sizes)
        return self.all_runs

    def place(self, member: int) -> Place:
        """It between others, with the most layers in a row that it can hold wherever they lie."""
        found = self.places.get(member)
        if found is None:
            most = self.room_beside(member, 0)
            if not self.are_alike:
                most = max(self.reach(member, start) - start for start in range(self.layers))
            found = self.places[member] = Place(self.layer_ms[member], self.allowed(most))
        return found

    def place_first(self, member: int) -> Place:
        """It as the first of several."""
        most = self.allowed(self.reach(member, 0, self.model.head_bytes))
        return Place(self.layer_ms[member], most, self.head_ms[member])

    def place_last(self, member: int) -> Place:
        """It as the last of several."""
        most = self.allowed(self.layers - self.tail_start(member))
        return Place(self.layer_ms[member], most, self.tail_ms[member])

    def tail_start(self, member: int) -> int:
        """Where the longest last stage begins that this member can hold; `layers` for none."""
        room = self.free_bytes[member] - self.model.tail_bytes
        if room < 0:
            return self.layers
        return bisect_left(self.prefix_bytes, self.prefix_bytes[-1] - room)

    def room_beside(self, member: int, extra_bytes: int) -> int:
        """Layers that it can hold beside so much more, wherever they lie."""
        room_bytes = self.free_bytes[member] - extra_bytes
        return max(0, min(self.layers, room_bytes // self.largest_bytes))

    def may_hold(self, member: int) -> bool:
        """Whether there are layers that it can hold."""
        return self.place(member).most > 0

    def holds_whole(self, member: int) -> bool:
        """Whether it can serve the model alone."""
        extra = self.model.head_bytes + self.model.tail_bytes
        return self.reach(member, 0, extra) == self.layers and self.allows(self.layers)

    def allows(self, length: int) -> bool:
        """Whether a stage may have so many layers."""
        return length not in self.forbidden

    def allowed(self, most: int) -> int:
        """The longest that a stage of at most so many layers may be; 0 for none."""
        while most in self.forbidden:
            most -= 1
        return most

    @property
    def shortest(self) -> int:
        """The fewest layers that a stage may have; one more than there are for none."""
        return next(n for n in range(1, self.layers + 2) if self.allows(n))

    def stage_bytes(self, start: int, end: int) -> int:
        """What a stage needs beside its member's own overhead."""
        first = self.model.head_bytes if start == 0 else 0
        last = self.model.tail_bytes if end == self.layers else 0
        return self.prefix_bytes[end] - self.prefix_bytes[start] + first + last

    def stage_ms(self, member: int, start: int, end: int) -> float:
        """What a stage takes of one sequence's step."""
        first = self.head_ms[member] if start == 0 else 0.0
        last = self.tail_ms[member] if end == self.layers else 0.0
        return (end - start) * self.layer_ms[member] + first + last

    def speed(self, stages: Sequence[tuple[int, int, int]]) -> Speed:
        """What decides how fast these stages are together."""
        ring_ms = self.ring_ms([stage[0] for stage in stages])
        times = [self.stage_ms(*stage) for stage in stages]
        return Speed(sum(times) + ring_ms, ring_ms, max(times), len(times))


def terms_of(model: ModelShape, pool: Pool, members: Iterable[Member] | None = None) -> Terms:
    """The numbers of a model on these members of a pool; all that may serve it if none are said.

    An unknown time is the median of the known ones, of two the shorter: who was never tried is not
    shunned for another one's slowness.
    """
    joined = [
        member
        for member in (pool.members if members is None else members)
        if member.digests is None or model.digest in member.digests
    ]
    chosen = sorted(joined, key=lambda member: member.peer)
    digest = model.digest
    known = sorted(ms for member in pool.members if (ms := _measured(member.ms_of(digest))))
    middle_ms = known[(len(known) - 1) // 2] if known else LAYER_MS_UNKNOWN
    layer_ms = [_measured(member.ms_of(digest)) or middle_ms for member in chosen]
    each = [max(1, size + model.kv_bytes) for size in model.layer_bytes]
    pairs = list(zip(chosen, layer_ms, strict=True))
    beside_bytes = [member.overhead_bytes + model.buffer_bytes for member in chosen]
    free_bytes = [
        member.memory_bytes - beside for member, beside in zip(chosen, beside_bytes, strict=True)
    ]
    largest = max(each, default=1)
    terms = Terms(
        model=model,
        pool=pool,
        peers=[member.peer for member in chosen],
        free_bytes=free_bytes,
        layer_ms=layer_ms,
        head_ms=[_extra(member.head_ms, ms * model.head_layers) for member, ms in pairs],
        tail_ms=[_extra(member.tail_ms, ms * model.tail_layers) for member, ms in pairs],
        joined=[member.peer for member in joined],
        streams=pool.streams_of(model.digest),
        prefix_bytes=[0, *accumulate(each)],
        smallest_bytes=min(each, default=1),
        largest_bytes=largest,
        room=[],
        forbidden=frozenset(n for n in model.forbidden_lengths if 0 < n <= len(each)),
    )
    rooms = [terms.room_beside(member, 0) for member in range(len(chosen))]
    terms.room += [room if terms.allowed(room) else 0 for room in rooms]
    return terms


def _measured(ms: float | None) -> float | None:
    """A time that a clock can have shown: what a node says of itself may be anything."""
    return ms if ms is not None and math.isfinite(ms) and ms > 0 else None


def _extra(ms: float | None, otherwise_ms: float) -> float:
    return ms if ms is not None and math.isfinite(ms) and ms >= 0 else otherwise_ms
