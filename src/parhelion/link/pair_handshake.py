"""The handshake of two nodes with a ticket: the link's own (`handshake`), bound to that ticket.

Both node keys sign role, both peer ids, both nonces, both ephemeral keys, the link's id, and a
hash of all that under the ticket's secret: a relay that knows every byte of it, and even the
secret, still cannot be either node, and a node with another ticket is not taken for this one.
"""

from __future__ import annotations

import functools

import msgspec

from parhelion.identity import NodeKey
from parhelion.link.handshake import Answerer, Opener, Parties
from parhelion.link.messages import PairAnswer, PairHandshake, PairHello, PairProof, PairTicket
from parhelion.link.pair_proof import SECRET_BYTES, binding

_DECODER = msgspec.msgpack.Decoder(PairHandshake)


class DialHandshake(Opener):
    """The side whose ticket says "dial": opens, and takes nobody but the ticket's peer."""

    def __init__(self, key: NodeKey, ticket: PairTicket, entropy: bytes | None = None) -> None:
        super().__init__(_parties(ticket), key, ticket.peer, entropy)


class AcceptHandshake(Answerer):
    """The side whose ticket says "accept": answers, and takes nobody but the ticket's peer."""

    def __init__(self, key: NodeKey, ticket: PairTicket, entropy: bytes | None = None) -> None:
        super().__init__(_parties(ticket), key, ticket.peer, entropy)


def _parties(ticket: PairTicket) -> Parties:
    if len(ticket.secret) != SECRET_BYTES:
        raise ValueError(f"a ticket's secret has {len(ticket.secret)} bytes, not {SECRET_BYTES}")
    return Parties(
        opener="dialling node",
        answerer="accepting node",
        context=b"parhelion pair handshake\0",
        decoder=_DECODER,
        hello=PairHello,
        answer=PairAnswer,
        proof=PairProof,
        hint_of_stranger="the coordinator names both nodes of a link; it makes a new one",
        bind=functools.partial(binding, ticket),
    )
