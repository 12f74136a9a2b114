"""Whatever comes in whatever order: slots are conserved, and no job goes where it must not."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.config import NodesConfig
from parhelion.coordinator.breaker import Phase
from parhelion.coordinator.index import Ring
from parhelion.coordinator.place import Places
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


class World:
    """Places over a registry that a dice moves; every reservation is checked as it is made."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.s = 0.0
        self.registry = Registry(NodesConfig(), 1, self.changed)
        self.places = Places(self.registry, Queue(30, 12), self, 1, lambda _node: None)
        self.running: list[tuple[Node, Ticket]] = []
        self.waiting: list[Ticket] = []
        self.gone: list[Node] = []
        self.refused: dict[Node, str] = {}
        reserve = self.places._reserve

        def checked(node: Node, ticket: Ticket) -> None:
            self.check(node, ticket.need)
            reserve(node, ticket)

        self.places._reserve = checked  # type: ignore[method-assign]

    def monotonic_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def changed(self) -> None:
        self.places.nodes_changed()

    def check(self, node: Node, need: Need) -> None:
        """Before it is reserved: it is there, able, allowed, and has room."""
        room = node.rooms[need.digest]
        assert self.registry.member(node.peer).node is node, "gone"  # type: ignore[union-attr]
        assert node.state == "ready" and not node.alone
        assert node.slots_busy < node.slots and room.slots_busy < room.slots, "full"
        assert room.kv_busy + need.kv_tokens <= room.kv_tokens and room.full_until_s is None
        assert need.kv_tokens <= room.context, "incapable"
        assert need.max_price_micro is None or node.price_micro <= need.max_price_micro
        assert room.record.phase is not Phase.OPEN, "its breaker is open"
        assert room.record.phase is Phase.CLOSED or room.slots_busy == 0, "one at a time"

    def tell(self, event: str) -> None:
        getattr(self, event)()
        done = [ticket for ticket in self.waiting if ticket.got.done()]
        self.waiting = [ticket for ticket in self.waiting if not ticket.got.done()]
        for ticket in done:
            if ticket.got.exception() is None:
                node = ticket.got.result()
                assert node.peer not in ticket.without
                self.running.append((node, ticket))
        self.conserved()

    def conserved(self) -> None:
        assert self.places.waiting == len(self.waiting)
        for node in [*self.registry.nodes(), *self.gone]:
            needs = [ticket.need for at, ticket in self.running if at is node]
            assert node.slots_busy == len(needs)
            for digest, room in node.rooms.items():
                mine = [need for need in needs if need.digest == digest]
                assert (room.slots_busy, room.kv_busy) == (
                    len(mine),
                    sum(need.kv_tokens for need in mine),
                )

    def join(self) -> None:
        if len(list(self.registry.nodes())) > 5:
            return
        slots, peer = self.dice.randrange(1, 4), f"n{self.dice.randrange(8)}"
        card = NodeCard(
            peer=peer, name=peer, version="", device="", backend="", slots=slots, kv_tokens=300,
            models=(),
        )  # fmt: skip
        rooms = {
            digest: Room(context=self.dice.choice([60, 200]), slots=slots, kv_tokens=300)
            for digest in self.dice.choice([MODELS, MODELS[:1], MODELS[1:]])
        }
        node = Node(card, rooms, 0, self.s, self.s, price_micro=self.dice.randrange(3))
        old = self.registry.member(peer)
        if old is not None:
            self.gone.append(old.node)
        for room in rooms.values():
            if self.dice.random() < 0.7:
                for streams in (1, slots):
                    room.speed.decoded(100, self.dice.choice([1, 4, 20]), streams)
        self.registry.enter(Seated(node))  # type: ignore[arg-type]

    def leave(self) -> None:
        if nodes := list(self.registry.nodes()):
            node = self.dice.choice(nodes)
            node.state = "gone"
            self.gone.append(node)
            self.registry.leave(self.registry.member(node.peer))  # type: ignore[arg-type]

    def ask(self) -> None:
        dice = self.dice
        need = Need(
            dice.choice(MODELS), dice.choice([10, 50, 150]), dice.choice([5, 40]),
            expected_tokens=dice.choice([None, 20]),
            max_price_micro=dice.choice([None, None, 0, 1]),
            cached={f"n{dice.randrange(8)}": 8} if dice.random() < 0.3 else {},
        )  # fmt: skip
        without = [f"n{dice.randrange(8)}"] if dice.random() < 0.2 else []
        try:
            ticket = self.places.place(
                need, dice.choice("xyz"), dice.choice([1e3, 60.0]), without=without,
                begun=dice.random() < 0.1,
            )  # fmt: skip
        except Problem:
            return
        self.waiting.append(ticket)

    def end(self) -> None:
        if self.running:
            node, ticket = self.running.pop(self.dice.randrange(len(self.running)))
            record = node.rooms[ticket.need.digest].record
            if self.dice.random() < 0.3:
                record.failed(self.s, self.s)
            else:
                record.succeeded(self.s)
            self.places.free(node, ticket.need)

    def quit(self) -> None:
        if self.waiting:
            self.places.leave(self.dice.choice(self.waiting))

    def drain(self) -> None:
        if nodes := list(self.registry.nodes()):
            node = self.dice.choice(nodes)
            node.leaving = None if node.leaving else "tired"
            self.registry.refresh(node, self.s)

    def hand_back(self) -> None:
        if nodes := list(self.registry.nodes()):
            node = self.dice.choice(nodes)
            self.dice.choice(list(node.rooms.values())).full_until_s = self.s + 1.0

    def wait(self) -> None:
        self.s += self.dice.choice([0.1, 1.0, 6.0])
        self.registry.forgive(self.dice.choice([0.0, 6.0]))
        for node in list(self.registry.nodes()):
            node.heard_s = self.s
        self.registry.sweep(self.s)

    def finish(self) -> None:
        """All end well and nobody asks any more: who still waits has no node at all."""
        self.s += 1e4
        for node in list(self.registry.nodes()):
            node.heard_s, node.leaving = self.s, None
            self.registry.refresh(node, self.s)
        for _ in range(500):
            self.tell("end" if self.running else "wait")
            if not self.running and not self.waiting:
                break
        for ticket in self.waiting:
            assert not any(
                ticket.need.digest in node.rooms
                and node.peer not in ticket.without
                and ticket.need.kv_tokens <= node.rooms[ticket.need.digest].largest_tokens
                and (
                    ticket.need.max_price_micro is None
                    or node.price_micro <= ticket.need.max_price_micro
                )
                and node.rooms[ticket.need.digest].record.phase is not Phase.OPEN
                for node in self.registry.nodes()
            ), "a node could serve it, and has nothing else to do"
        for node in [*self.registry.nodes(), *self.gone]:
            assert node.slots_busy == 0


EVENTS = ("join", "join", "leave", "ask", "ask", "ask", "ask", "end", "end", "quit", "drain",
          "hand_back", "wait")  # fmt: skip


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
    world.s += 1000.0
    world.places.nodes_changed()
    assert slow.slots_busy == 1, "patience ends"
    world.places.refuse_all(lambda: Problem("draining", "x"))  # type: ignore[arg-type]
