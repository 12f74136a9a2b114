"""The handshake without I/O: bytes in, bytes out, and at the end a proven peer and a Seal.

Who opens: `opening()` -> feed(answer) gives the proof. Who answers: feed(hello) gives the answer,
feed(proof) ends it. Both sign one transcript that holds the version, both public keys, both nonces
and both ephemeral keys, each under the name of its own role, so no signature is of use in another
session, direction or role. Whatever is wrong raises LinkBroken, and a handshake that failed stays
failed. Node and coordinator are one such pair of parties; two nodes (`pair_handshake`) another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import nacl.exceptions
from nacl.bindings import (
    crypto_kx_client_session_keys,
    crypto_kx_seed_keypair,
    crypto_kx_server_session_keys,
)

from parhelion.identity import NodeKey, public_of, verify
from parhelion.link.broken import LinkBroken, broken, refused
from parhelion.link.messages import (
    Answer,
    CoordinatorHello,
    Handshake,
    Hello,
    NodeHello,
    NodeProof,
    PairHandshake,
    Proof,
)
from parhelion.link.seal import Seal
from parhelion.words import Problem

LINK_VERSION = 1
NONCE_BYTES = 32
EPHEMERAL_BYTES = 32
SIGNATURE_BYTES = 64
ENTROPY_BYTES = NONCE_BYTES + 32
"""A nonce and the seed of an ephemeral key."""

HELLO_LIMIT_BYTES = 1024
"""The largest of the three messages is under 300 bytes."""

M = TypeVar("M", Hello, Answer, Proof)


@dataclass(frozen=True, slots=True)
class Parties:
    """Who meets: the names that both sides sign under, and the three messages between them.

    `bind` gives what both sides know beside the transcript; it is signed with it.
    """

    opener: str
    answerer: str
    context: bytes
    decoder: msgspec.msgpack.Decoder[Handshake] | msgspec.msgpack.Decoder[PairHandshake]
    hello: type[Hello]
    answer: type[Answer]
    proof: type[Proof]
    hint_of_stranger: str
    bind: Callable[[bytes], bytes] = lambda transcript: b""

    def signed(self, role: str, transcript: bytes) -> bytes:
        """What the side of this role signs."""
        return self.context + role.encode() + b"\0" + transcript + self.bind(transcript)


NODE_AND_COORDINATOR = Parties(
    opener="node",
    answerer="coordinator",
    context=b"parhelion link handshake\0",
    # As a union: msgspec lets a lone struct come without its tag.
    decoder=msgspec.msgpack.Decoder(Handshake),
    hello=NodeHello,
    answer=CoordinatorHello,
    proof=NodeProof,
    hint_of_stranger="take the join command again from the coordinator you mean",
)


class _Ephemeral:
    """This side's fresh nonce and X25519 key pair."""

    def __init__(self, entropy: bytes | None) -> None:
        entropy = os.urandom(ENTROPY_BYTES) if entropy is None else entropy
        if len(entropy) != ENTROPY_BYTES:
            raise ValueError(f"entropy is {len(entropy)} bytes, not {ENTROPY_BYTES}")
        self.nonce = entropy[:NONCE_BYTES]
        self.public, self.secret = crypto_kx_seed_keypair(entropy[NONCE_BYTES:])


class Opener:
    """The side that speaks first; `expected` is the peer that must answer, if one was named."""

    def __init__(
        self,
        parties: Parties,
        key: NodeKey,
        expected: str | None = None,
        entropy: bytes | None = None,
    ) -> None:
        self._parties = parties
        self._key = key
        self._expected = expected
        self._mine = _Ephemeral(entropy)
        self._over = False
        self.peer: str | None = None
        self.seal: Seal | None = None

    def opening(self) -> bytes:
        """The first message."""
        hello = self._parties.hello(
            version=LINK_VERSION,
            peer=self._key.peer,
            nonce=self._mine.nonce,
            ephemeral=self._mine.public,
        )
        return msgspec.msgpack.encode(hello)

    def feed(self, data: bytes) -> bytes:
        """Take the answer; the proof to send, after which `seal` is there."""
        if self._over:
            raise refused("the handshake is over")
        self._over = True
        parties = self._parties
        answer = _decode(data, parties, parties.answer)
        _check_hello(answer, parties.answerer, self._key, self._mine)
        _check_expected(parties, answer.peer, parties.answerer, self._expected)
        transcript = _transcript(
            (self._key.public, public_of(answer.peer)),
            (self._mine.nonce, answer.nonce),
            (self._mine.public, answer.ephemeral),
        )
        _check_signature(parties, parties.answerer, answer.peer, transcript, answer.signature)
        receive_key, send_key = _session_keys(
            crypto_kx_client_session_keys, self._mine, answer.ephemeral
        )
        self.seal = Seal(send_key, receive_key)
        self.peer = answer.peer
        signature = self._key.sign(parties.signed(parties.opener, transcript))
        return msgspec.msgpack.encode(parties.proof(signature=signature))


class Answerer:
    """The side that is spoken to; `seal` and `peer` are there once the opener's proof held."""

    def __init__(
        self,
        parties: Parties,
        key: NodeKey,
        expected: str | None = None,
        entropy: bytes | None = None,
    ) -> None:
        self._parties = parties
        self._key = key
        self._expected = expected
        self._mine = _Ephemeral(entropy)
        self._hello: Hello | None = None
        self._transcript = b""
        self._over = False
        self.peer: str | None = None
        self.seal: Seal | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the opener's next message; what to send back (nothing after the proof)."""
        if self._over:
            raise refused("the handshake is over")
        try:
            return self._meet(data) if self._hello is None else self._conclude(self._hello, data)
        except LinkBroken:
            self._over = True
            raise

    def _meet(self, data: bytes) -> bytes:
        parties = self._parties
        hello = _decode(data, parties, parties.hello)
        _check_hello(hello, parties.opener, self._key, self._mine)
        _check_expected(parties, hello.peer, parties.opener, self._expected)
        self._transcript = _transcript(
            (public_of(hello.peer), self._key.public),
            (hello.nonce, self._mine.nonce),
            (hello.ephemeral, self._mine.public),
        )
        self._hello = hello
        signature = self._key.sign(parties.signed(parties.answerer, self._transcript))
        answer = parties.answer(
            version=LINK_VERSION,
            peer=self._key.peer,
            nonce=self._mine.nonce,
            ephemeral=self._mine.public,
            signature=signature,
        )
        return msgspec.msgpack.encode(answer)

    def _conclude(self, hello: Hello, data: bytes) -> bytes:
        parties = self._parties
        proof = _decode(data, parties, parties.proof)
        _check_signature(parties, parties.opener, hello.peer, self._transcript, proof.signature)
        receive_key, send_key = _session_keys(
            crypto_kx_server_session_keys, self._mine, hello.ephemeral
        )
        self.seal = Seal(send_key, receive_key)
        self.peer = hello.peer
        self._over = True
        return b""


class NodeHandshake(Opener):
    """The node's side; `expected_peer` is the coordinator that must answer, if one was named."""

    def __init__(
        self, key: NodeKey, expected_peer: str | None = None, entropy: bytes | None = None
    ) -> None:
        super().__init__(NODE_AND_COORDINATOR, key, expected_peer, entropy)


class CoordinatorHandshake(Answerer):
    """The coordinator's side: any node may speak; who is let in is decided afterwards."""

    def __init__(self, key: NodeKey, entropy: bytes | None = None) -> None:
        super().__init__(NODE_AND_COORDINATOR, key, None, entropy)


def _decode(data: bytes, parties: Parties, kind: type[M]) -> M:
    if len(data) > HELLO_LIMIT_BYTES:
        raise broken(f"a handshake message of {len(data)} bytes")
    try:
        message = parties.decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_ours(parties, kind, str(error)) from error
    if not isinstance(message, kind):
        raise _not_ours(parties, kind, f"{type(message).__name__} instead")
    return message


def _not_ours(parties: Parties, kind: type[M], why: str) -> LinkBroken:
    return broken(
        f"not a {kind.__name__} message: {why}",
        hint=f"the other side is not a Parhelion {parties.opener} or {parties.answerer}, "
        "or the bytes were altered",
    )


def _check_hello(hello: Hello, who: str, key: NodeKey, mine: _Ephemeral) -> None:
    if hello.version != LINK_VERSION:
        raise refused(
            f"the {who} speaks version {hello.version} of the link, this side {LINK_VERSION}",
            hint="install the same Parhelion on both sides",
        )
    if len(hello.nonce) != NONCE_BYTES or len(hello.ephemeral) != EPHEMERAL_BYTES:
        raise broken(f"the {who}'s nonce or ephemeral key has a wrong length")
    try:
        public_of(hello.peer)
    except Problem as problem:
        raise broken(f"the {who}'s peer id is wrong: {problem.message}") from problem
    if hello.peer == key.peer or hello.nonce == mine.nonce or hello.ephemeral == mine.public:
        raise refused(
            f"the {who} shows this side's own key: a reflection, or one key on two sides",
            hint="both sides need a key of their own; never copy a key file",
        )


def _check_expected(parties: Parties, peer: str, who: str, expected: str | None) -> None:
    if expected is not None and peer != expected:
        raise refused(
            f"another {who} answered: {peer}, not {expected}", hint=parties.hint_of_stranger
        )


def _check_signature(
    parties: Parties, role: str, peer: str, transcript: bytes, signature: bytes
) -> None:
    message = parties.signed(role, transcript)
    if len(signature) != SIGNATURE_BYTES or not verify(peer, message, signature):
        raise broken(
            f"the {role}'s signature does not hold: altered, replayed, or not the owner of {peer}"
        )


def _session_keys(
    derive: Callable[[bytes, bytes, bytes], tuple[bytes, bytes]], mine: _Ephemeral, theirs: bytes
) -> tuple[bytes, bytes]:
    try:
        receive_key, send_key = derive(mine.public, mine.secret, theirs)
    except nacl.exceptions.CryptoError as error:
        # libsodium refuses points of low order, for which the secret would be known to all.
        raise broken("the other side's ephemeral key is of low order") from error
    return receive_key, send_key


def _transcript(
    publics: tuple[bytes, bytes], nonces: tuple[bytes, bytes], ephemerals: tuple[bytes, bytes]
) -> bytes:
    # Every part has a fixed length, so no two transcripts share their bytes.
    parts = [*publics, *nonces, *ephemerals]
    assert [len(part) for part in parts] == [32] * 6
    return LINK_VERSION.to_bytes(2, "big") + b"".join(parts)
