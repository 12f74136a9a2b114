"""What a pair's ticket proves, without I/O: keyed hashes under its secret, one for each use.

The secret itself never travels between nodes, nor to the relay: who knows a link's id, or has
listened to an earlier proof, can neither take a side of it nor be taken for one.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeVar

import msgspec

from parhelion.link.broken import broken
from parhelion.link.messages import PairTicket
from parhelion.words import Record

SECRET_BYTES = 32
MAC_BYTES = 32
CHALLENGE_BYTES = 32

LINK_LIMIT_CHARS = 64
"""An id of ours has 31 characters."""

PROOF_LIMIT_BYTES = 1024
"""A link's id, a peer id, a hash, and the hello beside them: under 500 bytes."""

_RELAY = b"parhelion pair relay\0"
_DIRECT = b"parhelion pair direct\0"
_BOUND = b"parhelion pair handshake\0"


class RelayProof(Record, frozen=True, kw_only=True):
    """The answer to the relay's challenge: this side of this link is mine."""

    link: str
    peer: str
    mac: bytes


class DirectKnock(Record, frozen=True, kw_only=True):
    """The first frame of a direct connection: the ticket's proof, and the handshake's hello."""

    link: str
    mac: bytes
    hello: bytes


P = TypeVar("P", RelayProof, DirectKnock)

_RELAY_PROOF = msgspec.msgpack.Decoder(RelayProof)
_KNOCK = msgspec.msgpack.Decoder(DirectKnock)


def relay_key(secret: bytes) -> bytes:
    """What the relay keeps of a ticket's secret: enough to check a proof, and nothing else."""
    return _mac(secret, _RELAY)


def relay_proof(ticket: PairTicket, peer: str, challenge: bytes) -> bytes:
    """The answer of node `peer` to the relay's challenge."""
    mac = relay_mac(relay_key(ticket.secret), ticket.link, peer, challenge)
    return msgspec.msgpack.encode(RelayProof(link=ticket.link, peer=peer, mac=mac))


def relay_mac(key: bytes, link: str, peer: str, challenge: bytes) -> bytes:
    """The keyed hash of a RelayProof; the challenge is fresh, so no proof serves twice."""
    return _mac(key, challenge, link.encode(), peer.encode())


def read_relay_proof(frame: bytes) -> RelayProof:
    """The proof in a frame from anybody; LinkBroken when there is none."""
    proof = _read(frame, _RELAY_PROOF)
    if len(proof.link) > LINK_LIMIT_CHARS or len(proof.mac) != MAC_BYTES:
        raise broken("not a proof for the relay: a wrong length")
    return proof


def knock(ticket: PairTicket, hello: bytes) -> bytes:
    """The first frame of a direct connection."""
    mac = knock_mac(ticket, hello)
    return msgspec.msgpack.encode(DirectKnock(link=ticket.link, mac=mac, hello=hello))


def knock_mac(ticket: PairTicket, hello: bytes) -> bytes:
    """The keyed hash of a DirectKnock; a replayed one gets no further than its stale hello."""
    return _mac(ticket.secret, _DIRECT, ticket.link.encode(), hello)


def read_knock(frame: bytes) -> DirectKnock:
    """The knock in a frame from anybody; LinkBroken when there is none."""
    heard = _read(frame, _KNOCK)
    if len(heard.link) > LINK_LIMIT_CHARS or len(heard.mac) != MAC_BYTES:
        raise broken("not a knock: a wrong length")
    return heard


def binding(ticket: PairTicket, transcript: bytes) -> bytes:
    """What both nodes sign beside the transcript: the link's id, and a hash under its secret."""
    link = ticket.link.encode()
    return len(link).to_bytes(2, "big") + link + _mac(ticket.secret, _BOUND, link, transcript)


def same(one: bytes, other: bytes) -> bool:
    """Whether two hashes are equal, in constant time."""
    return hmac.compare_digest(one, other)


def _mac(key: bytes, *parts: bytes) -> bytes:
    made = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        # With its length, so that no two lists of parts share their bytes.
        made.update(len(part).to_bytes(4, "big") + part)
    return made.digest()


def _read(frame: bytes, decoder: msgspec.msgpack.Decoder[P]) -> P:
    if len(frame) > PROOF_LIMIT_BYTES:
        raise broken(f"a proof of {len(frame)} bytes")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise broken(f"not a proof: {error}") from error
