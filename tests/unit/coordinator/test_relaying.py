"""The relay of links between nodes: who may meet whom, once, for how long, and nothing else."""

from __future__ import annotations

import asyncio
import os

import pytest

from parhelion.coordinator import Relays
from parhelion.link import (
    SEALED_LIMIT_BYTES,
    ConnectionClosed,
    PairTicket,
)
from parhelion.link.pair_proof import RelayProof, relay_proof
from parhelion.testing.clock import ManualClock
from parhelion.testing.sockets import MemorySocket, socket_pair
from parhelion.words import Problem, ProblemCode

A, B, C = (f"12D3KooW{letter}" for letter in "abc")


class Desk:
    """A relay, and everybody who comes to it."""

    def __init__(self, **limits: float) -> None:
        self.clock = ManualClock()
        self.relays = Relays(self.clock, os.urandom, **limits)  # type: ignore[arg-type]
        self.visits: list[asyncio.Task[None]] = []
        self.proven = 0

    def _count(self) -> None:
        self.proven += 1

    async def visit(self) -> MemorySocket:
        near, far = socket_pair()
        self.visits.append(asyncio.create_task(self.relays.attend(far, self._count)))
        return near

    async def come(self, ticket: PairTicket, peer: str) -> MemorySocket:
        socket = await self.visit()
        await socket.send(relay_proof(ticket, peer, await socket.receive()))
        return socket

    async def met(self) -> tuple[MemorySocket, MemorySocket]:
        dial, accept = self.relays.issue(A, B)
        return await self.come(dial, A), await self.come(accept, B)


async def closed(socket: MemorySocket) -> str:
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await socket.receive()
    return caught.value.reason


async def heard(socket: MemorySocket) -> bytes:
    async with asyncio.timeout(5):
        return await socket.receive()


async def test_two_nodes_meet_by_one_link_and_every_byte_is_counted() -> None:
    desk = Desk()
    one, other = await desk.met()
    await one.send(b"hello")
    assert await heard(other) == b"hello"
    await other.send(b"welcome!")
    assert await heard(one) == b"welcome!"
    await asyncio.sleep(0)
    (view,) = desk.relays.views()
    assert (view.dial, view.accept, view.open) == (A, B, True)
    assert (view.dial_bytes, view.accept_bytes) == (5, 8)
    assert desk.relays.relayed_bytes == 13 and desk.proven == 2
    await one.close(1000, "")
    assert await closed(other) == "the other node's connection closed"
    await asyncio.gather(*desk.visits)
    assert desk.relays.views() == ()


async def test_what_a_node_says_before_the_other_comes_waits_for_it() -> None:
    desk = Desk()
    dial, accept = desk.relays.issue(A, B)
    one = await desk.come(dial, A)
    for number in range(5):
        await one.send(b"%d" % number)
    other = await desk.come(accept, B)
    assert [await heard(other) for _ in range(5)] == [b"%d" % number for number in range(5)]


async def test_other_links_are_unaffected_by_one_that_ends() -> None:
    desk = Desk()
    pairs = [await desk.met() for _ in range(3)]
    await pairs[1][0].close(1000, "")
    await closed(pairs[1][1])
    for one, other in (pairs[0], pairs[2]):
        await one.send(b"on")
        assert await heard(other) == b"on"


async def test_a_link_whose_reader_stands_still_holds_one_frame_and_slows_nobody_else() -> None:
    desk = Desk(take_s=0.3)
    slow, quick = await desk.met(), await desk.met()

    async def flood() -> None:
        while True:
            await slow[0].send(bytes(1000))

    flooding = asyncio.create_task(flood())
    await asyncio.sleep(0.05)
    await quick[0].send(b"quick")
    assert await heard(quick[1]) == b"quick"
    assert not slow[0].closed
    async with asyncio.timeout(5):
        while not slow[0].closed:  # noqa: ASYNC110 - a full wire in memory has no event for it
            await asyncio.sleep(0.01)
    assert slow[0].closed == slow[1].closed == (1000, "a side took nothing for 0.3 s")
    flooding.cancel()
    await quick[1].send(b"still")
    assert await heard(quick[0]) == b"still"


REFUSED = "link_refused: no ticket"


@pytest.mark.parametrize("wrong", ["link", "secret", "peer", "challenge", "third node", "late"])
async def test_who_proves_no_ticket_is_sent_away_and_learns_nothing(wrong: str) -> None:
    desk = Desk()
    dial, accept = desk.relays.issue(A, B)
    socket = await desk.visit()
    challenge, ticket, peer = await socket.receive(), dial, A
    if wrong == "link":
        ticket = PairTicket(link="link_x", secret=dial.secret, peer=B, role="dial")
    elif wrong == "secret":
        ticket = PairTicket(link=dial.link, secret=bytes(32), peer=B, role="dial")
    elif wrong == "peer":
        peer = C
    elif wrong == "challenge":
        challenge = bytes(32)
    elif wrong == "third node":
        other_link, _ = desk.relays.issue(B, C)
        ticket = PairTicket(link=dial.link, secret=other_link.secret, peer=B, role="dial")
    else:
        desk.clock.advance(31)
    await socket.send(relay_proof(ticket, peer, challenge))
    assert await closed(socket) == "no ticket of this relay is proven"
    assert desk.proven == 0
    if wrong != "late":
        # The tickets are as good as before.
        one, other = await desk.come(dial, A), await desk.come(accept, B)
        await one.send(b"x")
        assert await heard(other) == b"x"


@pytest.mark.parametrize("said", [b"", b"garbage", bytes(2000), b"\x80"])
async def test_garbage_for_a_proof_is_refused(said: bytes) -> None:
    desk = Desk()
    socket = await desk.visit()
    await socket.receive()
    await socket.send(said)
    assert "proof" in await closed(socket)


async def test_a_ticket_is_good_once_a_side() -> None:
    desk = Desk()
    dial, accept = desk.relays.issue(A, B)
    one = await desk.come(dial, A)
    again = await desk.come(dial, A)
    assert await closed(again) == "this side of the link was taken before"
    other = await desk.come(accept, B)
    await one.send(b"x")
    assert await heard(other) == b"x"
    await one.close(1000, "")
    await closed(other)
    late = await desk.come(dial, A)
    assert await closed(late) == "no ticket of this relay is proven"


async def test_who_waits_alone_is_told_so() -> None:
    desk = Desk(pairing_s=0.05)
    dial, _ = desk.relays.issue(A, B)
    assert "did not come within 0.05 s" in await closed(await desk.come(dial, A))
    assert desk.relays.views() == ()


async def test_a_frame_over_the_limit_ends_the_link() -> None:
    desk = Desk()
    one, other = await desk.met()
    await one.send(bytes(SEALED_LIMIT_BYTES))
    assert len(await heard(other)) == SEALED_LIMIT_BYTES
    await one.send(bytes(SEALED_LIMIT_BYTES + 1))
    assert "over" in await closed(other)


async def test_links_are_bounded_in_all_and_for_each_node() -> None:
    desk = Desk(limit=4, node_limit=2)
    desk.relays.issue(A, B)
    first, _ = desk.relays.issue(A, C)
    with pytest.raises(Problem, match="has as many") as caught:
        desk.relays.issue(B, A)
    assert caught.value.code is ProblemCode.OVERLOADED
    desk.relays.issue("d", "e")
    desk.relays.issue("d", "f")
    with pytest.raises(Problem, match="as many links"):
        desk.relays.issue("g", "h")
    desk.relays.withdraw(first.link, "not needed")
    desk.relays.issue("g", "h")
    desk.clock.advance(31)
    assert desk.relays.views() == (), "tickets that nobody used make room"
    desk.relays.issue(A, B)


async def test_a_node_that_goes_takes_its_links_along_and_no_others() -> None:
    desk = Desk()
    one, other = await desk.met()
    dial, accept = desk.relays.issue(B, C)
    third, fourth = await desk.come(dial, B), await desk.come(accept, C)
    desk.relays.withdraw_node(A, "it was banned")
    assert await closed(one) == await closed(other) == "it was banned"
    await third.send(b"x")
    assert await heard(fourth) == b"x"


async def test_the_relay_keeps_no_secret_of_a_ticket() -> None:
    desk = Desk()
    dial, _ = desk.relays.issue(A, B)
    (kept,) = desk.relays._links.values()
    assert dial.secret not in kept.key and dial.secret != kept.key


def test_a_link_has_two_ends_and_a_new_id() -> None:
    async def register() -> None:
        desk = Desk()
        desk.relays.register("link_1", bytes(32), A, B)
        for link, dial, accept in (("link_1", A, C), ("link_2", A, A)):
            with pytest.raises(ValueError):
                desk.relays.register(link, bytes(32), dial, accept)

    asyncio.run(register())


def test_a_proof_is_a_record_of_three_things() -> None:
    assert RelayProof.__struct_fields__ == ("link", "peer", "mac")
