"""The handshake as a script of bytes: who gets a session, and who gets a cause."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.identity import NodeKey
from parhelion.link import handshake
from parhelion.link.broken import LinkBroken
from parhelion.link.handshake import CoordinatorHandshake, NodeHandshake
from parhelion.link.messages import CoordinatorHello, NodeHello, NodeProof
from parhelion.words import ProblemCode

NODE = NodeKey(b"n" * 32)
COORDINATOR = NodeKey(b"c" * 32)
STRANGER = NodeKey(b"s" * 32)

AS_NODE = b"parhelion link handshake\0node\0"
AS_COORDINATOR = b"parhelion link handshake\0coordinator\0"

LOW_ORDER = (
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
)


def pair(
    expected: str | None = COORDINATOR.peer,
) -> tuple[NodeHandshake, CoordinatorHandshake]:
    return NodeHandshake(NODE, expected, b"1" * 64), CoordinatorHandshake(COORDINATOR, b"2" * 64)


def script() -> list[bytes]:
    """The three messages of a good handshake with fixed entropy."""
    node, coordinator = pair()
    hello = node.opening()
    answer = coordinator.feed(hello)
    return [hello, answer, node.feed(answer)]


def test_both_sides_prove_themselves_and_seal_to_each_other() -> None:
    node, coordinator = pair()
    proof = node.feed(coordinator.feed(node.opening()))
    assert coordinator.seal is None, "no session before the node's proof"
    assert coordinator.feed(proof) == b""
    assert (node.peer, coordinator.peer) == (COORDINATOR.peer, NODE.peer)
    assert node.seal is not None and coordinator.seal is not None
    for body in (b"one", b"", b"x" * 100_000):
        assert coordinator.seal.unseal(node.seal.seal(body)) == (body, False)
        assert node.seal.unseal(coordinator.seal.seal(body)) == (body, False)
    assert coordinator.seal.unseal(node.seal.seal_final(b"end")) == (b"end", True)


def test_two_handshakes_share_no_keys() -> None:
    frames = []
    for _ in range(2):
        node, coordinator = NodeHandshake(NODE), CoordinatorHandshake(COORDINATOR)
        coordinator.feed(node.feed(coordinator.feed(node.opening())))
        assert node.seal is not None and coordinator.seal is not None
        frames.append((node.seal.seal(b"same"), coordinator.seal))
    with pytest.raises(LinkBroken):
        frames[1][1].unseal(frames[0][0])


@given(which=st.integers(0, 2), data=st.data())
@settings(max_examples=400, deadline=None)
def test_no_changed_byte_of_any_message_gives_both_sides_a_session(
    which: int, data: st.DataObject
) -> None:
    messages = script()
    position = data.draw(st.integers(0, len(messages[which]) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(messages[which])
    changed[position] ^= flip
    messages[which] = bytes(changed)
    node, coordinator = pair()
    node.opening()
    with pytest.raises(LinkBroken) as caught:
        # The altered message goes to whom it is for, and everything that follows from it goes on.
        answer = coordinator.feed(messages[0])
        proof = node.feed(messages[1] if which == 1 else answer)
        coordinator.feed(messages[2] if which == 2 else proof)
    assert caught.value.message
    assert coordinator.seal is None


@given(which=st.integers(0, 2), garbage=st.binary(max_size=1200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_with_a_cause(which: int, garbage: bytes) -> None:
    node, coordinator = pair()
    hello = node.opening()
    with pytest.raises(LinkBroken) as caught:
        if which == 0:
            coordinator.feed(garbage)
        elif which == 1:
            node.feed(garbage)
        else:
            coordinator.feed(hello)
            coordinator.feed(garbage)
    assert caught.value.message


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("cut", [0, 1, -1, -30])
def test_a_truncated_message_is_refused(which: int, cut: int) -> None:
    messages = script()
    messages[which] = messages[which][: cut or None] if cut else b""
    node, coordinator = pair()
    node.opening()
    with pytest.raises(LinkBroken):
        answer = coordinator.feed(messages[0])
        proof = node.feed(messages[1] if which == 1 else answer)
        coordinator.feed(messages[2] if which == 2 else proof)


def test_a_failed_handshake_stays_failed() -> None:
    hello, _, proof = script()
    coordinator = CoordinatorHandshake(COORDINATOR)
    with pytest.raises(LinkBroken):
        coordinator.feed(b"garbage")
    for message in (hello, proof):
        with pytest.raises(LinkBroken, match="over"):
            coordinator.feed(message)
    node = NodeHandshake(NODE)
    with pytest.raises(LinkBroken):
        node.feed(b"garbage")
    with pytest.raises(LinkBroken, match="over"):
        node.feed(script()[1])


def test_a_replayed_hello_and_proof_win_nothing() -> None:
    hello, _, proof = script()
    coordinator = CoordinatorHandshake(COORDINATOR)
    coordinator.feed(hello)
    with pytest.raises(LinkBroken, match="replayed"):
        coordinator.feed(proof)


def test_a_replayed_coordinator_answer_is_refused_by_the_node() -> None:
    _, answer, _ = script()
    node = NodeHandshake(NODE, COORDINATOR.peer)
    node.opening()
    with pytest.raises(LinkBroken, match="signature"):
        node.feed(answer)
    assert node.seal is None


def test_what_a_side_said_cannot_be_reflected_to_it() -> None:
    node = NodeHandshake(NODE)
    hello = msgspec.msgpack.decode(node.opening(), type=NodeHello)
    mirrored = CoordinatorHello(
        version=1,
        peer=hello.peer,
        nonce=hello.nonce,
        ephemeral=hello.ephemeral,
        signature=bytes(64),
    )
    with pytest.raises(LinkBroken, match="own key"):
        node.feed(msgspec.msgpack.encode(mirrored))


def test_a_coordinators_signature_is_no_nodes_signature() -> None:
    # A stranger opens in the coordinator's own name and hands its signature back as the proof.
    victim = CoordinatorHandshake(COORDINATOR)
    hello = NodeHello(version=1, peer=STRANGER.peer, nonce=b"x" * 32, ephemeral=b"9" * 32)
    answer = msgspec.msgpack.decode(
        victim.feed(msgspec.msgpack.encode(hello)), type=CoordinatorHello
    )
    with pytest.raises(LinkBroken, match="signature"):
        victim.feed(msgspec.msgpack.encode(NodeProof(signature=answer.signature)))


def test_another_coordinator_than_the_named_one_is_refused_for_good() -> None:
    node, _ = pair(expected=STRANGER.peer)
    with pytest.raises(LinkBroken, match="another coordinator") as caught:
        node.feed(CoordinatorHandshake(COORDINATOR).feed(node.opening()))
    assert caught.value.code is ProblemCode.LINK_REFUSED
    assert caught.value.hint


def test_a_coordinator_that_claims_anothers_peer_id_is_refused() -> None:
    node = NodeHandshake(NODE, COORDINATOR.peer)
    answer = msgspec.msgpack.decode(
        CoordinatorHandshake(STRANGER).feed(node.opening()), type=CoordinatorHello
    )
    lie = msgspec.structs.replace(answer, peer=COORDINATOR.peer)
    with pytest.raises(LinkBroken, match="signature"):
        node.feed(msgspec.msgpack.encode(lie))


@pytest.mark.parametrize("side", ["node", "coordinator"])
def test_another_version_is_named_by_the_side_that_sees_it(side: str) -> None:
    node, coordinator = pair()
    hello = msgspec.msgpack.decode(node.opening(), type=NodeHello)
    with pytest.raises(LinkBroken, match="version 2") as caught:
        if side == "coordinator":
            newer = msgspec.structs.replace(hello, version=2)
            coordinator.feed(msgspec.msgpack.encode(newer))
        else:
            answer = msgspec.msgpack.decode(coordinator.feed(node.opening()), type=CoordinatorHello)
            node.feed(msgspec.msgpack.encode(msgspec.structs.replace(answer, version=2)))
    assert caught.value.code is ProblemCode.LINK_REFUSED


@pytest.mark.parametrize("field", ["nonce", "ephemeral"])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_wrong_lengths_are_refused(field: str, length: int) -> None:
    node, coordinator = pair()
    hello = msgspec.msgpack.decode(node.opening(), type=NodeHello)
    bad = msgspec.structs.replace(hello, **{field: bytes(length)})
    with pytest.raises(LinkBroken, match="length"):
        coordinator.feed(msgspec.msgpack.encode(bad))


def proof_of(hello: NodeHello, answer: bytes, role: bytes) -> bytes:
    """A NodeProof by the node's own key under `role`."""
    theirs = msgspec.msgpack.decode(answer, type=CoordinatorHello)
    transcript = handshake._transcript(
        (NODE.public, COORDINATOR.public),
        (hello.nonce, theirs.nonce),
        (hello.ephemeral, theirs.ephemeral),
    )
    return msgspec.msgpack.encode(NodeProof(signature=NODE.sign(role + transcript)))


@pytest.mark.parametrize(
    ("role", "is_taken"),
    [(AS_NODE, True), (AS_COORDINATOR, False), (b"", False)],
)
def test_a_signature_counts_only_under_the_name_of_its_role(role: bytes, is_taken: bool) -> None:
    node, coordinator = pair()
    hello = msgspec.msgpack.decode(node.opening(), type=NodeHello)
    proof = proof_of(hello, coordinator.feed(node.opening()), role)
    if is_taken:
        coordinator.feed(proof)
        assert coordinator.seal is not None
    else:
        with pytest.raises(LinkBroken, match="signature"):
            coordinator.feed(proof)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order_is_refused_though_its_owner_signs_it(point: bytes) -> None:
    # The node is honest in everything but its ephemeral key: the shared secret would be public.
    coordinator = CoordinatorHandshake(COORDINATOR, b"2" * 64)
    hello = NodeHello(version=1, peer=NODE.peer, nonce=b"1" * 32, ephemeral=point)
    answer = coordinator.feed(msgspec.msgpack.encode(hello))
    with pytest.raises(LinkBroken, match="low order"):
        coordinator.feed(proof_of(hello, answer, AS_NODE))
    assert coordinator.seal is None
