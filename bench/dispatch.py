"""A simulated pool under closed-loop load: the coordinator's own dispatch, and two balancers.

Time is virtual, so an hour takes seconds and a seed gives the same run again. Queue, router, speeds
and slots are the coordinator's own code; only links, engines and money are not there. The balancers
do what a reverse proxy does: they choose a node when a request comes, and it waits there in line.

`python -m bench.dispatch [--seeds N] [--requests N]`
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import selectors
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.balancers import LeastConnections, RoundRobin
from parhelion.config import NodesConfig
from parhelion.coordinator.lengths import Lengths
from parhelion.coordinator.pace import Pace
from parhelion.coordinator.place import Places
from parhelion.coordinator.queue import Queue
from parhelion.coordinator.registry import Node, Registry, Room
from parhelion.coordinator.route import Need
from parhelion.words import NodeCard, ProblemCode, ServedModel

DIGEST = "d" * 64
MAX_TOKENS = 512
MEAN_TOKENS = 100
PROMPT_TOKENS = 50
BATCH_IDS = 5
"""Ids that a simulated node sends at a time: fewer only make the simulation slower."""

BEAT_S = 2.0


@dataclass(frozen=True)
class Kind:
    """A simulated node: its pace alone, how much slower a stream is with full slots, its slots."""

    tokens_per_s: float
    slowdown: float = 1.0
    slots: int = 8

    def step_s(self, streams: int) -> float:
        """Seconds between two ids of a stream beside `streams - 1` others."""
        share = (streams - 1) / max(1, self.slots - 1)
        return (1 + (self.slowdown - 1) * share) / self.tokens_per_s


@dataclass
class Outcome:
    """What a run saw after its warm-up: seconds from ask to end, and ids by node."""

    finish_s: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def percentile_s(self, share: float) -> float:
        """That share of the requests were finished within so many seconds."""
        ordered = sorted(self.finish_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def mean_s(self) -> float:
        return sum(self.finish_s) / len(self.finish_s)

    def shares(self) -> list[float]:
        """Each node's share of all ids."""
        return [count / sum(self.ids) for count in self.ids]


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Let so much time have passed."""
        self._now_s += seconds

    # The coordinator's Clock:

    def monotonic_s(self) -> float:
        return self._now_s

    def now_ms(self) -> int:
        return int(self._now_s * 1000)


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self._loop.jump(timeout)
        return super().select(0)


class Dispatch(Protocol):
    """A way to run a request of so many ids; returns the number of the node that ran it."""

    async def run(self, ids: int) -> int: ...


class Machine:
    """A simulated engine; `streams` run on it."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.streams = 0

    async def stream(self, ids: int, made: Callable[[int], None] = lambda _count: None) -> None:
        """Make so many ids; `made` hears of every batch."""
        self.streams += 1
        try:
            left = ids
            while left:
                batch = min(BATCH_IDS, left)
                await asyncio.sleep(batch * self.kind.step_s(self.streams))
                left -= batch
                made(batch)
        finally:
            self.streams -= 1


class Balanced:
    """A balancer before the machines, each of which has a line of its own."""

    def __init__(self, kinds: Sequence[Kind], balancer: RoundRobin) -> None:
        self._machines = [Machine(kind) for kind in kinds]
        self._slots = [asyncio.Semaphore(kind.slots) for kind in kinds]
        self._balancer = balancer

    async def run(self, ids: int) -> int:
        with self._balancer.connection() as number:
            async with self._slots[number]:
                await self._machines[number].stream(ids)
        return number


class OneLine(Balanced):
    """The same with one line for all: the first in it gets the next slot that comes free."""

    def __init__(self, kinds: Sequence[Kind], balancer: RoundRobin) -> None:
        super().__init__(kinds, balancer)
        self._any = asyncio.Semaphore(sum(kind.slots for kind in kinds))

    async def run(self, ids: int) -> int:
        async with self._any:
            return await super().run(ids)


class Ours:
    """The coordinator's places over simulated nodes, measured by their ids alone."""

    def __init__(self, kinds: Sequence[Kind], loop: VirtualTime) -> None:
        self.machines = [Machine(kind) for kind in kinds]
        self.loop = loop
        self.registry = Registry(NodesConfig(), 1, lambda: None)
        self.places = Places(
            self.registry, Queue(10_000, 10_000), loop, lambda _node, _digest: None
        )
        self.lengths = Lengths()
        self.nodes = [sim_node(f"n{number}", kind) for number, kind in enumerate(kinds)]
        for node in self.nodes:
            self.registry.enter(Seated(node))
        self._beat()

    async def run(self, ids: int) -> int:
        expected = self.lengths.expected(DIGEST, MAX_TOKENS)
        need = Need(DIGEST, PROMPT_TOKENS, MAX_TOKENS, expected_tokens=expected)
        node = await self.places.place(need, "account", 1e6).got
        number = self.nodes.index(node)
        pace = Pace(node, DIGEST, PROMPT_TOKENS, 0, 0, self.loop.monotonic_s())
        await self.machines[number].stream(
            ids, lambda count: pace.made(count, self.loop.monotonic_s())
        )
        now_s = self.loop.monotonic_s()
        pace.close(now_s, 0)
        node.rooms[DIGEST].record.succeeded(now_s)
        self.lengths.note(DIGEST, ids)
        self.places.free(node, need)
        return number

    def _beat(self) -> None:
        """A heartbeat, after which the coordinator looks at its queue again."""
        self.places.nodes_changed()
        self.loop.call_later(BEAT_S / len(self.nodes), self._beat)


class Seated:
    """A node's session that never ends."""

    cause = None

    def __init__(self, node: Node) -> None:
        self.node = node

    def end(self, code: ProblemCode, message: str, hint: str = "") -> None:
        raise AssertionError(message)

    def look(self, now_s: float) -> None:
        pass


def sim_node(peer: str, kind: Kind, kv_tokens: int = 10_000_000) -> Node:
    """A node of the registry, as a simulated machine has registered it."""
    card = NodeCard(
        peer=peer, name=peer, version="", device="", backend="", slots=kind.slots,
        kv_tokens=kv_tokens, models=(ServedModel(digest=DIGEST, context=100_000),),
    )  # fmt: skip
    rooms = {DIGEST: Room(context=100_000, slots=kind.slots, kv_tokens=kv_tokens)}
    return Node(card=card, rooms=rooms, connected_at_ms=0, heard_s=0.0, idle_since_s=0.0)


def _slots(kinds: Sequence[Kind]) -> list[int]:
    return [kind.slots for kind in kinds]


POLICIES: dict[str, Callable[[Sequence[Kind], VirtualTime], Dispatch]] = {
    "estimated finish": Ours,
    "round-robin": lambda kinds, _loop: Balanced(kinds, RoundRobin(_slots(kinds))),
    "least-connections": lambda kinds, _loop: Balanced(kinds, LeastConnections(_slots(kinds))),
    "least-connections, one line for all": lambda kinds, _loop: OneLine(
        kinds, LeastConnections(_slots(kinds))
    ),
}


def simulate(
    policy: str, kinds: Sequence[Kind], *, clients: int, requests: int, seed: int
) -> Outcome:
    """So many requests, `clients` at a time; the first fifth is warm-up and not counted."""
    loop = VirtualTime()
    try:
        return loop.run_until_complete(_load(loop, policy, kinds, clients, requests, seed))
    finally:
        loop.close()


async def _load(
    loop: VirtualTime, policy: str, kinds: Sequence[Kind], clients: int, requests: int, seed: int
) -> Outcome:
    dice = random.Random(seed)
    # Drawn before the run: every policy gets the same answers in the same order.
    lengths = iter([_length(dice) for _ in range(requests)])
    dispatch = POLICIES[policy](kinds, loop)
    outcome = Outcome(ids=[0] * len(kinds))
    started = itertools.count()

    async def client() -> None:
        for ids in lengths:
            counted = next(started) >= requests // 5
            began_s = loop.time()
            number = await dispatch.run(ids)
            if counted:
                outcome.finish_s.append(loop.time() - began_s)
                outcome.ids[number] += ids

    starts: list[Awaitable[None]] = [_after(dice.random(), client) for _ in range(clients)]
    await asyncio.gather(*starts)
    return outcome


async def _after(seconds: float, run: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await run()


def _length(dice: random.Random) -> int:
    """Answers as they are: many short, a few long ones (log-normal, mean MEAN_TOKENS)."""
    return max(1, min(MAX_TOKENS, round(dice.lognormvariate(4.3, 0.75))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    for slowdown in (1.0, 3.0):
        kinds = [Kind(rate, slowdown) for rate in (10.0, 20.0, 40.0)]
        slots = sum(kind.slots for kind in kinds)
        for load in (0.5, 1.0, 3.0):
            print(f"a stream with full slots {slowdown:g} x slower, load {load:g} x the slots")
            for policy in POLICIES:
                for seed in range(options.seeds):
                    seen = simulate(
                        policy,
                        kinds,
                        clients=int(load * slots),
                        requests=options.requests,
                        seed=seed,
                    )
                    shares = " : ".join(f"{7 * share:.2f}" for share in seen.shares())
                    print(
                        f"  {policy:36} seed {seed}  p95 {seen.percentile_s(0.95):6.2f} s  mean"
                        f" {seen.mean_s:6.2f} s  work {shares}"
                    )


if __name__ == "__main__":
    main()
