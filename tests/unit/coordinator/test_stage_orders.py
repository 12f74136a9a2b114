"""What is asked of nodes about stages and links: one failure leaves nobody asking."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from parhelion.coordinator.pipeline import Seat
from parhelion.coordinator.stage_orders import Orders, all_or_none
from parhelion.coordinator.workshop import LAYER_TIMES_KEPT, Workshop
from parhelion.link import PairDown, PairTicket, PairUp, StageTimed, TimeStage
from parhelion.testing.clock import ManualClock
from parhelion.words import Problem, ProblemCode


class Tickets:
    def __init__(self) -> None:
        self.issued: list[str] = []
        self.withdrawn: list[str] = []

    def issue(
        self, dial: str, accept: str, direct: tuple[str, ...] = ()
    ) -> tuple[PairTicket, PairTicket]:
        link = f"l{len(self.issued) + 1}"
        self.issued.append(link)
        secret = b"s" * 32
        return (
            PairTicket(link=link, secret=secret, peer=accept, role="dial"),
            PairTicket(link=link, secret=secret, peer=dial, role="accept"),
        )

    def withdraw(self, link: str, reason: str) -> None:
        self.withdrawn.append(link)


def node(peer: str) -> Any:
    card = SimpleNamespace(stage=None)
    said: list[Any] = []
    its_node = SimpleNamespace(peer=peer, name=peer, card=card)
    return SimpleNamespace(node=its_node, ended=False, send=said.append, said=said)


@pytest.fixture
def tickets() -> Tickets:
    return Tickets()


@pytest.fixture
def orders(tickets: Tickets) -> Orders:
    return Orders(tickets, ManualClock())


def asked(orders: Orders) -> int:
    return len(orders._waits)


async def until_asked(orders: Orders, count: int) -> None:
    async with asyncio.timeout(5):
        while asked(orders) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_link_that_one_end_cannot_make_is_let_go_of_at_the_other(
    orders: Orders, tickets: Tickets
) -> None:
    one, other = node("a"), node("b")
    pairing = asyncio.create_task(orders.pair(one, "s1", other, "s2"))
    await until_asked(orders, 2)
    orders.hear(one, PairDown(link="l1", cause="refused"))
    with pytest.raises(Problem, match="refused"):
        await pairing
    assert (asked(orders), tickets.withdrawn) == (0, ["l1"])


async def test_a_link_that_nobody_wants_any_more_is_let_go_of(
    orders: Orders, tickets: Tickets
) -> None:
    pairing = asyncio.create_task(orders.pair(node("a"), "s1", node("b"), "s2"))
    await until_asked(orders, 2)
    pairing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pairing
    assert (asked(orders), tickets.withdrawn) == (0, ["l1"])


async def test_a_ring_of_which_one_link_fails_waits_for_none_of_the_others(
    orders: Orders, tickets: Tickets
) -> None:
    nodes = [node(peer) for peer in "abc"]
    ring = zip(nodes, (*nodes[1:], nodes[0]), strict=True)
    linking = asyncio.create_task(
        all_or_none(orders.pair(one, "s", following, "s") for one, following in ring)
    )
    await until_asked(orders, 6)
    for end in nodes[:2]:
        orders.hear(end, PairUp(link="l1", path="direct", rtt_ms=1.0))
    orders.left(nodes[2])
    with pytest.raises(Problem) as gone:
        await linking
    assert gone.value.code is ProblemCode.NODE_LOST
    assert asked(orders) == 0
    # The link that is there stays, until a newer one takes its place.
    assert sorted(tickets.withdrawn) == ["l2", "l3"]


async def test_the_first_step_of_a_stage_which_reads_its_weights_is_not_its_time(
    tickets: Tickets,
) -> None:
    clock = ManualClock()
    orders, one = Orders(tickets, clock), node("a")
    timing = asyncio.create_task(orders.time([(one, "s")]))
    steps = 0
    while not timing.done():
        await until_asked(orders, 1)
        order: TimeStage = one.said[-1]
        clock.advance(0.02 + 0.003 * order.repeats + (0.5 if steps == 0 else 0.0))
        steps += order.repeats
        orders.hear(one, StageTimed(stage="s", ticket=order.ticket))
        await asyncio.wait({timing}, timeout=0.01)
    assert timing.result() == pytest.approx([3.0])


async def test_all_that_is_asked_at_once_is_answered_in_order() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await all_or_none(after(turns) for turns in (3, 1, 2)) == [3, 1, 2]


def test_times_of_nodes_that_come_and_go_fill_no_memory() -> None:
    workshop = Workshop.__new__(Workshop)  # Nothing else of it is looked at.
    workshop.times = {}
    first = Seat("s", node("first"), 0, 10)
    workshop.found_slow("d", first, 20.0)
    for number in range(LAYER_TIMES_KEPT + 9):
        workshop.found_slow("d", Seat("s", node(f"n{number}"), 0, 10), 10.0)
        if number % 1000 == 0:
            workshop.found_slow("d", first, 30.0)
    assert len(workshop.layer_ms) == LAYER_TIMES_KEPT
    assert workshop.layer_ms["first", "d"] == 3.0, "who is measured again is not the oldest"
    assert ("n0", "d") not in workshop.layer_ms
