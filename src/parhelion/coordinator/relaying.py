"""The relay of links between nodes: two sockets that prove one ticket, joined and counted.

It copies sealed frames and can read none of them. One frame a direction is held, so a side that
reads slowly slows the other down and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from parhelion.link import (
    CHALLENGE_BYTES,
    CLOSE_NORMAL,
    CLOSE_REFUSED,
    SEALED_LIMIT_BYTES,
    SECRET_BYTES,
    ByteSocket,
    ConnectionClosed,
    LinkBroken,
    PairTicket,
    clipped,
    read_relay_proof,
    relay_key,
    relay_mac,
    same,
    shut,
)
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, Record, mint

PROOF_DEADLINE_S = 5.0
"""From the challenge to its answer; like a node's own handshake."""

PAIRING_DEADLINE_S = 10.0
"""How long one side waits for the other: both got their tickets at once."""

TAKE_DEADLINE_S = 15.0
"""A side that takes no frame for so long ends the link; the other node's own deadline (10 s) is
shorter, so that the nodes know the cause first."""

LINKS_LIMIT = 512
"""Links in all, waiting and open: with two frames of 128 kB held each, and what their sockets
buffer, half a gigabyte at the very worst."""

LINKS_PER_NODE_LIMIT = 32
"""Two a pipeline, twice while it is rebuilt: eight pipelines a node."""

TICKET_S = 30.0
"""From handing out a ticket to its use."""

log = logging.getLogger("parhelion.coordinator")


class RelayView(Record, frozen=True, kw_only=True):
    """A link as the relay sees it; the bytes are sealed ones, from each side."""

    link: str
    dial: str
    accept: str
    open: bool
    dial_bytes: int
    accept_bytes: int


@dataclass(slots=True, eq=False)
class _Link:
    """A link that was promised: its two nodes, who of them is here, and how it ended."""

    id: str
    key: bytes
    peers: tuple[str, str]
    expires_s: float
    ended: asyncio.Future[str]
    here: dict[str, ByteSocket] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    both: asyncio.Event = field(default_factory=asyncio.Event)
    bytes: dict[str, int] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    def other(self, peer: str) -> str:
        """The other side."""
        return self.peers[1] if peer == self.peers[0] else self.peers[0]

    def end(self, cause: str) -> None:
        """End it for both sides; the first cause counts."""
        if not self.ended.done():
            self.ended.set_result(cause)


class Relays:
    """Every link that the coordinator has promised to two of its nodes."""

    def __init__(
        self,
        clock: Clock,
        entropy: Callable[[int], bytes],
        *,
        limit: int = LINKS_LIMIT,
        node_limit: int = LINKS_PER_NODE_LIMIT,
        pairing_s: float = PAIRING_DEADLINE_S,
        take_s: float = TAKE_DEADLINE_S,
    ) -> None:
        self.relayed_bytes = 0
        """Over all links, since the start."""
        self._clock = clock
        self._entropy = entropy
        self._limit = limit
        self._node_limit = node_limit
        self._pairing_s = pairing_s
        self._take_s = take_s
        self._links: dict[str, _Link] = {}

    def register(
        self, link: str, secret: bytes, dial: str, accept: str, expires_s: float = TICKET_S
    ) -> None:
        """Let these two nodes meet once under this link's id, each with a proof of its secret.

        Problem OVERLOADED when too many links are open or promised, in all or to one of them.
        """
        if link in self._links or dial == accept:
            raise ValueError("a link has an id of its own, and two ends")
        self._forget_expired()
        if len(self._links) >= self._limit:
            raise _too_many("the relay carries as many links as it may")
        for peer in (dial, accept):
            if sum(peer in one.peers for one in self._links.values()) >= self._node_limit:
                raise _too_many(f"the node {peer} has as many links as it may")
        self._links[link] = _Link(
            id=link,
            key=relay_key(secret),
            peers=(dial, accept),
            expires_s=self._clock.monotonic_s() + expires_s,
            ended=asyncio.get_running_loop().create_future(),
        )

    def issue(
        self, dial: str, accept: str, direct: tuple[str, ...] = ()
    ) -> tuple[PairTicket, PairTicket]:
        """Register a new link; the dialling node's ticket, and the accepting node's.

        `direct` is where the accepting node listens. Problem as `register` has it.
        """
        link = mint("link", self._clock.now_ms(), self._entropy(ID_ENTROPY_BYTES))
        secret = self._entropy(SECRET_BYTES)
        self.register(link, secret, dial, accept)
        ticket = PairTicket(link=link, secret=secret, peer=accept, role="dial", direct=direct)
        return ticket, msgspec.structs.replace(ticket, peer=dial, role="accept", direct=())

    def withdraw(self, link: str, reason: str) -> None:
        """End a link, or let nobody use its tickets any more; harmless when it is over."""
        found = self._links.pop(link, None)
        if found is not None:
            found.end(reason)

    def withdraw_node(self, peer: str, reason: str) -> None:
        """End every link of a node."""
        for link in [one.id for one in self._links.values() if peer in one.peers]:
            self.withdraw(link, reason)

    def views(self) -> tuple[RelayView, ...]:
        """Every link that is open or promised."""
        self._forget_expired()
        return tuple(
            RelayView(
                link=one.id,
                dial=one.peers[0],
                accept=one.peers[1],
                open=one.both.is_set(),
                dial_bytes=one.bytes.get(one.peers[0], 0),
                accept_bytes=one.bytes.get(one.peers[1], 0),
            )
            for one in self._links.values()
        )

    async def attend(self, socket: ByteSocket, proven: Callable[[], None] = lambda: None) -> None:
        """Serve one socket until its link ends; `proven` is called when it has shown its ticket.

        The socket is closed with the cause in any case.
        """
        try:
            link, peer = await self._prove(socket)
        except (LinkBroken, ConnectionClosed, TimeoutError) as error:
            cause = "no proof in time" if isinstance(error, TimeoutError) else str(error)
            log.info("a socket for a link is refused", extra={"cause": clipped(cause)})
            await shut(socket, CLOSE_REFUSED, cause)
            return
        proven()
        try:
            cause = await self._carry(link, peer, socket)
        finally:
            link.end("the relay stopped")
            if self._links.get(link.id) is link:
                del self._links[link.id]
        await shut(socket, CLOSE_NORMAL, cause)

    async def _prove(self, socket: ByteSocket) -> tuple[_Link, str]:
        challenge = self._entropy(CHALLENGE_BYTES)
        async with asyncio.timeout(PROOF_DEADLINE_S):
            await socket.send(challenge)
            proof = read_relay_proof(await socket.receive())
        self._forget_expired()
        link = self._links.get(proof.link)
        # One answer for all that is wrong: a guess must not learn which links there are.
        if (
            link is None
            or proof.peer not in link.peers
            or not same(proof.mac, relay_mac(link.key, link.id, proof.peer, challenge))
        ):
            raise LinkBroken(ProblemCode.LINK_REFUSED, "no ticket of this relay is proven")
        if proof.peer in link.used:
            raise LinkBroken(ProblemCode.LINK_REFUSED, "this side of the link was taken before")
        return link, proof.peer

    async def _carry(self, link: _Link, peer: str, socket: ByteSocket) -> str:
        """Copy what this side says to the other until the link ends; why it did."""
        link.used.add(peer)
        link.here[peer] = socket
        if len(link.here) == len(link.peers):
            if link.timer is not None:
                link.timer.cancel()
            link.both.set()
        else:
            late = f"the other node did not come within {self._pairing_s:g} s"
            loop = asyncio.get_running_loop()
            link.timer = loop.call_later(self._pairing_s, link.end, late)
        pump = asyncio.create_task(self._pump(link, peer, socket), name=f"relay-{peer[-6:]}")
        try:
            # Shielded: a cancelled wait would else take the future along.
            return await asyncio.shield(link.ended)
        finally:
            if link.timer is not None:
                link.timer.cancel()
            pump.cancel()
            await asyncio.wait([pump])

    async def _pump(self, link: _Link, peer: str, socket: ByteSocket) -> None:
        other = link.other(peer)
        try:
            async with asyncio.timeout(None) as deadline:
                loop = asyncio.get_running_loop()
                while True:
                    frame = await socket.receive()
                    if len(frame) > SEALED_LIMIT_BYTES:
                        link.end(f"a frame of {len(frame)} bytes, over {SEALED_LIMIT_BYTES}")
                        return
                    await link.both.wait()
                    deadline.reschedule(loop.time() + self._take_s)
                    await link.here[other].send(frame)
                    deadline.reschedule(None)
                    link.bytes[peer] = link.bytes.get(peer, 0) + len(frame)
                    self.relayed_bytes += len(frame)
        except TimeoutError:
            link.end(f"a side took nothing for {self._take_s:g} s")
        except ConnectionClosed:
            link.end("the other node's connection closed")
        except LinkBroken as broken:
            link.end(broken.message)
        except Exception:
            # A bug of ours ends one link, not two nodes' sessions.
            log.exception("a relayed link failed", extra={"link": link.id})
            link.end("the relay failed")

    def _forget_expired(self) -> None:
        now_s = self._clock.monotonic_s()
        for link in [one.id for one in self._links.values() if one.expires_s <= now_s]:
            if len(self._links[link].used) < len(self._links[link].peers):
                self.withdraw(link, "its tickets expired")


def _too_many(message: str) -> Problem:
    return Problem(
        ProblemCode.OVERLOADED, message, hint="wait until a pipeline is gone", retry_after_s=10
    )
