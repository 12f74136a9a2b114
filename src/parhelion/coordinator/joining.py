"""How a node becomes a member: its card, the pool's consent, a welcome or a goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from parhelion.coordinator.joiners import check_stay
from parhelion.coordinator.registry import Node, Room, check_card
from parhelion.identity import NodeAccess, Whence
from parhelion.link import Carrier, FromNode, Knock, NotTaken, Register, Welcome
from parhelion.words import Clock, NodeCard, Problem, ProblemCode

REGISTER_DEADLINE_S = 5.0
"""The first sealed frame follows the handshake at once."""

WELCOME_DEADLINE_S = 5.0

JOINING_LIMIT = 256
"""Handshaken sessions that have not registered yet; each holds a socket and little else. More than
the doorway of the API lets through: no address can fill it."""

CLOCK_APART_LIMIT_S = 300.0
"""Receipts carry the times of both: minutes apart they contradict each other. NTP holds clocks
within a second, and a certificate's dates want no better either."""


NO_SUCH_MODEL = "no model of the pool's catalogue has this file's digest"


class Door:
    """Lets nodes in: only with consent, only with a sane card, only for known models."""

    def __init__(
        self,
        access: NodeAccess,
        known: Callable[[str], bool],
        clock: Clock,
        heartbeat_s: float,
        fallback: str | None,
        own: Collection[str] = (),
    ) -> None:
        self._access = access
        self._fallback = fallback
        self._own = frozenset(own)
        self._known = known
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self.joining = 0

    async def register(
        self,
        carrier: Carrier[FromNode],
        coordinator: str,
        whence: Whence = "far",
        site: str = "",
    ) -> Node | Knock:
        """The node behind a fresh carrier, welcomed; Problem or LinkBroken when it is not.

        The knock of one that only knocked: it knows now that it may come.
        """
        if self.joining >= JOINING_LIMIT:
            raise Problem(
                ProblemCode.OVERLOADED, "too many nodes are joining", hint="try again later"
            )
        self.joining += 1
        try:
            heard = await self._hear_card(carrier, whence)
            rooms = {} if isinstance(heard, Knock) else heard[1]
            welcome = Welcome(
                coordinator=coordinator,
                heartbeat_s=self._heartbeat_s,
                accepted=tuple(rooms),
                refused=() if isinstance(heard, Knock) else not_taken(heard[0], rooms),
            )
            async with asyncio.timeout(WELCOME_DEADLINE_S):
                await carrier.send(welcome)
        except TimeoutError:
            # Not a refusal: a machine that is merely slow may try again.
            raise Problem(
                ProblemCode.DEADLINE_EXCEEDED,
                f"no registration within {REGISTER_DEADLINE_S:.0f} s",
                hint="the node is too slow or too far away; it tries again",
            ) from None
        finally:
            self.joining -= 1
        if isinstance(heard, Knock):
            self._access.refuse_now(carrier.peer)
            return heard
        card = heard[0]
        # Banned while it was being welcomed: nobody could end a session that was not one yet.
        self._access.refuse_now(card.peer)
        now_s = self._clock.monotonic_s()
        return Node(
            card=card,
            rooms=rooms,
            connected_at_ms=self._clock.now_ms(),
            heard_s=now_s,
            idle_since_s=now_s,
            site=site,
            fallback=card.peer == self._fallback,
            own=card.peer == self._fallback or card.peer in self._own,
        )

    def name_of(self, peer: str) -> str | None:
        """What a node was called when something was decided of it; None where nobody knows."""
        return self._access.name_of(peer)

    def is_drained(self, peer: str) -> bool:
        """Whether the pool's owner has drained this node."""
        return self._access.drains.reason(peer) is not None

    async def _hear_card(
        self, carrier: Carrier[FromNode], whence: Whence
    ) -> tuple[NodeCard, dict[str, Room]] | Knock:
        async with asyncio.timeout(REGISTER_DEADLINE_S):
            message = await carrier.receive()
        if isinstance(message, Knock):
            if message.stay is not None:
                check_stay(message.stay, carrier.peer)
            if carrier.peer != self._fallback:
                await self._access.consider(carrier.peer, message.invite, whence)
            return message
        if not isinstance(message, Register):
            raise Problem(
                ProblemCode.LINK_REFUSED,
                f"the first message must be register, not {type(message).__name__}",
                hint="the node's software is at fault",
            )
        check_clock(message.sent_at_ms, self._clock.now_ms())
        rooms = check_card(message.card, carrier.peer, self._known)
        # Consent comes last: an invite must not be spent on a card that is refused anyway.
        self._access.refuse_now(carrier.peer)
        if carrier.peer != self._fallback:
            await self._access.admit(carrier.peer, message.invite, whence, message.card.name)
        return message.card, rooms


def not_taken(card: NodeCard, taken: Collection[str]) -> tuple[NotTaken, ...]:
    """The offered models that get no job here, each with its reason, for the node's operator."""
    return tuple(
        NotTaken(digest=model.digest, reason=NO_SUCH_MODEL)
        for model in card.models
        if model.digest not in taken
    )


def check_clock(node_ms: int | None, now_ms: int) -> None:
    """Problem LINK_BROKEN when the node's clock is far from ours; it may be set, so it may pass."""
    if node_ms is None:
        return
    apart_s = (node_ms - now_ms) / 1000
    if abs(apart_s) > CLOCK_APART_LIMIT_S:
        way = "ahead of" if apart_s > 0 else "behind"
        raise Problem(
            ProblemCode.LINK_BROKEN,
            f"this node's clock is {abs(apart_s):.0f} s {way} the coordinator's",
            hint="set the time by NTP on both machines; the node tries again by itself",
        )
