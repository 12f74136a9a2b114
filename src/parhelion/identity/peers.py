"""Peer ids: an Ed25519 public key in libp2p's written form, and what hangs on one.

`12D3KooW...` is base58btc of an identity multihash (0x00, length 0x24) over libp2p's protobuf of
the key (type 1 = Ed25519, 32 bytes). Each key has exactly one such text: 52 characters.
"""

from __future__ import annotations

from functools import lru_cache

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from parhelion.identity import base58
from parhelion.words import Problem, ProblemCode

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
PEER_PREFIX = bytes.fromhex("002408011220")
PEERS_KEPT = 4096
"""Peers whose key need not be decoded again: that costs half of what checking a signature does,
and every node signs all the time."""

PEER_CHARS = 52
"""The prefix fixes the size of the number, so every peer id has the same length."""


def peer_of(public: bytes) -> str:
    """The peer id of an Ed25519 public key."""
    if len(public) != PUBLIC_KEY_BYTES:
        raise _malformed(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, not {len(public)}")
    return base58.encode(PEER_PREFIX + public)


@lru_cache(maxsize=PEERS_KEPT)
def public_of(peer: str) -> bytes:
    """The public key that a peer id names; Problem INVALID_REQUEST for any other text."""
    if len(peer) != PEER_CHARS:
        raise _malformed(f"a peer id has {PEER_CHARS} characters, not {len(peer)}")
    try:
        raw = base58.decode(peer)
    except ValueError as error:
        raise _malformed(f"not a peer id: {error}") from error
    public = raw[len(PEER_PREFIX) :]
    # Encoding again is the proof that this is the one canonical text of this key.
    if (
        not raw.startswith(PEER_PREFIX)
        or len(public) != PUBLIC_KEY_BYTES
        or peer_of(public) != peer
    ):
        raise _malformed("not the peer id of an Ed25519 key")
    return public


def verify(peer: str, message: bytes, signature: bytes) -> bool:
    """Whether the key named by `peer` signed `message`; False for a malformed peer id too.

    libsodium refuses what would make a second valid signature or key of the same meaning:
    an S above the group's order, keys of small order and non-canonical points.
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_of(peer))
    except (BadSignatureError, Problem):
        return False
    return True


def operator_account(peer: str) -> str:
    """The ledger account that a node earns to until its operator links an account."""
    return f"node:{peer}"


def _malformed(message: str) -> Problem:
    return Problem(
        ProblemCode.INVALID_REQUEST,
        message,
        hint="a peer id looks like 12D3KooW... and is printed when a node or coordinator starts",
    )
