"""Fetch tokens: leave to read one slice of one artefact for a while, by a MAC of this process.

An artefact of an open model is no secret, but to serve it costs bandwidth: the coordinator gives a
token to the node that it tells to load a slice, and nobody else is served. Nothing is kept of one:
it holds its layers, its end and some randomness, and a MAC over these and the artefact's digest. A
coordinator that is started again has another secret, and its nodes are told to load again anyway.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from parhelion.identity.secrets import Entropy, bytes_of, text_of
from parhelion.words import Clock, Problem, ProblemCode

PREFIX = "fetch_"

TTL_S = 3600
"""A slice of 40 GB over 100 Mbit/s takes 53 minutes; what has begun when it ends goes on."""

SECRET_BYTES = 32
NONCE_BYTES = 8
MAC_BYTES = 32
_TOLD = struct.Struct(">IIQ8s")
"""First layer, the layer behind the last, the second of the end, randomness."""

TOKEN_CHARS = len(PREFIX) + -(-4 * (_TOLD.size + MAC_BYTES) // 3)

LAYERS_LIMIT = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Leave:
    """What a good token allows; `name` tells it from others, and is no part of its secret."""

    digest: str
    start: int
    end: int
    name: str


class FetchTokens:
    """Gives out fetch tokens, and tells its own from any others."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._secret = entropy(SECRET_BYTES)

    def issue(self, digest: str, start: int, end: int) -> str:
        """A token for layers [start, end) of the artefact, good for TTL_S from now."""
        assert 0 <= start < end <= LAYERS_LIMIT
        ends_s = self._clock.now_ms() // 1000 + TTL_S
        told = _TOLD.pack(start, end, ends_s, self._entropy(NONCE_BYTES))
        return PREFIX + text_of(told + self._mac(digest, told))

    def check(self, token: str, digest: str) -> Leave:
        """What this token allows of this artefact; Problem INVALID_API_KEY unless it is good."""
        told, mac = _parts(token)
        if told is None or not hmac.compare_digest(mac, self._mac(digest, told)):
            raise _refused("This fetch token is not one of ours for this artefact.")
        start, end, ends_s, nonce = _TOLD.unpack(told)
        if self._clock.now_ms() >= ends_s * 1000:
            raise _refused("This fetch token has expired.")
        return Leave(digest, start, end, nonce.hex())

    def _mac(self, digest: str, told: bytes) -> bytes:
        # The part of changing length stands last, so no two pairs are the same text.
        said = b"parhelion.fetch.1:" + told + digest.encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, said, "sha256")


def _parts(token: str) -> tuple[bytes | None, bytes]:
    if len(token) != TOKEN_CHARS or not token.startswith(PREFIX) or not token.isascii():
        return None, b""
    try:
        raw = bytes_of(token.removeprefix(PREFIX))
    except ValueError:
        return None, b""
    if len(raw) != _TOLD.size + MAC_BYTES:
        return None, b""
    return raw[: _TOLD.size], raw[_TOLD.size :]


def _refused(message: str) -> Problem:
    return Problem(
        ProblemCode.INVALID_API_KEY,
        message,
        hint="the coordinator gives a node one with the order to load a slice",
    )
