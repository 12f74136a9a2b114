"""Two nodes with a ticket: who gets a session, and who gets a cause."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.identity import NodeKey
from parhelion.link import PairTicket
from parhelion.link.broken import LinkBroken
from parhelion.link.handshake import CoordinatorHandshake, NodeHandshake
from parhelion.link.messages import PairHello
from parhelion.link.pair_handshake import AcceptHandshake, DialHandshake
from parhelion.link.pair_proof import (
    binding,
    knock,
    knock_mac,
    read_knock,
    read_relay_proof,
    relay_key,
    relay_mac,
    relay_proof,
)

DIALLER = NodeKey(b"d" * 32)
ACCEPTOR = NodeKey(b"a" * 32)
STRANGER = NodeKey(b"s" * 32)
TICKET = PairTicket(link="link_1", secret=b"1" * 32, peer=ACCEPTOR.peer, role="dial")


def turned(ticket: PairTicket = TICKET) -> PairTicket:
    """The other side's ticket."""
    return msgspec.structs.replace(ticket, peer=DIALLER.peer, role="accept")


def pair(
    dial: PairTicket = TICKET,
    accept: PairTicket | None = None,
    dialler: NodeKey = DIALLER,
    acceptor: NodeKey = ACCEPTOR,
) -> tuple[DialHandshake, AcceptHandshake]:
    return (
        DialHandshake(dialler, dial, b"1" * 64),
        AcceptHandshake(acceptor, turned() if accept is None else accept, b"2" * 64),
    )


def meet(dial: DialHandshake, accept: AcceptHandshake) -> None:
    accept.feed(dial.feed(accept.feed(dial.opening())))


def test_both_nodes_prove_themselves_and_seal_to_each_other() -> None:
    dial, accept = pair()
    meet(dial, accept)
    assert (dial.peer, accept.peer) == (ACCEPTOR.peer, DIALLER.peer)
    assert dial.seal is not None and accept.seal is not None
    assert accept.seal.unseal(dial.seal.seal(b"one")) == (b"one", False)
    assert dial.seal.unseal(accept.seal.seal_final(b"two")) == (b"two", True)


@pytest.mark.parametrize(
    ("dial", "accept", "cause"),
    [
        pytest.param(
            pair(msgspec.structs.replace(TICKET, link="link_2"))[0], None, "signature", id="link"
        ),
        pytest.param(
            pair(msgspec.structs.replace(TICKET, secret=b"2" * 32))[0],
            None,
            "signature",
            id="secret",
        ),
        pytest.param(pair(dialler=STRANGER)[0], None, "another dialling node", id="dialler"),
        pytest.param(None, pair(acceptor=STRANGER)[1], "another accepting node", id="acceptor"),
        pytest.param(
            pair(msgspec.structs.replace(TICKET, peer=STRANGER.peer))[0],
            None,
            "another accepting node",
            id="peer",
        ),
        pytest.param(NodeHandshake(DIALLER), None, "not a PairHello", id="a coordinator's"),
        pytest.param(None, CoordinatorHandshake(ACCEPTOR), "not a NodeHello", id="a node's"),
    ],
)
def test_who_is_not_meant_by_the_ticket_gets_no_session(
    dial: DialHandshake | None, accept: AcceptHandshake | None, cause: str
) -> None:
    good = pair()
    dial, accept = good[0] if dial is None else dial, good[1] if accept is None else accept
    with pytest.raises(LinkBroken, match=cause):
        meet(dial, accept)
    assert accept.seal is None


def test_the_relay_cannot_take_a_side_though_it_knows_the_secret() -> None:
    # It knows the ticket, so it makes every hash; it lacks the node's key.
    dial, _ = pair()
    relay = AcceptHandshake(STRANGER, turned())
    with pytest.raises(LinkBroken, match="another accepting node"):
        dial.feed(relay.feed(dial.opening()))
    dial, relay = DialHandshake(DIALLER, TICKET), AcceptHandshake(STRANGER, turned())
    answer = msgspec.msgpack.decode(relay.feed(dial.opening()))
    posed = msgspec.msgpack.encode({**answer, "peer": ACCEPTOR.peer})
    with pytest.raises(LinkBroken, match="signature"):
        dial.feed(posed)


@given(which=st.integers(0, 2), data=st.data())
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_of_any_message_gives_the_acceptor_a_session(
    which: int, data: st.DataObject
) -> None:
    dial, accept = pair()

    def carried(message: bytes, number: int) -> bytes:
        if number != which:
            return message
        changed = bytearray(message)
        changed[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
        return bytes(changed)

    with pytest.raises(LinkBroken):
        answer = carried(accept.feed(carried(dial.opening(), 0)), 1)
        accept.feed(carried(dial.feed(answer), 2))
    assert accept.seal is None


def test_a_recorded_handshake_opens_no_second_session() -> None:
    dial, accept = DialHandshake(DIALLER, TICKET), AcceptHandshake(ACCEPTOR, turned())
    hello = dial.opening()
    proof = dial.feed(accept.feed(hello))
    accept.feed(proof)
    again = AcceptHandshake(ACCEPTOR, turned())
    again.feed(hello)
    with pytest.raises(LinkBroken, match="signature"):
        again.feed(proof)


def test_a_reflection_is_refused() -> None:
    dial, _ = pair()
    hello = msgspec.msgpack.decode(dial.opening(), type=PairHello)
    mirror = AcceptHandshake(ACCEPTOR, turned())
    answer = msgspec.msgpack.decode(mirror.feed(dial.opening()))
    with pytest.raises(LinkBroken, match="reflection"):
        dial.feed(msgspec.msgpack.encode({**answer, "nonce": hello.nonce}))


def test_what_is_bound_differs_with_link_secret_and_transcript() -> None:
    other = msgspec.structs.replace(TICKET, link="link_11")
    bare = msgspec.structs.replace(TICKET, secret=b"2" * 32)
    bound = {binding(ticket, text) for ticket in (TICKET, other, bare) for text in (b"x", b"y")}
    assert len(bound) == 6


def test_a_proof_for_the_relay_holds_for_its_challenge_and_node_only() -> None:
    proof = read_relay_proof(relay_proof(TICKET, DIALLER.peer, b"c" * 32))
    key = relay_key(TICKET.secret)
    assert TICKET.secret not in key
    assert proof.mac == relay_mac(key, "link_1", DIALLER.peer, b"c" * 32)
    others = {
        relay_mac(key, "link_1", DIALLER.peer, b"e" * 32),
        relay_mac(key, "link_1", ACCEPTOR.peer, b"c" * 32),
        relay_mac(key, "link_2", DIALLER.peer, b"c" * 32),
        relay_mac(relay_key(b"2" * 32), "link_1", DIALLER.peer, b"c" * 32),
    }
    assert proof.mac not in others and len(others) == 4


def test_a_knock_brings_its_hello_and_no_other() -> None:
    heard = read_knock(knock(TICKET, b"hello"))
    assert (heard.link, heard.hello) == ("link_1", b"hello")
    assert heard.mac == knock_mac(TICKET, b"hello") != knock_mac(TICKET, b"other")


@given(garbage=st.binary(max_size=1100))
@settings(max_examples=100, deadline=None)
def test_garbage_is_neither_proof_nor_knock(garbage: bytes) -> None:
    for read in (read_relay_proof, read_knock):
        with pytest.raises(LinkBroken):
            read(garbage)


@pytest.mark.parametrize(
    ("link", "mac"), [("x" * 65, bytes(32)), ("x", bytes(31)), ("x", bytes(33)), ("x", b"")]
)
def test_a_proof_of_wrong_lengths_is_refused(link: str, mac: bytes) -> None:
    with pytest.raises(LinkBroken, match="length"):
        read_relay_proof(msgspec.msgpack.encode({"link": link, "peer": "p", "mac": mac}))
    with pytest.raises(LinkBroken, match="length"):
        read_knock(msgspec.msgpack.encode({"link": link, "mac": mac, "hello": b""}))
