"""Opening a pipe to another node: direct paths and the relay at once, and the shorter one taken.

Who dials tries every direct candidate while the relay comes up, times what answers, and says on
one of them that it is the one; who accepts answers on all and takes that one.
"""

from __future__ import annotations

import asyncio

from parhelion.identity import NodeKey
from parhelion.link.address import Address
from parhelion.link.broken import broken
from parhelion.link.messages import PairTicket
from parhelion.link.pair_channel import accept_channel, dial_channel
from parhelion.link.pair_direct import PairListener, TcpSocket, candidates, dial_direct
from parhelion.link.pair_frames import Kind, use
from parhelion.link.pair_pipe import PATIENCE, Patience, Pipe
from parhelion.link.pair_proof import SECRET_BYTES
from parhelion.link.pair_race import Race, Tried, choose
from parhelion.link.pair_relay import dial_relay

DIRECT_DEADLINE_S = 1.5
"""On one network an answer takes milliseconds; a firewall that drops everything never answers."""

OPEN_DEADLINE_S = 15.0
"""The relay's wait for the other node (10 s), and the handshake."""

ARRIVALS_LIMIT = 4
"""Direct connections with one ticket that are heard at once: one a candidate. Who replays knocks
fills them, and the relay remains."""


class Pairs:
    """A node's way to other nodes: its key, its coordinator's relay, and its own listener.

    `here` is this machine's address on the way to the coordinator (`Carrier.here`).
    """

    def __init__(
        self,
        key: NodeKey,
        address: Address,
        *,
        listener: PairListener | None = None,
        here: str | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self._key = key
        self._address = address
        self._listener = listener
        self._here = here
        self._patience = patience

    async def open(self, ticket: PairTicket) -> Pipe:
        """The pipe that the ticket is good for, measured and warm; LinkBroken with the cause."""
        if len(ticket.secret) != SECRET_BYTES:
            raise broken("the ticket's secret has a wrong length")
        way = self._dial if ticket.role == "dial" else self._accept
        try:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                chosen = await way(ticket)
        except TimeoutError as error:
            raise broken(f"the other node did not come within {OPEN_DEADLINE_S:g} s") from error
        pipe = Pipe(chosen.channel, chosen.rtt_s, self._patience)
        try:
            await pipe.warm()
        except BaseException:
            await pipe.close("not needed any more")
            raise
        return pipe

    async def _dial(self, ticket: PairTicket) -> Tried:
        direct = candidates(ticket.direct, self._here)
        ways = [self._dial_relay(ticket), *(self._dial_direct(one, ticket) for one in direct)]
        async with Race(*ways) as race:
            if direct:
                # A direct path may answer first and be the longer one.
                await race.all(DIRECT_DEADLINE_S)
            best = choose(await race.first())
            await best.channel.send(Kind.USE, use(best.rtt_s))
            race.kept = best.channel
            return best

    async def _dial_direct(self, candidate: str, ticket: PairTicket) -> Tried:
        try:
            async with asyncio.timeout(DIRECT_DEADLINE_S):
                socket = await dial_direct(candidate)
                return Tried(*await dial_channel(socket, self._key, ticket, "direct"))
        except TimeoutError as error:
            raise broken(f"no answer from {candidate} within {DIRECT_DEADLINE_S:g} s") from error

    async def _dial_relay(self, ticket: PairTicket) -> Tried:
        socket = await dial_relay(self._address, ticket, self._key.peer)
        return Tried(*await dial_channel(socket, self._key, ticket, "relay"))

    async def _accept(self, ticket: PairTicket) -> Tried:
        listener = self._listener
        async with Race(self._accept_relay(ticket)) as race:

            def take(socket: TcpSocket, hello: bytes) -> bool:
                if race.running > ARRIVALS_LIMIT:  # One of them is the relay.
                    return False
                race.add(self._accept_direct(socket, hello, ticket))
                return True

            try:
                if listener is not None:
                    listener.expect(ticket, take)
                first = (await race.first(more_may_come=listener is not None))[0]
            finally:
                if listener is not None:
                    listener.forget(ticket.link)
            race.kept = first.channel
            return first

    async def _accept_relay(self, ticket: PairTicket) -> Tried:
        socket = await dial_relay(self._address, ticket, self._key.peer)
        return Tried(*await accept_channel(socket, self._key, ticket, "relay"))

    async def _accept_direct(self, socket: TcpSocket, hello: bytes, ticket: PairTicket) -> Tried:
        return Tried(*await accept_channel(socket, self._key, ticket, "direct", hello))
