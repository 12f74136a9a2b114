"""The handshake without I/O: bytes in, bytes out, and at the end a proven peer and a Seal.

Node: `opening()` -> feed(CoordinatorHello) gives the NodeProof. Coordinator: feed(NodeHello) gives
the CoordinatorHello, feed(NodeProof) ends it. Both sign one transcript that holds the version,
both public keys, both nonces and both ephemeral keys, each under the name of its own role, so no
signature is of use in another session, direction or role. Whatever is wrong raises LinkBroken,
and a handshake that failed stays failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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
from parhelion.link.messages import CoordinatorHello, Handshake, NodeHello, NodeProof
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

_NODE = b"parhelion link handshake\0node\0"
_COORDINATOR = b"parhelion link handshake\0coordinator\0"

_ANY = msgspec.msgpack.Decoder(Handshake)

M = TypeVar("M", NodeHello, CoordinatorHello, NodeProof)


class _Ephemeral:
    """This side's fresh nonce and X25519 key pair."""

    def __init__(self, entropy: bytes) -> None:
        if len(entropy) != ENTROPY_BYTES:
            raise ValueError(f"entropy is {len(entropy)} bytes, not {ENTROPY_BYTES}")
        self.nonce = entropy[:NONCE_BYTES]
        self.public, self.secret = crypto_kx_seed_keypair(entropy[NONCE_BYTES:])


class NodeHandshake:
    """The node's side; `expected_peer` is the coordinator that must answer, if one was named."""

    def __init__(
        self, key: NodeKey, expected_peer: str | None = None, entropy: bytes | None = None
    ) -> None:
        self._key = key
        self._expected = expected_peer
        self._mine = _Ephemeral(os.urandom(ENTROPY_BYTES) if entropy is None else entropy)
        self._over = False
        self.peer: str | None = None
        self.seal: Seal | None = None

    def opening(self) -> bytes:
        """The first message, NodeHello."""
        hello = NodeHello(
            version=LINK_VERSION,
            peer=self._key.peer,
            nonce=self._mine.nonce,
            ephemeral=self._mine.public,
        )
        return msgspec.msgpack.encode(hello)

    def feed(self, data: bytes) -> bytes:
        """Take the CoordinatorHello; the NodeProof to send, after which `seal` is there."""
        if self._over:
            raise refused("the handshake is over")
        self._over = True
        hello = _decode(data, CoordinatorHello)
        _check_hello(hello, "coordinator", self._key, self._mine)
        if self._expected is not None and hello.peer != self._expected:
            raise refused(
                f"another coordinator answered: {hello.peer}, not {self._expected}",
                hint="take the join command again from the coordinator you mean",
            )
        theirs = public_of(hello.peer)
        transcript = _transcript(
            (self._key.public, theirs),
            (self._mine.nonce, hello.nonce),
            (self._mine.public, hello.ephemeral),
        )
        _check_signature("coordinator", hello.peer, _COORDINATOR + transcript, hello.signature)
        receive_key, send_key = _session_keys(
            crypto_kx_client_session_keys, self._mine, hello.ephemeral
        )
        self.seal = Seal(send_key, receive_key)
        self.peer = hello.peer
        proof = NodeProof(signature=self._key.sign(_NODE + transcript))
        return msgspec.msgpack.encode(proof)


class CoordinatorHandshake:
    """The coordinator's side; `seal` and `peer` are there once the node's proof held."""

    def __init__(self, key: NodeKey, entropy: bytes | None = None) -> None:
        self._key = key
        self._mine = _Ephemeral(os.urandom(ENTROPY_BYTES) if entropy is None else entropy)
        self._hello: NodeHello | None = None
        self._transcript = b""
        self._over = False
        self.peer: str | None = None
        self.seal: Seal | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the node's next message; what to send back (nothing after the proof)."""
        if self._over:
            raise refused("the handshake is over")
        try:
            return self._meet(data) if self._hello is None else self._conclude(self._hello, data)
        except LinkBroken:
            self._over = True
            raise

    def _meet(self, data: bytes) -> bytes:
        hello = _decode(data, NodeHello)
        _check_hello(hello, "node", self._key, self._mine)
        self._transcript = _transcript(
            (public_of(hello.peer), self._key.public),
            (hello.nonce, self._mine.nonce),
            (hello.ephemeral, self._mine.public),
        )
        self._hello = hello
        answer = CoordinatorHello(
            version=LINK_VERSION,
            peer=self._key.peer,
            nonce=self._mine.nonce,
            ephemeral=self._mine.public,
            signature=self._key.sign(_COORDINATOR + self._transcript),
        )
        return msgspec.msgpack.encode(answer)

    def _conclude(self, hello: NodeHello, data: bytes) -> bytes:
        proof = _decode(data, NodeProof)
        _check_signature("node", hello.peer, _NODE + self._transcript, proof.signature)
        receive_key, send_key = _session_keys(
            crypto_kx_server_session_keys, self._mine, hello.ephemeral
        )
        self.seal = Seal(send_key, receive_key)
        self.peer = hello.peer
        self._over = True
        return b""


def _decode(data: bytes, kind: type[M]) -> M:
    if len(data) > HELLO_LIMIT_BYTES:
        raise broken(f"a handshake message of {len(data)} bytes")
    try:
        # As one of the union: msgspec lets a lone struct come without its tag.
        message = _ANY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_ours(kind, str(error)) from error
    if not isinstance(message, kind):
        raise _not_ours(kind, f"{type(message).__name__} instead")
    return message


def _not_ours(kind: type[M], why: str) -> LinkBroken:
    return broken(
        f"not a {kind.__name__} message: {why}",
        hint="the other side is not a Parhelion node or coordinator, or the bytes were altered",
    )


def _check_hello(
    hello: NodeHello | CoordinatorHello, who: str, key: NodeKey, mine: _Ephemeral
) -> None:
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
            hint="node and coordinator each need a key of their own; never copy a key file",
        )


def _check_signature(who: str, peer: str, message: bytes, signature: bytes) -> None:
    if len(signature) != SIGNATURE_BYTES or not verify(peer, message, signature):
        raise broken(
            f"the {who}'s signature does not hold: altered, replayed, or not the owner of {peer}"
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
