"""Peer ids have one text each, and only the named key's signature counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from parhelion.identity import (
    NodeKey,
    base58,
    node_name,
    operator_account,
    peer_of,
    public_of,
    verify,
)
from parhelion.words import Problem, ProblemCode

PUBLIC = bytes(SigningKey(bytes(range(32))).verify_key)
ORDER = 2**252 + 27742317777372353535851937790883648493


def test_a_known_key_has_its_known_peer_id() -> None:
    # The Ed25519 key of libp2p's own peer-id specification and its text there.
    public = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    assert peer_of(public) == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


@given(st.binary(min_size=32, max_size=32))
def test_every_key_comes_back_from_its_peer_id(public: bytes) -> None:
    peer = peer_of(public)
    assert len(peer) == 52
    assert peer.startswith("12D3KooW")
    assert public_of(peer) == public


@given(st.binary(max_size=80))
def test_base58_gives_back_what_it_took(data: bytes) -> None:
    assert base58.decode(base58.encode(data)) == data


@given(st.text(alphabet=base58.ALPHABET, max_size=80))
def test_every_base58_text_is_the_only_one_of_its_bytes(text: str) -> None:
    assert base58.encode(base58.decode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        peer_of(PUBLIC)[:-1],
        peer_of(PUBLIC) + "1",
        "1" + peer_of(PUBLIC)[:-1],
        " " + peer_of(PUBLIC)[1:],
        peer_of(PUBLIC)[:-1] + "0",
        peer_of(PUBLIC)[:-1] + "é",
        peer_of(PUBLIC)[:-1] + "\n",
        # Another key type (2 = secp256k1) and another multihash, both of the right length.
        base58.encode(bytes.fromhex("002408021220") + PUBLIC),
        base58.encode(bytes.fromhex("002508011221") + PUBLIC[:31]),
        base58.encode(bytes.fromhex("122008011220") + PUBLIC),
        "Qm" + "x" * 50,
        "1" * 1_000_000,
        "z" * 52,
    ],
)
def test_what_is_not_the_one_text_of_a_key_is_refused(text: str) -> None:
    with pytest.raises(Problem) as problem:
        public_of(text)
    assert problem.value.code == ProblemCode.INVALID_REQUEST
    assert not verify(text, b"m", bytes(64))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_size_has_no_peer_id(size: int) -> None:
    with pytest.raises(Problem):
        peer_of(bytes(size))


def test_only_the_named_key_over_the_same_bytes_verifies() -> None:
    key, other = NodeKey(bytes(range(32))), NodeKey(bytes(32))
    signature = key.sign(b"message")
    assert verify(key.peer, b"message", signature)
    assert not verify(key.peer, b"massage", signature)
    assert not verify(other.peer, b"message", signature)
    assert not verify(key.peer, b"message", signature[:-1])
    assert not verify(key.peer, b"message", signature + b"\0")


def test_a_signature_has_no_second_form() -> None:
    key = NodeKey(bytes(range(32)))
    signature = key.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify(key.peer, b"message", signature[:32] + s.to_bytes(32, "little"))


def test_a_key_of_small_order_signs_nothing() -> None:
    # The neutral element as key and R with S = 0 satisfies the bare equation for any message.
    neutral = b"\x01" + bytes(31)
    assert not verify(peer_of(neutral), b"anything", neutral + bytes(32))


def test_names_and_accounts_follow_from_the_peer_id() -> None:
    key = NodeKey(bytes(range(32)))
    assert node_name(key.peer) == node_name(key.peer)
    adjective, animal, digits = node_name(key.peer).split("-")
    assert adjective.isalpha() and animal.isalpha() and len(digits) == 4
    assert node_name(key.peer) != node_name(NodeKey(bytes(32)).peer)
    assert operator_account(key.peer) == f"node:{key.peer}"
