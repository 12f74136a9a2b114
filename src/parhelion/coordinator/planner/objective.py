"""What the planner makes small: the mean time from token to token of the streams wanted.

One stream passes all stages and the ring for each token. With more streams there is one micro-batch
a stage in flight, so that stages work at once; then a token takes a stream

    max(growth * stages + ring, in_flight * growth * slowest stage)

where `in_flight` is the number of micro-batches and `growth` what a step of one takes, compared to
a step of a single sequence. So one stream alone counts its own way only, and as soon as every stage
has a stream of its own an uneven split counts as far as the ring's idle time does not hide it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

BATCH_SHARE = 0.25
"""What each further sequence of a step costs, of the first: eight cost 2.75 of one. An assumption
between a GPU, where they cost hardly more than one, and a CPU without a gain from batching."""


class Speed(NamedTuple):
    """What decides how fast a pipeline is; `token_ms` is all stages and the ring."""

    token_ms: float
    ring_ms: float
    bottleneck_ms: float
    stages: int


class Load(NamedTuple):
    """How many micro-batches are in flight, and how much longer a step takes than with one row."""

    in_flight: int
    growth: float


def load_of(streams: int, stages: int) -> Load:
    """So many streams on so many stages."""
    in_flight = min(streams, stages)
    return Load(in_flight, 1 + BATCH_SHARE * (streams / in_flight - 1))


def stream_ms(speed: Speed, streams: int) -> float:
    """What each of so many streams of one pipeline waits for a token."""
    in_flight, growth = load_of(streams, speed.stages)
    alone_ms = growth * (speed.token_ms - speed.ring_ms) + speed.ring_ms
    return max(alone_ms, in_flight * growth * speed.bottleneck_ms)


def mean_stream_ms(speeds: Iterable[Speed], streams: int) -> float:
    """The mean over streams, each given to the pipeline where it adds least; infinite for none."""

    def added_ms(speed: Speed, had: int) -> float:
        before = had * stream_ms(speed, had) if had else 0.0
        return (had + 1) * stream_ms(speed, had + 1) - before

    heap = [(added_ms(speed, 0), place, 0, speed) for place, speed in enumerate(speeds)]
    if not heap:
        return float("inf")
    heapq.heapify(heap)
    total_ms = 0.0
    for _ in range(streams):
        cost_ms, place, had, speed = heap[0]
        total_ms += cost_ms
        heapq.heapreplace(heap, (added_ms(speed, had + 1), place, had + 1, speed))
    return total_ms / streams
