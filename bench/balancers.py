"""Which node a balancer chooses as reverse proxies do, when a request comes; pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class RoundRobin:
    """Nodes in turn, whatever they do."""

    def __init__(self, slots: Sequence[int]) -> None:
        self._slots = slots
        self._connections = [0] * len(slots)
        self._turns = itertools.cycle(range(len(slots)))

    @contextmanager
    def connection(self) -> Iterator[int]:
        """The number of the node that the next request goes to; it counts until it is over."""
        number = self._choose()
        self._connections[number] += 1
        try:
            yield number
        finally:
            self._connections[number] -= 1

    def _choose(self) -> int:
        return next(self._turns)


class LeastConnections(RoundRobin):
    """The node with the fewest requests, running or in line, for its slots; the first of equals
    in turn."""

    def _choose(self) -> int:
        turn = next(self._turns)
        count = len(self._slots)
        order = [(turn + step) % count for step in range(count)]
        return min(order, key=lambda number: self._connections[number] / self._slots[number])
