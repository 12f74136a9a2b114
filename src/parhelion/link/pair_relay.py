"""The relayed path: an outbound WebSocket to the coordinator, which joins it to the other node's.

The relay asks a fresh challenge and is answered with a proof of the ticket; what follows is
between the two nodes alone, and sealed.
"""

from __future__ import annotations

import re

from parhelion.link.address import Address
from parhelion.link.broken import (
    CLOSE_REFUSED,
    ConnectionClosed,
    LinkBroken,
    broken,
    closing_cause,
    shut,
)
from parhelion.link.dial import AiohttpSocket, dial
from parhelion.link.messages import PairTicket
from parhelion.link.pair_proof import CHALLENGE_BYTES, relay_proof
from parhelion.words import Problem

_PATH = re.compile(r"(/[A-Za-z0-9_-]{1,32}){1,4}")


async def dial_relay(
    address: Address, ticket: PairTicket, peer: str, source: str | None = None
) -> AiohttpSocket:
    """A socket whose other end is the other node, once it comes; LinkBroken with the cause.

    `peer` is this node. The caller has a deadline.
    """
    if not _PATH.fullmatch(ticket.relay):
        raise broken("the ticket names no path of a relay")
    try:
        socket = await dial(address, source, ticket.relay)
    except Problem as problem:
        raise LinkBroken(problem.code, f"relay: {problem.message}", problem.hint) from problem
    try:
        challenge = await socket.receive()
        if len(challenge) != CHALLENGE_BYTES:
            raise broken(f"the relay asks with {len(challenge)} bytes")
        await socket.send(relay_proof(ticket, peer, challenge))
    except ConnectionClosed as closed:
        await shut(socket, CLOSE_REFUSED, "")
        raise closing_cause(closed) from closed
    except BaseException:
        await shut(socket, CLOSE_REFUSED, "not needed any more")
        raise
    return socket
