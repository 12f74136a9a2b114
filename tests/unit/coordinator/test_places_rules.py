"""Whatever comes in whatever order: slots are conserved, and no job goes where it must not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.config import NodesConfig
from parhelion.coordinator.breaker import Phase
from parhelion.coordinator.index import Ring
from parhelion.coordinator.place import Places
from parhelion.coordinator.provider import Choice
from parhelion.coordinator.queue import Queue, Ticket
from parhelion.coordinator.registry import Node, Registry, Room
from parhelion.coordinator.route import Need
from parhelion.words import NodeCard, Problem

MODELS = ("d", "e")


class Seated:
    """A session without a carrier."""

    cause = None

    def __init__(self, node: Node) -> None:
        self.node = node

    def end(self, *_cause: Any) -> None:
        pass

    def look(self, now_s: float) -> None:
        pass


def could(node: Node, need: Need, without: Collection[str]) -> bool:
    """Whether a node may ever get it; said anew here, so that no fault of route's is repeated."""
    room = node.rooms.get(need.digest)
    return (
        room is not None
        and node.state in ("ready", "suspect")
        and room.engine_fault is None
        # As the registry saw it last: an engine that has just shown that it works is looked at
        # again with its next heartbeat.
        and room.failed is None
        and room.barred is None
        and need.prompt_tokens + need.max_tokens <= min(room.context, room.kv_tokens)
        and room.record.phase is not Phase.OPEN
        and node.peer not in without
        and (need.max_price_micro is None or node.price_micro <= need.max_price_micro)
        and (need.choice is None or node.peer not in need.choice.ignore)
        and (need.choice is None or need.choice.only is None or node.peer in need.choice.only)
    )


class World:
    """Places over a registry that a dice moves; every reservation is checked as it is made."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.s = 0.0
        self.registry = Registry(NodesConfig(), 1, self.changed)
        self.places = Places(self.registry, Queue(30, 12), self, self.move)
        self.running: list[tuple[Node, Ticket]] = []
        self.waiting: list[Ticket] = []
        self.gone: list[Node] = []
        self.cleared: set[Ticket] = set()
        self.to_move: list[tuple[Node, str]] = []
        self.served = 0
        reserve = self.places._reserve

        def checked(node: Node, ticket: Ticket) -> None:
            self.check(node, ticket)
            reserve(node, ticket)

        self.places._reserve = checked  # type: ignore[method-assign]

    def monotonic_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def changed(self) -> None:
        self.places.nodes_changed()

    def move(self, node: Node, digest: str) -> None:
        """One model's jobs have to leave a node; they do so after the event."""
        self.to_move.append((node, digest))

    def check(self, node: Node, ticket: Ticket) -> None:
        """Before it is reserved: it is there, able, allowed, and has room."""
        need, room = ticket.need, node.rooms[ticket.need.digest]
        assert self.registry.member(node.peer).node is node, "gone"  # type: ignore[union-attr]
        assert node.state == "ready" and could(node, need, ticket.without)
        assert node.slots_busy < node.slots and room.slots_busy < room.slots, "full"
        assert room.kv_busy + need.kv_tokens <= room.kv_tokens
        if need.alone:
            assert room.slots_busy == 0, "a suspect is alone in its batch"
        else:
            assert not room.alone, "kept for a suspect"
            assert room.full_until_s is None, "it handed a job back just now"
        on_trial = room.record.phase is not Phase.CLOSED or room.stuck is not None
        assert not on_trial or room.slots_busy == 0, "one at a time"
        assert not node.fallback or not any(
            could(other, need, ticket.without)
            for other in self.registry.nodes()
            if not other.fallback
        ), "the fallback serves where no other can"

    def tell(self, event: str) -> None:
        getattr(self, event)()
        self.collect()
        while self.to_move:
            self.move_away(*self.to_move.pop())
            self.collect()
        self.conserved()

    def collect(self) -> None:
        done = [ticket for ticket in self.waiting if ticket.got.done()]
        self.waiting = [ticket for ticket in self.waiting if not ticket.got.done()]
        for ticket in done:
            if ticket.got.exception() is None:
                self.running.append((ticket.got.result(), ticket))
                self.served += 1

    def conserved(self) -> None:
        assert self.places.waiting == sum(not ticket.need.alone for ticket in self.waiting)
        for node in [*self.registry.nodes(), *self.gone]:
            needs = [ticket.need for at, ticket in self.running if at is node]
            assert node.slots_busy == len(needs) <= node.slots
            for digest, room in node.rooms.items():
                mine = [need for need in needs if need.digest == digest]
                assert (room.slots_busy, room.kv_busy) == (
                    len(mine),
                    sum(need.kv_tokens for need in mine),
                )
        for node, ticket in self.running:
            if ticket.need.alone and ticket not in self.cleared:
                assert node.rooms[ticket.need.digest].slots_busy == 1

    # --- nodes ------------------------------------------------------------------------------------

    def join(self) -> None:
        if len(list(self.registry.nodes())) > 5:
            return
        slots, number = self.dice.randrange(1, 4), self.dice.randrange(8)
        card = NodeCard(
            peer=f"n{number}", name="n", version="", device="", backend="", slots=slots,
            kv_tokens=300, models=(),
        )  # fmt: skip
        rooms = {
            digest: Room(context=self.dice.choice([60, 200]), slots=slots, kv_tokens=300)
            for digest in self.dice.choice([MODELS, MODELS, MODELS[:1], MODELS[1:]])
        }
        node = Node(card, rooms, 0, self.s, self.s, price_micro=self.dice.randrange(3))
        node.fallback = number == 0
        old = self.registry.member(node.peer)
        if old is not None:
            self.gone.append(old.node)
        for room in rooms.values():
            if self.dice.random() < 0.7:
                for streams in (1, slots):
                    room.speed.decoded(100, self.dice.choice([1, 4, 20]), streams)
        self.registry.enter(Seated(node))  # type: ignore[arg-type]

    def some_node(self) -> list[Node]:
        nodes = list(self.registry.nodes())
        return [self.dice.choice(nodes)] if nodes else []

    def some_room(self) -> list[tuple[Node, Room]]:
        return [(node, self.dice.choice(list(node.rooms.values()))) for node in self.some_node()]

    def leave(self) -> None:
        for node in self.some_node():
            node.state = "gone"
            self.gone.append(node)
            self.registry.leave(self.registry.member(node.peer))  # type: ignore[arg-type]
            if self.dice.random() < 0.7:
                for at, ticket in [one for one in self.running if one[0] is node]:
                    self.go_on(at, ticket)

    def drain(self) -> None:
        for node in self.some_node():
            node.leaving = None if node.leaving else "tired"
            self.registry.refresh(node, self.s)

    def engine(self) -> None:
        """One model's engine fails, or is back."""
        for node, room in self.some_room():
            room.engine_fault = None if room.engine_fault else "signal 9"
            self.registry.refresh(node, self.s)

    def stall(self) -> None:
        for node, room in self.some_room():
            room.stall("no progress", self.s)
            self.registry.refresh(node, self.s)

    def refuse(self) -> None:
        """A probe says that the ids are not the model's, or that they are again."""
        for node, room in self.some_room():
            room.barred = None if room.barred else "noise"
            self.registry.reassess(node)

    def hand_back(self) -> None:
        for _node, room in self.some_room():
            room.full_until_s = self.s + 1.0

    def wait(self) -> None:
        self.s += self.dice.choice([0.1, 1.0, 6.0, 31.0])
        self.registry.forgive(self.dice.choice([0.0, 6.0]))
        for node in list(self.registry.nodes()):
            # Some say nothing for so long that they are suspect.
            node.heard_s = self.s - self.dice.choice([0.0, 0.0, 4.5])
        self.registry.sweep(self.s)

    # --- requests ---------------------------------------------------------------------------------

    def ask(self) -> None:
        dice = self.dice
        some = frozenset(f"n{dice.randrange(8)}" for _ in range(4))
        need = Need(
            dice.choice(MODELS), dice.choice([10, 50, 150]), dice.choice([5, 40]),
            expected_tokens=dice.choice([None, 20]),
            max_price_micro=dice.choice([None, None, 0, 1]),
            choice=dice.choice([None, None, Choice(only=some), Choice(ignore=some),
                                Choice(sort=dice.choice(["price", "throughput", "latency"]))]),
            cached={f"n{dice.randrange(8)}": 8} if dice.random() < 0.3 else {},
        )  # fmt: skip
        without = [f"n{dice.randrange(8)}"] if dice.random() < 0.2 else []
        self.place(need, dice.choice([1e3, 60.0]), without, begun=dice.random() < 0.1)

    def place(self, need: Need, wait_s: float, without: Collection[str], **more: Any) -> None:
        try:
            ticket = self.places.place(
                need, self.dice.choice("xyz"), wait_s, without=without, **more
            )
        except Problem:
            return
        self.waiting.append(ticket)

    def some_job(self) -> list[tuple[Node, Ticket]]:
        return [self.dice.choice(self.running)] if self.running else []

    def end(self) -> None:
        for node, ticket in self.some_job():
            record = node.rooms[ticket.need.digest].record
            if self.dice.random() < 0.3:
                record.failed(self.s, self.s)
            else:
                record.succeeded(self.s)
                node.rooms[ticket.need.digest].recover()
            self.let_go(node, ticket)

    def migrate(self) -> None:
        for node, ticket in self.some_job():
            self.go_on(node, ticket)

    def crash(self) -> None:
        """An engine takes all its streams along; each goes on alone."""
        for node, ticket in self.some_job():
            for at, one in list(self.running):
                if at is node and one.need.digest == ticket.need.digest:
                    self.go_on(at, one, alone=True)

    def clear(self) -> None:
        """A suspect got past the place of the crash."""
        for node, ticket in self.some_job():
            if ticket.need.alone and ticket not in self.cleared:
                self.cleared.add(ticket)
                self.places.clear(node, ticket.need.digest)

    def quit(self) -> None:
        if self.waiting:
            self.places.leave(self.dice.choice(self.waiting))

    def move_away(self, node: Node, digest: str) -> None:
        for at, ticket in list(self.running):
            if at is node and ticket.need.digest == digest:
                self.go_on(at, ticket)

    def go_on(self, node: Node, ticket: Ticket, alone: bool = False) -> None:
        """A job leaves its node with some ids out, and looks for another."""
        need = ticket.need.resumed(self.dice.randrange(ticket.need.max_tokens))
        without = [*ticket.without, *([node.peer] if self.dice.random() < 0.2 else [])]
        self.let_go(node, ticket)
        self.place(replace(need, alone=alone), 60.0, without, rather_without=node.peer, begun=True)

    def let_go(self, node: Node, ticket: Ticket) -> None:
        self.running.remove((node, ticket))
        self.places.free(node, ticket.need)

    def finish(self) -> None:
        """All end well and nobody asks any more: who still waits has no node at all."""
        self.s += 1e4
        for node in list(self.registry.nodes()):
            node.heard_s, node.leaving = self.s, None
            for room in node.rooms.values():
                room.engine_fault = room.barred = None
            self.registry.reassess(node)
        for _ in range(500):
            self.tell("end" if self.running else "rest")
            if not self.running and not self.waiting:
                break
        for ticket in self.waiting:
            assert not any(
                could(node, ticket.need, ticket.without) for node in self.registry.nodes()
            ), "a node could serve it, and has nothing else to do"
        for node in [*self.registry.nodes(), *self.gone]:
            assert node.slots_busy == 0

    def rest(self) -> None:
        """Time passes, and all nodes are heard."""
        self.s += 6.0
        for node in list(self.registry.nodes()):
            node.heard_s = self.s
        self.registry.sweep(self.s)


EVENTS = (
    "join", "join", "leave", "drain", "engine", "stall", "refuse", "hand_back", "wait",
    "ask", "ask", "ask", "ask", "ask", "end", "end", "migrate", "crash", "crash", "crash", "clear",
    "quit",
)  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS), min_size=20, max_size=120), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_slots_are_conserved_and_no_job_goes_where_it_must_not(
    events: list[str], seed: int
) -> None:
    async def play() -> None:
        world = World(random.Random(seed))
        world.join()
        for event in events:
            world.tell(event)
        world.finish()

    asyncio.run(play())


def test_the_story_above_is_not_an_empty_one() -> None:
    async def play(seed: int) -> int:
        world = World(random.Random(seed))
        for event in random.Random(seed).choices(EVENTS, k=200):
            world.tell(event)
        return world.served

    served = [asyncio.run(play(seed)) for seed in range(10)]
    assert min(served) > 5 and sum(served) > 200, served


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
@settings(deadline=None)
def test_a_ring_shows_everyone_once_and_begins_where_it_ended(
    changes: list[tuple[bool, int]],
) -> None:
    ring, inside = Ring(), set[int]()
    for comes, number in changes:
        (ring.add if comes else ring.discard)(number)  # type: ignore[arg-type]
        (inside.add if comes else inside.discard)(number)
        assert sorted(ring) == sorted(inside) and len(ring) == len(inside)  # type: ignore[type-var]
    if inside:
        seen = [next(iter(ring)) for _ in inside]
        assert sorted(seen) == sorted(inside)  # type: ignore[type-var]


def test_who_comes_last_stands_behind_as_many_of_each_other_account_as_of_its_own() -> None:
    queue = Queue(99, 99)

    def ticket(account: str, begun: bool = False) -> Ticket:
        return Ticket(Need("d", 1, 1), account, frozenset(), None, begun=begun)  # type: ignore[arg-type]

    for account in ("many", "many", "many", "many", "one", "mine"):
        queue.join(ticket(account))
    assert queue.ahead_of(ticket("new")) == 3
    assert queue.ahead_of(ticket("mine")) == 1 + 2 + 1
    queue.join(ticket("many", begun=True))
    assert queue.ahead_of(ticket("new")) == 4 and queue.ahead_of(ticket("new", begun=True)) >= 1


async def test_a_fast_nodes_slot_is_waited_for_and_the_last_in_line_takes_the_slow_one() -> None:
    world = World(random.Random(1))
    nodes = []
    for peer, speed in (("slow", 10.0), ("fast", 100.0)):
        card = NodeCard(
            peer=peer, name=peer, version="", device="", backend="", slots=1, kv_tokens=1000,
            models=(),
        )  # fmt: skip
        room = Room(context=1000, slots=1, kv_tokens=1000)
        room.speed.decoded(100, 100 / speed, 1)
        nodes.append(Node(card, {"d": room}, 0, 0.0, 0.0))
        world.registry.enter(Seated(nodes[-1]))  # type: ignore[arg-type]
    slow, fast = nodes
    need = Need("d", 10, 100)
    tickets = [world.places.place(need, "x", 1e3) for _ in range(8)]
    # Fast: 1 s each. Slow: 10 s. The first six wait for the fast one, the next goes to the slow.
    assert tickets[0].got.result() is fast
    started = [ticket for ticket in tickets if ticket.got.done()]
    assert len(started) == 2 and started[1] is not tickets[1] and slow.slots_busy == 1
    world.places.free(fast, need)
    assert tickets[1].got.result() is fast, "nobody overtakes it at the node that it waits for"
    world.places.free(slow, need)
    assert slow.slots_busy == 0, "who is left would finish later there"
    world.s += 9.0
    world.places.nodes_changed()
    assert slow.slots_busy == 0
    world.s += 2.0
    world.places.nodes_changed()
    assert slow.slots_busy == 1, "patience ends with the time that it would have taken there"
    world.places.refuse_all(lambda: Problem("draining", "x"))  # type: ignore[arg-type]


async def test_a_pool_that_waits_for_its_nodes_takes_nobody_though_a_slot_is_free() -> None:
    world = World(random.Random(1))
    registry = Registry(NodesConfig(), 2, lambda: None)
    places = Places(registry, Queue(30, 12), world, lambda _node, _digest: None)
    for number, taken in ((1, False), (2, True)):
        card = NodeCard(
            peer=f"n{number}", name="n", version="", device="", backend="", slots=1,
            kv_tokens=1000, models=(),
        )  # fmt: skip
        node = Node(card, {"d": Room(context=1000, slots=1, kv_tokens=1000)}, 0, 0.0, 0.0)
        registry.enter(Seated(node))  # type: ignore[arg-type]
        if not taken:
            with pytest.raises(Problem, match="1 of 2 have joined"):
                places.place(Need("d", 10, 100), "x", 1e3)
        else:
            assert places.place(Need("d", 10, 100), "x", 1e3).got.done()


async def test_to_rather_have_another_node_calls_for_no_fallback() -> None:
    world = World(random.Random(1))
    for peer in ("n0", "n2"):
        card = NodeCard(
            peer=peer, name=peer, version="", device="", backend="", slots=2, kv_tokens=1000,
            models=(),
        )  # fmt: skip
        node = Node(card, {"d": Room(context=1000, slots=2, kv_tokens=1000)}, 0, 0.0, 0.0)
        node.fallback = peer == "n0"
        world.registry.enter(Seated(node))  # type: ignore[arg-type]
    need = Need("d", 10, 10)
    ticket = world.places.place(need, "x", 60.0, rather_without="n2", begun=True)
    assert ticket.got.result().peer == "n2"
    shunned = world.places.place(need, "x", 60.0, without=["n2"], begun=True)
    assert shunned.got.result().fallback, "where it never could, the fallback is called for"


async def test_a_suspects_wait_for_a_node_begins_anew_when_one_came_and_left_again() -> None:
    world = World(random.Random(1))
    suspect = replace(Need("d", 10, 5), alone=True)
    ticket = world.places.place(suspect, "x", 60.0, come_s=5.0)
    first = ticket.deserted
    assert first is not None, "nobody is there"
    card = NodeCard(
        peer="n1", name="n", version="", device="", backend="", slots=1, kv_tokens=300, models=()
    )
    node = Node(card, {"d": Room(context=200, slots=1, kv_tokens=300)}, 0, world.s, world.s)
    node.reserve(Need("d", 10, 5), world.s)
    seated = Seated(node)
    world.registry.enter(seated)  # type: ignore[arg-type]
    assert ticket.deserted is None and first.cancelled(), "it could be served: that is its turn"
    world.registry.leave(seated)  # type: ignore[arg-type]
    second = ticket.deserted
    assert second is not None and second.when() > first.when() and not ticket.got.done()
    world.places.leave(ticket)
    with pytest.raises(Problem):
        await ticket.got
    await asyncio.sleep(0)
    assert second.cancelled(), "and nothing of it is left behind"
